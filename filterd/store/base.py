"""The store's contract: what every message store promises, whatever it keeps its bytes in.

All methods block and are called from a pool, one caller at a time per account (``filterd.store.jobs``); several
processes may have the same account open, so nothing read earlier is believed after the writer lock was let go.

Flags are a bit mask: bits 0-4 are the system flags below, bits 5 and up are the mailbox's keywords, in the order of
``Snapshot.keywords``. UIDs are 1..2^32-1, never reused; modseqs are 1..2^63-1 and grow with each change of a mailbox.

Promises: what a method returned from is durable where its docstring says so; no UID or modseq is handed out twice, not
even after the power failed; a message is visible whole or not at all.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

SEEN, ANSWERED, FLAGGED, DELETED, DRAFT = 1, 2, 4, 8, 16
SYSTEM_FLAGS: tuple[str, ...] = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft")
FIRST_KEYWORD_BIT = 5
MAX_KEYWORDS = 58  # per mailbox; 63-bit masks in the index
SEPARATOR = "/"
MAX_NAME_OCTETS = 240  # of a whole mailbox name, UTF-8
MAX_DEPTH = 16  # levels of hierarchy


class StoreError(Exception):
    """Base: the operation did not happen, nothing is half done. ``code`` is the IMAP response code that fits."""

    code = ""


class NoSuchMailbox(StoreError):
    code = "NONEXISTENT"


class NoPermission(NoSuchMailbox):
    """It is there, and may be known of, but not be used so (``acl``). Whoever leaves out what is not there leaves it out too."""

    code = "NOPERM"


class MailboxExists(StoreError):
    code = "ALREADYEXISTS"


class BadName(StoreError):
    code = "CANNOT"


class OverQuota(StoreError):
    code = "OVERQUOTA"


class LimitReached(StoreError):
    code = "LIMIT"


class StoreUnavailable(StoreError):
    """The disk or the index failed; try again later (4xx, NO [UNAVAILABLE])."""

    code = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class MailboxInfo:
    """``id`` 16 hex characters, kept over renames (RFC 8474 MAILBOXID); ``name`` Unicode with ``/``, INBOX upper case."""

    id: str
    name: str
    uidvalidity: int
    special_use: str = ""  # "\\Junk" or ""
    subscribed: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    messages: int
    unseen: int
    recent: int
    uidnext: int
    uidvalidity: int
    highestmodseq: int
    size: int
    deleted: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A mailbox at ``modseq``. Arrays are shared between readers and never changed: replace, do not edit.

    ``uids`` array('I') ascending; ``flags`` array('Q') beside it.
    """

    info: MailboxInfo
    modseq: int
    uidnext: int
    uids: array[int]
    flags: array[int]
    keywords: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened after a modseq. ``flags``: (uid, mask, modseq) of messages that already existed then."""

    modseq: int
    uidnext: int
    appended: tuple[tuple[int, int], ...]  # (uid, flags), ascending
    flags: tuple[tuple[int, int, int], ...]  # ascending by uid
    expunged: tuple[int, ...]  # ascending; of those that existed then
    keywords: tuple[str, ...]
    complete: bool = True  # False: the record of expunged messages does not reach back; take a new snapshot
    fleeting: tuple[int, ...] = ()  # ascending; came and were expunged since


@dataclass(slots=True)
class Facts:
    """What never changes of a snapshot's messages, beside its ``uids``: virtual sizes array('Q'), INTERNALDATEs array('q').

    Shared like the snapshot. ``shown`` is for who renders the dates: of the first messages, kept as long as they are the first.
    """

    sizes: array[int]
    dates: array[int]
    shown: list[bytes] | None = None


@dataclass(frozen=True, slots=True)
class HeaderTexts:
    """The values of one header field of all messages of a snapshot, decoded and case-folded, in one UTF-8 text.

    The fields of the message at position i are ``text[starts[i]:starts[i + 1]]``, each begun with LF; none: empty. No value
    has an LF in it, so what is found without one lies inside one value.
    """

    text: bytes
    starts: array[int]  # 'Q', one more than there are messages


@dataclass(frozen=True, slots=True)
class TextHits:
    """``sure`` contain the text; of ``maybe`` (ascending) the message must be looked at."""

    sure: frozenset[int]
    maybe: Sequence[int]


Field = int | str | bytes
HOT_FIELDS = frozenset(("flags", "modseq", "size", "date", "savedate", "header_size", "email_id"))
COLD_FIELDS = frozenset(("envelope", "body", "bodystructure", "headers", "trace", "decision", "preview"))


@dataclass(slots=True)
class Row:
    """One message of the index: the hot part, and the cold one when asked for (else empty bytes).

    ``size`` is the virtual (CRLF) size, RFC822.SIZE; ``date`` the INTERNALDATE in seconds; ``header_size`` virtual octets
    of the header with its blank line. ``headers`` are the cached fields as ``imap.render`` packs them, ``envelope``,
    ``body``, ``bodystructure`` and ``preview`` the rendered IMAP values without the item's name; no preview: one of before.
    """

    uid: int
    flags: int
    modseq: int
    size: int
    date: int
    savedate: int
    header_size: int
    email_id: str = ""
    envelope: bytes = b""
    body: bytes = b""
    bodystructure: bytes = b""
    headers: bytes = b""
    trace: str = ""
    decision: str = ""
    preview: bytes = b""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored. ``data`` is the final text, CRLF line ends. ``flags`` IMAP names.

    ``key`` is the delivery key (HOUSE item 11), empty for APPEND. ``trace``/``decision`` go with the index row. ``crlf``: the
    caller knows that every line end is CRLF; without it the store looks for itself.
    """

    data: bytes
    flags: tuple[str, ...] = ()
    date: int | None = None  # INTERNALDATE; None = now
    key: bytes = b""
    trace: str = ""
    decision: str = ""
    crlf: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a message is. ``duplicate``: the delivery key was known and unacknowledged, nothing was stored again; ``at``: when the
    copy was stored that is there, as far as that is known."""

    mailbox: str
    uidvalidity: int
    uid: int
    duplicate: bool = False
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class FlagChange:
    """Result of ``set_flags``: (uid, new mask, new modseq) of every addressed message that exists; the UIDs whose modseq
    was above ``unchanged_since`` and that were therefore left alone (RFC 7162)."""

    changed: tuple[tuple[int, int, int], ...]
    modified: tuple[int, ...] = ()
    made: tuple[int, ...] = ()  # the modseqs that were given out for it, and for nothing else


@dataclass(frozen=True, slots=True)
class Copied:
    """COPYUID data: source and destination UIDs pairwise."""

    destination: MailboxInfo
    source_uids: tuple[int, ...]
    uids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quota:
    """Octets and messages; limit 0 = none."""

    used: int
    messages: int
    limit: int
    message_limit: int = 0


@dataclass(frozen=True, slots=True)
class SieveState:
    """Remembered ids to commit with a delivery: key -> seconds of life from now. One whose key is the ``fingerprint`` of a delivery
    key is forgotten when that is acknowledged."""

    remember: Mapping[bytes, int] = field(default_factory=dict)


class Attempt:
    """Several ``append`` of one command. What they stored stays once ``end`` has returned; a crash before takes it away again,
    where the store can (this one cannot, or forgets everything anyway). ``last``: nothing comes after the next ``append``, which
    may be one of no messages. A store that can stores nothing before that one, which returns what came of all of them."""

    last = True

    def end(self) -> None:
        """Durable. Raises StoreUnavailable: it is gone already."""


class AccountStore(Protocol):
    """All mail of one account. Mailbox arguments are names as in ``MailboxInfo.name``; INBOX always exists."""

    # -- mailboxes ------------------------------------------------------------------------------------------------
    def mailboxes(self) -> tuple[MailboxInfo, ...]:
        """All, sorted by name, INBOX first."""
        ...

    def info(self, mailbox: str) -> MailboxInfo:
        """Raises NoSuchMailbox."""
        ...

    def create(self, mailbox: str, special_use: str = "") -> MailboxInfo:
        """Durable. Missing parents are created too. Raises MailboxExists, BadName, LimitReached."""
        ...

    def delete(self, mailbox: str) -> None:
        """Durable; children stay. INBOX raises BadName."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Durable; children move along; INBOX: its messages move to the new mailbox and INBOX stays (RFC 3501 6.3.5)."""
        ...

    def subscribe(self, mailbox: str, on: bool) -> None:
        """Durable; a name need not exist to be subscribed."""
        ...

    def subscriptions(self) -> tuple[str, ...]: ...

    def status(self, mailbox: str) -> Status: ...

    # -- reading --------------------------------------------------------------------------------------------------
    def snapshot(self, mailbox: str) -> Snapshot:
        """The state now, foreign changes noticed. Cheap when nothing changed since the last call."""
        ...

    def changes(self, mailbox: str, since_modseq: int) -> Changes:
        """What changed after ``since_modseq``, foreign changes noticed."""
        ...

    def rows(self, mailbox: str, uids: Sequence[int], cold: bool = False) -> list[Row]:
        """The rows of those of ``uids`` (ascending) that exist, ascending by uid. Callers ask for blocks of at most 1,000."""
        ...

    def read(self, mailbox: str, uid: int) -> bytes | None:
        """The whole message with CRLF line ends; None when it is gone."""
        ...

    def text_candidates(self, mailbox: str, needle: str, uids: Sequence[int]) -> Sequence[int] | None:
        """UIDs whose decoded, case-folded text may contain ``needle``: a superset; None: no such index here."""
        ...

    # The following five have an answer here that is right for every store, and a fast one where it counts.
    def fields(self, mailbox: str, uids: Sequence[int], wanted: Sequence[str]) -> list[tuple[Field, ...]]:
        """Like ``rows``, only the named attributes of ``Row``: (uid, value, ...)."""
        rows = self.rows(mailbox, uids, not COLD_FIELDS.isdisjoint(wanted))
        return [(row.uid, *[getattr(row, name) for name in wanted]) for row in rows]

    def read_many(self, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
        """``read`` for the first of ``uids`` and as many of the following as come until ``octets`` are reached."""
        texts: list[bytes | None] = []
        for uid in uids:
            text = self.read(mailbox, uid)
            texts.append(text)
            octets -= len(text or b"")
            if octets <= 0:
                break
        return texts

    def facts(self, snapshot: Snapshot) -> Facts | None:
        """None: ask ``fields``."""
        return None

    def uidls(self, mailbox: str) -> Mapping[int, str]:
        """POP3 unique ids of messages that came with one from another server; the others have the one we make."""
        return {}

    def header_texts(self, snapshot: Snapshot, name: bytes) -> HeaderTexts | None:
        """Of a field of CACHED_FIELDS; None: look at the headers."""
        return None

    def text_hits(self, mailbox: str, needle: str, header: bool, uids: Sequence[int]) -> TextHits | None:
        """Whose decoded, case-folded text (and header, if so) contains ``needle``; None: look at all."""
        found = self.text_candidates(mailbox, needle, uids)
        return None if found is None else TextHits(frozenset(), found)

    # -- writing --------------------------------------------------------------------------------------------------
    def deliver(self, mailbox: str, message: NewMessage, state: SieveState | None = None) -> Stored:
        """Store one message with its Sieve state; durable on return. A known unacknowledged key: ``duplicate``."""
        ...

    def append(
        self, mailbox: str, messages: Sequence[NewMessage], part_of: Attempt | None = None
    ) -> tuple[Stored, ...]:
        """All or none (MULTIAPPEND); durable on return. Raises NoSuchMailbox, OverQuota, LimitReached."""
        ...

    def attempt(self) -> Attempt:
        """For several ``append`` that belong together."""
        return Attempt()

    def set_flags(
        self,
        mailbox: str,
        uids: Sequence[int],
        mode: str,
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> FlagChange:
        """``mode`` is ``set``, ``add`` or ``remove``; ``flags`` IMAP names, unknown keywords are created."""
        ...

    def copy(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        """All or none; durable. UIDs that are gone are left out. Keeps flags and INTERNALDATE."""
        ...

    def move(self, mailbox: str, uids: Sequence[int], destination: str) -> Copied:
        """Durable. Each message is claimed by renaming its file: two sessions never double it."""
        ...

    def expunge(self, mailbox: str, uids: Sequence[int] | None = None) -> tuple[int, ...]:
        """Remove \\Deleted messages (of ``uids``, or all); the UIDs removed, ascending. Durable."""
        ...

    def advance(self, mailbox: str) -> int:
        """A modseq of the mailbox for something that is kept elsewhere (a reader's own \\Seen): given out, and the mailbox is
        at it. No message has it."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Nobody else writes to the account meanwhile, in this process or another."""
        return nullcontext()

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        """The client went on after our reply: these delivery keys suppress nothing any more. Need not be durable."""
        ...

    def delivered(self, mailbox: str, key: bytes) -> bool:
        """Has a delivery with this key stored a message, here or in another mailbox, that nobody acknowledged? ``mailbox``: where
        it would be, which is healed first; it need not be there any more."""
        ...

    # -- what else belongs to the account -----------------------------------------------------------------------------
    def remembered(self, key: bytes, now: float) -> bool:
        """Sieve state: was ``key`` remembered, and is it not expired?"""
        ...

    def remember(self, state: SieveState) -> None:
        """Commit Sieve state of a delivery that stores nothing here (redirect, discard). Durable."""
        ...

    def get_metadata(self, mailbox: str | None, name: str) -> str | None: ...

    def set_metadata(self, mailbox: str | None, name: str, value: str | None) -> None: ...

    def quota(self) -> Quota: ...

    def close(self) -> None: ...


class Store(Protocol):
    """Opens accounts. ``account`` is the account id (``ann@example.org``), already validated by the directory."""

    def account(self, account: str) -> AccountStore:
        """The account's store, created on first use, from a bounded LRU of open ones."""
        ...

    def path(self, account: str) -> str:
        """Where the mail lies, for people and for other programs (``filterd account show``); "" in memory."""
        ...

    def close(self) -> None: ...
