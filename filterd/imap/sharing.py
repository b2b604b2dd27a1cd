"""Where other people's mailboxes stand among one's own, and the way into them.

Specification: RFC 2342 (namespaces), RFC 4314 (ACL). Names: ``user/ann@example.org/INBOX`` is a mailbox of another account,
``Public/News`` one of the account that the configuration names for everybody (``imap.public``). A mailbox of one's own whose name
begins so hides what others share under that name.

Nothing is opened for a name alone: an account must stand in the table of shares (``store.acl_shares``) as one that shares with
this reader, and the mailbox's own list decides what may be done. Without the right ``l``, and without the right that a command
needs, a mailbox is as if it did not exist; with ``l`` the refusal is NOPERM (RFC 4314 4, 6).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from filterd.imap.shared_seen import Seen, entry
from filterd.store import names
from filterd.store.acl import ENTRY, NOTHING, Acl, domain_of
from filterd.store.acl_guests import Guests
from filterd.store.acl_shares import Shares
from filterd.store.base import SEPARATOR, AccountStore, MailboxInfo, NoPermission, NoSuchMailbox

OTHERS = "user"
PUBLIC = "Public"


@dataclass(frozen=True, slots=True)
class Place:
    """A mailbox of another account. ``name``: as the reader says; ``inner``: as its owner does; ``prefix + inner == name``."""

    name: str
    owner: str
    inner: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Sharing:
    """What all sessions of a server have in common. ``scope``: "server", or "domain" when mail is shared inside one domain only;
    ``public``: the account whose mailboxes are everybody's, "" for none."""

    guests: Guests
    shares: Shares
    scope: str = "domain"
    public: str = ""

    def close(self) -> None:
        self.guests.close()
        self.shares.close()

    def prefixes(self, me: str) -> tuple[str, ...]:
        others = OTHERS + SEPARATOR
        return (others, PUBLIC + SEPARATOR) if self.public not in ("", me) else (others,)

    def place(self, me: str, name: str) -> Place | None:
        """Whose mailbox the name means; None when it can be nobody's."""
        first, _, rest = name.partition(SEPARATOR)
        if first == PUBLIC and self.public not in ("", me):
            owner, inner, prefix = self.public, rest, PUBLIC + SEPARATOR
        elif first == OTHERS:
            owner, _, inner = rest.partition(SEPARATOR)
            prefix = f"{OTHERS}{SEPARATOR}{owner}{SEPARATOR}"
            if not self._meets(owner, me):
                return None
        else:
            return None
        if not inner:
            return None
        inner = names.normalise_known(inner)
        return Place(prefix + inner, owner, inner, prefix)

    def _meets(self, owner: str, me: str) -> bool:
        """May the two share at all, and does one?"""
        if owner in ("", me, self.public) or SEPARATOR in owner:
            return False
        if self.scope == "domain" and domain_of(owner) != domain_of(me):
            return False
        return self.shares.shared(owner, me)

    def owners(self, me: str) -> Iterator[tuple[str, str]]:
        """Whose mailboxes may have to be listed: (account, prefix)."""
        for owner in self.shares.owners(me):
            if self._meets(owner, me):
                yield owner, f"{OTHERS}{SEPARATOR}{owner}{SEPARATOR}"
        if self.public not in ("", me):
            yield self.public, PUBLIC + SEPARATOR


@dataclass(slots=True)
class Box:
    """An open mailbox of another account, and what its reader may do there. ``parse``: of what he has seen, may remember it."""

    guest: AccountStore
    own: AccountStore
    place: Place
    rights: frozenset[str]
    parse: Callable[[str | None], Seen] = Seen.parse

    def require(self, need: str) -> None:
        """RFC 4314 6: who may not know of it is told that there is none."""
        if not self.rights.issuperset(need) or not self.rights:
            refuse(self.place.name, self.rights)

    def info(self, found: MailboxInfo, subscribed: bool = False) -> MailboxInfo:
        """Special uses are the owner's."""
        return MailboxInfo(found.id, self.place.prefix + found.name, found.uidvalidity, "", subscribed)

    def seen(self, info: MailboxInfo | None = None) -> Seen:
        return self.parse(self.own.get_metadata(None, self.seen_entry(info)))

    def seen_entry(self, info: MailboxInfo | None = None) -> str:
        found = info or self.guest.info(self.place.inner)
        return entry(found.id, found.uidvalidity)


def refuse(name: str, rights: frozenset[str]) -> NoReturn:
    """RFC 4314 6: whoever may not look it up is told that there is none."""
    if "l" in rights:
        raise NoPermission(f"no permission in {name}")
    raise NoSuchMailbox(f"no mailbox {name}")


def rights_in(store: AccountStore, mailbox: str, reader: str) -> frozenset[str]:
    """Of somebody else than the owner; none where there is no mailbox."""
    try:
        return Acl.parse(store.get_metadata(mailbox, ENTRY)).of(reader)
    except NoSuchMailbox:
        return NOTHING


@contextlib.contextmanager
def opened(
    sharing: Sharing,
    own: AccountStore,
    me: str,
    place: Place,
    need: str,
    parse: Callable[[str | None], Seen],
) -> Iterator[Box]:
    """The mailbox, with the rights that are needed; no letters: some right."""
    with sharing.guests.use(place.owner) as guest:
        box = Box(guest, own, place, rights_in(guest, place.inner, me), parse)
        box.require(need)
        yield box
