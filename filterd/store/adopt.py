"""Taking over another server's Maildir with UIDVALIDITY, UIDs, flags, keywords, dates and UIDLs (HOUSE item 18).

How it goes, and what a kill or a power failure leaves (read this before changing the order of anything here):

1. The account's lock is taken and kept to the end; deliveries meanwhile are told to come again.
2. The journal says ``begun`` and fixes each mailbox's id and UIDVALIDITY. From here on nobody opens the account
   (``adopt_journal.refuse_unfinished``) until it says ``placed``, so what is half there is never shown, and no message that
   lies at its place already can be numbered by somebody else.
3. Each message comes to its place under its new name, which carries its UID (``,U=<mailbox id>.<uid>``): the name is the record of
   what was done. ``copy`` writes and syncs files, ``move`` and ``in-place`` rename them (over a border of file systems: copy,
   sync, then unlink). A second run finds the names, and the numbering gives the others the same UIDs again (``adopt_plan``).
4. Each folder gets ``filterd-keywords``, ``filterd-adopted`` (UIDLs) and, last, ``.filterd-mailbox``.
5. The journal says ``placed``. The index forgets these mailboxes and makes them anew from the files, as after a lost index: nothing
   but names and small files is needed for that, now or later.
6. What is in the index is compared with the plan: UIDs, flags, dates, a digest of each text. Then the journal says ``done``.

The source of ``copy`` is only read. Control files of the other server are left where they are in every mode.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from filterd.store import adopt_journal, durable, names, tree
from filterd.store import flags as fl
from filterd.store.adopt_journal import ADOPTING, BEGUN, DONE, PLACED, Journal
from filterd.store.adopt_plan import (
    AdoptError,
    Mailbox,
    Message,
    Source,
    number,
    read_message,
    without_our_field,
)
from filterd.store.adopt_verify import Found, verify
from filterd.store.core import Core
from filterd.store.durable import Dir, Disk, opened
from filterd.store.folder import (
    KEYWORDS_FILE,
    MAILBOX_FILE,
    MailboxFile,
    claimed_uid,
    read_mailbox_file,
    stem,
    with_uid,
)
from filterd.store.manyfiles import BATCH, sync_all
from filterd.store.record import EMAIL_ID_OCTETS, form_of, to_crlf
from filterd.store.transfer import set_flags
from filterd.store.uidl import ADOPTED_FILE, Adopted

COPY, MOVE, IN_PLACE = "copy", "move", "in-place"
MODES = (COPY, MOVE, IN_PLACE)
PARTS = ("cur", "new", "tmp")

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Outcome:
    """``problems``: what verification found; empty when all is as planned. ``again``: it had been done before."""

    source: Source
    problems: list[str] = field(default_factory=list)
    again: bool = False


def directory_of(source: Source, box: Mailbox, account: str) -> str:
    """The directory below ``account`` that a mailbox is to have: where it lies, when it lies right there already."""
    wanted = names.encode_directory(box.name)
    if box.shown and os.path.realpath(source.path) == os.path.realpath(account):
        if names.decode_directory(box.shown) == box.name:
            return box.shown
    return wanted


def conflicts(source: Source, account: str, mode: str) -> list[str]:
    """Mailboxes of the account that have mail of their own. Reads only."""
    journal = _journal_at(account)
    found = []
    for box in source.mailboxes:
        where = directory_of(source, box, account)
        path = f"{account}/{where}" if where else account
        if os.path.realpath(path) == os.path.realpath(box.path):
            continue
        mid = _mid(journal, box) if journal is not None and journal.state != DONE else ""
        others = [
            name for _, name in _listing(path) if not mid or not claimed_uid(fl.split_name(name)[0], mid)
        ]
        if others:
            found.append(f"{box.name} has {len(others)} message{'s' if len(others) > 1 else ''} already")
    return found


def finished(source: Source, account: str) -> bool:
    """It was adopted from there before, completely."""
    journal = _journal_at(account)
    return journal is not None and journal.state == DONE and journal.source == source.path


def other_begun(source: Source, account: str, mode: str) -> Journal | None:
    """An adoption of something else, or in another way, that is to be finished first."""
    journal = _journal_at(account)
    if journal is None or journal.state == DONE or journal.same(Journal(source.kind, mode, source.path)):
        return None
    return journal


def plan(source: Source, account: str, mode: str) -> None:
    """Number all messages; what an earlier run has placed keeps its UID. Reads only. Once a source."""
    journal = _journal_at(account)
    if journal is not None and journal.state == DONE:
        journal = None
    if mode == IN_PLACE and journal is not None:
        _renamed_directories(source, journal, account)
    for box in source.mailboxes:
        mid = _mid(journal, box)
        where = directory_of(source, box, account)
        path = f"{account}/{where}" if where else account
        placed: dict[int, str] = {}
        for _, name in _listing(path) if mid else []:
            base = fl.split_name(name)[0]
            if uid := claimed_uid(base, mid):
                placed[uid] = stem(base)
        if mid:
            box.messages = [message for message in box.messages if not claimed_uid(message.base, mid)]
        number(box, placed, again=mode == COPY or _left_behind(box, path, mode))


def _left_behind(box: Mailbox, path: str, mode: str) -> bool:
    """May the source still have files of messages that are at their place already?"""
    if mode == IN_PLACE or not os.path.isdir(path):
        return any(message.coding for message in box.messages)
    return os.stat(path).st_dev != os.stat(box.path).st_dev or any(message.coding for message in box.messages)


def _renamed_directories(source: Source, journal: Journal, account: str) -> None:
    """A folder whose directory was given a new name by an earlier run is called what that name says."""
    for box in source.mailboxes:
        if box.shown and box.shown in journal.mailboxes:
            box.name = names.decode_directory(box.shown) or box.name


def _mid(journal: Journal | None, box: Mailbox) -> str:
    if journal is None:
        return ""
    return journal.mailboxes.get(names.encode_directory(box.name), ("", 0))[0]


def _journal_at(account: str) -> Journal | None:
    try:
        at = Dir(account, os.open(account, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        return None
    try:
        return adopt_journal.read_journal(at)
    finally:
        at.close()


def _listing(path: str) -> list[tuple[str, str]]:
    out = []
    for place in ("new", "cur"):
        with contextlib.suppress(FileNotFoundError):
            out += [(place, name) for name in sorted(os.listdir(f"{path}/{place}")) if name[0] != "."]
    return out


def adopt(core: Core, source: Source, mode: str, progress: Progress = lambda what, done, of: None) -> Outcome:
    """Do it. ``source`` is planned and free of conflicts. Raises AdoptError, StoreError, OSError."""
    core.adopting = True
    try:
        with core.guard(), core.locked():
            return _Adoption(core, source, mode, progress).run()
    finally:
        core.adopting = False


class _Adoption:
    def __init__(self, core: Core, source: Source, mode: str, progress: Progress) -> None:
        self.core = core
        self.disk = core.settings.disk
        self.source = source
        self.mode = mode
        self.progress = progress
        self.total = sum(len(box.messages) for box in source.mailboxes)
        self.count = 0
        self.digests: dict[tuple[str, int], bytes] = {}

    def run(self) -> Outcome:
        core = self.core
        journal = self._journal()
        served = (
            journal.state == PLACED
        )  # by an earlier run; since then flags may have changed and messages gone
        if journal.state == BEGUN:
            core.lock.set_note(ADOPTING)
            for box in self.source.mailboxes:
                self._mailbox(box, *journal.mailboxes[names.encode_directory(box.name)])
            self._subscriptions()
            self._quota_file()
            self._forget_rows(journal)
            journal.state = PLACED
            journal.write(self.disk, core.root)
            core.lock.set_note(b"")
        core.root_seen = 0
        tree.discover(core)
        problems: list[str] = []
        for at, box in enumerate(self.source.mailboxes):
            self.progress("index", at, len(self.source.mailboxes))
            core.box(box.name)
            self._further_keywords(box)
            mid, uidvalidity = journal.mailboxes[names.encode_directory(box.name)]
            problems += verify(core, box, Found(mid, uidvalidity, self.digests), served)
        if not problems:
            journal.state = DONE
            journal.write(self.disk, core.root)
        return Outcome(self.source, problems)

    # -- identities -----------------------------------------------------------------------------------------------------------
    def _journal(self) -> Journal:
        core = self.core
        journal = Journal(self.source.kind, self.mode, self.source.path)
        old = adopt_journal.read_journal(core.root)
        if old is not None and old.state != DONE and old.same(journal):
            journal = old
        missing = [
            box for box in self.source.mailboxes if names.encode_directory(box.name) not in journal.mailboxes
        ]
        if missing and journal.state != BEGUN:
            raise AdoptError(
                f"{missing[0].path} has come after the others were adopted; move its mail by IMAP"
            )
        with core.index.transaction():
            if self.source.floor > int(core.index.meta("uidvalidity") or 0):
                core.index.set_meta("uidvalidity", str(self.source.floor))
            for box in missing:
                mid = core.settings.ids.token(8)
                value = box.uidvalidity or tree.next_uidvalidity(core)
                journal.mailboxes[names.encode_directory(box.name)] = (mid, value)
        if missing:
            journal.write(self.disk, core.root)
        return journal

    def _forget_rows(self, journal: Journal) -> None:
        """Durable before the journal says ``placed``: after a power failure no row of the time before may be believed."""
        core = self.core
        wanted = {directory_of(self.source, box, core.path) for box in self.source.mailboxes}
        mids = {mid for mid, _ in journal.mailboxes.values()}
        titles = {box.name for box in self.source.mailboxes}
        with core.index.transaction(durable=True):
            for row in core.index.mailboxes():
                if row.directory in wanted or row.mid in mids or row.name in titles:
                    core.drop_folder(row.id)
                    core.index.drop_mailbox(row.id)

    # -- one mailbox ------------------------------------------------------------------------------------------------------------
    def _mailbox(self, box: Mailbox, mid: str, uidvalidity: int) -> None:
        core, disk = self.core, self.disk
        where = directory_of(self.source, box, core.path)
        path = core.path_of(where)
        if self.mode == IN_PLACE and box.shown and box.shown != where and box.shown[0] == ".":
            disk.rename(core.root, box.shown, core.root, where)
            disk.sync_dir(core.root)
            box.path, box.shown = path, where
        for part in PARTS:
            durable.make_dirs(disk, f"{path}/{part}")
        placed = {}
        for place, name in _listing(path):
            if uid := claimed_uid(fl.split_name(name)[0], mid):
                placed[uid] = (place, name)
        with opened(disk, path) as top:
            old = read_mailbox_file(top)
            special = old.special if old is not None else ""
            self._messages(box, mid, path, placed)
            keywords = "".join(f"{at} {word}\n" for at, word in enumerate(box.keywords))
            durable.replace_small(disk, top, KEYWORDS_FILE, keywords.encode())
            durable.replace_small(disk, top, ADOPTED_FILE, _adopted(box, placed).render())
            if where:
                durable.replace_small(disk, top, tree.MARKER, b"")
            file = MailboxFile(mid, uidvalidity, box.nextuid, box.modseq or core.now(), special)
            durable.replace_small(disk, top, MAILBOX_FILE, file.render())

    def _messages(self, box: Mailbox, mid: str, path: str, placed: dict[int, tuple[str, str]]) -> None:
        sources = {
            place: self.disk.open_dir(f"{box.path}/{place}") for place in {one.place for one in box.messages}
        }
        targets = {place: self.disk.open_dir(f"{path}/{place}") for place in ("cur", "new")}
        mover = _Mover(self.disk, self.mode, sources, targets)
        try:
            for message in box.messages:
                self.count += 1
                if self.count % 500 == 0:
                    self.progress("messages", self.count, self.total)
                name, place = new_name(message, mid)
                if message.uid in placed:
                    digest = mover.again(message, *placed[message.uid])
                else:
                    digest = mover.bring(message, place, name)
                self.digests[box.name, message.uid] = digest
            mover.flush()
        finally:
            mover.discard()
            for at in (*sources.values(), *targets.values()):
                at.close()

    def _further_keywords(self, box: Mailbox) -> None:
        """What file names cannot say goes into the index."""
        chosen: dict[int, list[int]] = {}
        for message in box.messages:
            for at in message.keywords:
                chosen.setdefault(at, []).append(message.uid)
        for at, uids in chosen.items():
            set_flags(self.core, box.name, sorted(uids), "add", (box.keywords[at],), None)

    # -- of the account -----------------------------------------------------------------------------------------------------------
    def _subscriptions(self) -> None:
        core = self.core
        own = () if self.mode == IN_PLACE else tree.subscriptions(core)
        tree.write_subscriptions(core, {*own, *self.source.subscriptions})

    def _quota_file(self) -> None:
        """Another server's count of this folder is right no more; ours is made when there is a limit."""
        if self.mode == IN_PLACE:
            with contextlib.suppress(FileNotFoundError):
                self.disk.unlink(self.core.root, "maildirsize")


