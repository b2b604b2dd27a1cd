"""The way back to Dovecot: a Maildir with ``dovecot-uidlist``, ``dovecot-keywords`` and ``subscriptions`` (HOUSE item 18).

To a folder of its own (Maildir++ or layout ``fs``) the messages are copied; *in place* only Dovecot's control files are written
beside our own mail, which Dovecot reads as it is: it skips the ``,U=`` field of our file names. Our index is put aside then
(``put_index_aside``), because Dovecot takes each directory with a dot for a folder; ``bring_index_back`` undoes that.

The account's lock is held meanwhile. A copy that was cut short is marked by ``filterd-export`` in its root and goes on when it is
run again: messages that lie there are kept, ones that have gone from the account or have other flags meanwhile are removed and
written anew. Control files are written last, the mark is removed at the end; a folder with anything else in it is refused.

INBOX's lines carry each message's POP3 UIDL, so that it is the same whatever ``pop3_uidl_format`` says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from filterd.store import adopt_journal, durable, laternames, names, rescan, tree
from filterd.store import flags as fl
from filterd.store.adopt import digest_of
from filterd.store.adopt_dovecot import KEYWORDS, PARTS, SUBSCRIPTIONS, UIDLIST, UIDVALIDITY
from filterd.store.adopt_plan import AdoptError, base_of
from filterd.store.base import SEPARATOR
from filterd.store.core import INDEX_DIRECTORY, Core
from filterd.store.durable import Dir, Disk, opened
from filterd.store.folder import Folder, read_small
from filterd.store.index import HotRow, MailboxRow
from filterd.store.intake import MAX_FILE_OCTETS
from filterd.store.manyfiles import BATCH, sync_all
from filterd.store.uidl import GUID, ORDER, UIDL, Adopted, default_uidl, read_adopted

MARK = "filterd-export"
ASIDE = "filterd-index"  # what our index directory is called while Dovecot has the folder
MAILDIR, FS = "maildir++", "fs"
LAYOUTS = (MAILDIR, FS)
NAMES_SECONDS = 600.0  # for what changes of flags have left to do: a million renames take ten

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Exported:
    """``mailboxes``: (name, directory below the root, messages, UIDVALIDITY, UIDNEXT). ``notes``: what Dovecot will not see."""

    mailboxes: list[tuple[str, str, int, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_dovecot(
    core: Core, target: str, layout: str = MAILDIR, progress: Progress = lambda what, done, of: None
) -> Exported:
    """To ``target``, or in place for "". Raises AdoptError, StoreError, OSError."""
    with core.guard(), core.locked():
        if target:
            return _Export(core, target, layout, progress).run()
        return _in_place(core)


# -- in place -----------------------------------------------------------------------------------------------------------------


def _in_place(core: Core) -> Exported:
    out = Exported()
    disk = core.settings.disk
    for row in tree.listing(core):
        folder, row, hots = _contents(core, row.name)
        _control_files(disk, folder.top, folder, row, hots, out)
        _count(out, row, row.directory, hots)
        plain = names.encode_directory(row.name)
        parts = row.name.split(SEPARATOR)
        dotted = row.directory == plain and any("." in part for part in parts)
        if dotted or plain.startswith(".&AGY-ilterd"):
            out.notes.append(f"Dovecot does not show {row.name!r}: rename it first, without a dot in it")
    tree.write_subscriptions(core, tree.subscriptions(core))
    for name in os.listdir(core.root.fd):
        # What Dovecot made of the tree as it was: its list of folders, its next UIDVALIDITY. It makes them anew.
        if name.startswith(("dovecot.list.index", UIDVALIDITY)):
            disk.unlink(core.root, name)
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(core.root, adopt_journal.JOURNAL)  # what comes back from Dovecot is to be adopted again
    disk.sync_dir(core.root)
    return out


def put_index_aside(disk: Disk, account: str) -> None:
    """After an export in place, when the account is closed."""
    _rename_index(disk, account, INDEX_DIRECTORY, ASIDE)


def bring_index_back(disk: Disk, account: str) -> None:
    """Before an adoption in place opens the account."""
    _rename_index(disk, account, ASIDE, INDEX_DIRECTORY)


def _rename_index(disk: Disk, account: str, old: str, new: str) -> None:
    if os.path.isdir(f"{account}/{old}") and not os.path.lexists(f"{account}/{new}"):
        with opened(disk, account) as at:
            disk.rename(at, old, at, new)
            disk.sync_dir(at)


# -- to a folder of its own -----------------------------------------------------------------------------------------------------


class _Export:
    def __init__(self, core: Core, target: str, layout: str, progress: Progress) -> None:
        self.core = core
        self.disk = core.settings.disk
        self.target = target
        self.layout = layout
        self.progress = progress
        self.out = Exported()
        self.taken: set[str] = set()

    def run(self) -> Exported:
        core, disk = self.core, self.disk
        mark = f"filterd-export 1\naccount {core.account}\nlayout {self.layout}\n".encode()
        self._may_write(mark)
        durable.make_dirs(disk, self.target)
        with opened(disk, self.target) as root:
            durable.replace_small(disk, root, MARK, mark)
            rows = tree.listing(core)
            titles = sorted((row.name for row in rows), key=lambda name: self._plain(name) != name)
            where = {name: self._directory(name) for name in titles}  # who can keep his name does
            for at, row in enumerate(rows):
                self.progress("mailboxes", at, len(rows))
                self._mailbox(row.name, where[row.name])
            subscribed = [self._spelled(name, where.get(name)) for name in tree.subscriptions(core)]
            text = "".join(f"{name}\n" for name in subscribed)
            durable.replace_small(disk, root, SUBSCRIPTIONS, text.encode())
            disk.unlink(root, MARK)
            disk.sync_dir(root)
        return self.out

    def _may_write(self, mark: bytes) -> None:
        if not os.path.lexists(self.target):
            return
        if not os.path.isdir(self.target):
            raise AdoptError(f"{self.target} is no directory")
        if os.path.realpath(self.target) == os.path.realpath(self.core.path):
            raise AdoptError("that is the account's own folder: say --in-place instead")
        if all(name.startswith(f".{MARK}.") for name in os.listdir(self.target)):  # cut short before the mark
            return
        with opened(self.disk, self.target) as root:
            if read_small(root, MARK) != mark:
                raise AdoptError(f"{self.target} is not empty; name a folder that is new")

    # -- names ------------------------------------------------------------------------------------------------------------------
    def _directory(self, name: str) -> str:
        """Below the root, as Dovecot spells it; noted when a part had to change."""
        if name == names.INBOX:
            return ""
        wanted = self._plain(name).split(SEPARATOR)
        parts = list(wanted)
        number = 2
        while self._joined(parts) in self.taken or parts == [names.INBOX]:
            parts[-1] = f"{wanted[-1]}-{number}"
            number += 1
        self.taken.add(self._joined(parts))
        plain = SEPARATOR.join(parts)
        if plain != name:
            self.out.notes.append(f"Dovecot cannot say {name!r} in this layout: it becomes {plain!r}")
        return self._joined(parts)

    def _plain(self, name: str) -> str:
        return SEPARATOR.join(map(self._part, name.split(SEPARATOR)))

    def _part(self, part: str) -> str:
        if self.layout == MAILDIR:
            return part.replace(".", "_")
        return f"_{part}" if part in PARTS or part[0] in ".~" else part

    def _joined(self, parts: list[str]) -> str:
        if self.layout == MAILDIR:
            return "." + ".".join(map(names.encode_component, parts))
        # A dot says itself in modified UTF-7.
        return "/".join(".".join(map(names.encode_component, part.split("."))) for part in parts)

    def _spelled(self, name: str, directory: str | None) -> str:
        """A line of ``subscriptions``."""
        if name == names.INBOX:
            return name
        found = directory or self._joined([self._part(part) for part in name.split(SEPARATOR)])
        return found[1:] if self.layout == MAILDIR else found

    # -- messages ---------------------------------------------------------------------------------------------------------------
    def _mailbox(self, name: str, where: str) -> None:
        disk = self.disk
        folder, row, hots = _contents(self.core, name)
        path = f"{self.target}/{where}" if where else self.target
        for part in PARTS:
            durable.make_dirs(disk, f"{path}/{part}")
        with opened(disk, path) as top:
            for fresh, place in ((0, "cur"), (1, "new")):
                with opened(disk, f"{path}/{place}") as at:
                    self._messages(folder, [hot for hot in hots if hot.fresh == fresh], at)
            _control_files(disk, top, folder, row, hots, self.out)
            if where and self.layout == MAILDIR:
                durable.replace_small(disk, top, tree.MARKER, b"")
        _count(self.out, row, where, hots)

    def _messages(self, folder: Folder, hots: list[HotRow], at: Dir) -> None:
        disk = self.disk
        wanted = {hot.name: hot for hot in hots}
        there = set(os.listdir(at.fd))
        for name in there - wanted.keys():
            disk.unlink(at, name)
        waiting: list[tuple[durable.NewFile, str]] = []
        try:
            for name, hot in wanted.items():
                if name in there:
                    continue
                waiting.append((disk.write_new(at, _octets(folder, hot), hot.date), name))
                if len(waiting) >= BATCH:
                    self._flush(waiting)
            self._flush(waiting)
        finally:
            for file, _ in waiting:
                disk.discard(file)
        disk.sync_dir(at)

    def _flush(self, waiting: list[tuple[durable.NewFile, str]]) -> None:
        sync_all(self.disk, [file for file, _ in waiting])
        for file, name in waiting:
            self.disk.publish(file, name)
        waiting.clear()


def _octets(folder: Folder, hot: HotRow) -> bytes:
    """The file as it lies there, and the one that the index knows."""
    at = folder.place(hot.fresh)
    try:
        fd = os.open(hot.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at.fd)
    except FileNotFoundError:
        raise AdoptError(f"{folder.name}: another program changes this mailbox; run it again") from None
    with open(fd, "rb") as file:
        data = file.read(MAX_FILE_OCTETS)
    if digest_of(data) != hot.email_id:
        raise AdoptError(
            f"{at.path}/{hot.name}: another program has changed this file; read it by IMAP once, then run it again"
        )
    return data


# -- for both -------------------------------------------------------------------------------------------------------------------


def _contents(core: Core, mailbox: str) -> tuple[Folder, MailboxRow, list[HotRow]]:
    """As it is now, changes of other programs taken in."""
    folder, _ = core.box(mailbox)
    if not laternames.finish(core, NAMES_SECONDS):
        raise AdoptError(f"{core.path}: files cannot be renamed: see the log")
    row = rescan.force(core, folder)
    return folder, row, core.index.hot_all(row.id)


def _count(out: Exported, row: MailboxRow, where: str, hots: list[HotRow]) -> None:
    out.mailboxes.append((row.name, where, len(hots), row.uidvalidity, row.uidnext))


def _control_files(
    disk: Disk, top: Dir, folder: Folder, row: MailboxRow, hots: list[HotRow], out: Exported
) -> None:
    words = row.keyword_list
    named = words[: fl.LETTER_KEYWORDS]
    if named:
        text = "".join(f"{at} {word}\n" for at, word in enumerate(named))
        durable.replace_small(disk, top, KEYWORDS, text.encode())
    elif os.path.lexists(f"{top.path}/{KEYWORDS}"):
        disk.unlink(top, KEYWORDS)
    further = sum(hot.flags > fl.NAMED_MASK for hot in hots)
    if further:
        out.notes.append(
            f"{row.name}: {further} messages have keywords beyond the 26 that file names can say: {' '.join(words[26:])}"
        )
    durable.replace_small(disk, top, UIDLIST, uidlist(row, hots, read_adopted(folder.top)))


def uidlist(row: MailboxRow, hots: list[HotRow], kept: Adopted) -> bytes:
    """A ``dovecot-uidlist`` of version 3."""
    guid = kept.guid or hashlib.sha256(f"filterd mailbox {row.mid}".encode()).hexdigest()[:32]
    lines = [f"3 V{row.uidvalidity} N{row.uidnext} G{guid}"]
    inbox = row.name == names.INBOX
    uidls, guids, orders = kept.of(UIDL), kept.of(GUID), kept.of(ORDER)
    for hot in hots:
        uid = hot.uid
        words = [str(uid)]
        uidl = uidls.get(uid, default_uidl(uid, row.uidvalidity) if inbox else "")
        for key, value in ((UIDL, uidl), (GUID, guids.get(uid, "")), (ORDER, orders.get(uid, ""))):
            if value:
                words.append(key + value)
        lines.append(f"{' '.join(words)} :{base_of(hot.name)}")
    return ("\n".join(lines) + "\n").encode()