def new_name(message: Message, mid: str) -> tuple[str, str]:
    """(file name, place) of an adopted message; what has flags or keywords is not new."""
    base = with_uid(without_our_field(message.base), mid, message.uid)
    if message.place == "new" and not message.letters and not message.keywords:
        return base, "new"
    mask, unknown = fl.mask_of_letters(message.letters)
    return base + fl.info_of(mask, unknown), "cur"


def _adopted(box: Mailbox, placed: dict[int, tuple[str, str]]) -> Adopted:
    """Also of messages that an earlier run has brought, of which the source may have no file any more."""
    kept = Adopted(box.guid)
    owners = {uid: base for base, uid in box.listed.items()}
    by_stem = {stem(without_our_field(base)): base for base in box.extras if base not in box.listed}
    for uid, (_, name) in placed.items():
        owners.setdefault(uid, by_stem.get(stem(fl.split_name(name)[0]), ""))
    for message in box.messages:
        if message.base not in box.listed:
            owners.setdefault(message.uid, message.base)
    for uid, base in owners.items():
        for key, value in box.extras.get(base, {}).items():
            kept.set(key, uid, value)
    return kept


class _Mover:
    """Brings files to their place; copies wait in batches for their sync."""

    def __init__(self, disk: Disk, mode: str, sources: dict[str, Dir], targets: dict[str, Dir]) -> None:
        self.disk = disk
        self.mode = mode
        self.sources = sources
        self.targets = targets
        self.waiting: list[tuple[durable.NewFile, Message, str]] = []
        self.renamed = False

    def bring(self, message: Message, place: str, name: str) -> bytes:
        """The digest of its text (``Record.email_id``)."""
        source, target = self.sources[message.place], self.targets[place]
        data = read_message(source, message)
        if self.mode != COPY and not message.coding:
            try:
                self.disk.rename(source, message.name, target, name)
                self.renamed = True
                return digest_of(data)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        self.waiting.append((self.disk.write_new(target, data, message.date), message, name))
        if len(self.waiting) >= BATCH:
            self.flush()
        return digest_of(data)

    def again(self, message: Message, place: str, name: str) -> bytes:
        """It is there already; what an earlier run could not remove from the source any more goes now."""
        source = self.sources[message.place]
        digest = digest_of(read_message(source, message))
        if self.mode != COPY and message.name != name:
            placed = Message(place, name, "", "", 0, 0)
            if digest_of(read_message(self.targets[place], placed)) == digest:
                self.disk.unlink(source, message.name)
                self.renamed = True
        return digest

    def flush(self) -> None:
        """Make durable what was brought, then let go of the originals."""
        batch, self.waiting = self.waiting, []
        try:
            sync_all(self.disk, [file for file, _, _ in batch])
            for file, _, name in batch:
                self.disk.publish(file, name)
        finally:
            for file, _, _ in batch:
                self.disk.discard(file)
        if batch or self.renamed:
            for at in self.targets.values():
                self.disk.sync_dir(at)
        if self.mode != COPY:
            for _, message, _ in batch:
                self.disk.unlink(self.sources[message.place], message.name)
            if batch or self.renamed:
                for at in self.sources.values():
                    self.disk.sync_dir(at)
        self.renamed = False

    def discard(self) -> None:
        for file, _, _ in self.waiting:
            self.disk.discard(file)
        self.waiting = []


def digest_of(data: bytes) -> bytes:
    """As ``Record.email_id``: of the text with CRLF line ends."""
    return durable.digest(to_crlf(data, form_of(data)))[:EMAIL_ID_OCTETS]
