"""The mailboxes of an mbox account as files: making, removing, renaming, finding.

Layout, below the account's directory::

    inbox                    INBOX, when store.mbox.inbox names no other file (a spool such as /var/mail/ann)
    mail/Work                a mailbox
    mail/Work.2026           the mailbox Work/2026: one flat directory, so a mailbox with messages can have children
    subscriptions            as in a Maildir account
    .mailboxes/<id>/         what identifies a mailbox (``mbox_file``)
    tmp/                     for what is built or removed

File names are those of Maildir++ folders without the first dot (``names.encode_directory``): programs see plain files
(``mutt -f mail/Work.2026``). Why not directories beside files: a file and a directory cannot have one name, and turning a file into
``Work/mbox`` when its first child comes (as Dovecot's DIRNAME does for all) moves it away under other programs' locks.
Directories that other programs have made are read all the same: ``mail/Lists/python`` is Lists/python, and Dovecot's
``mail/Lists/mBoX-MeSsAgEs`` is Lists. A file is a mailbox when it is empty or begins with a From_ line; names that begin with a
dot or end in ``.lock`` or ``~`` are none.

A mailbox is there when its file is. Making: identity first, then the file; removing: the file first. A rename may be of many files,
each with its identity: the intent (``rename`` in ``.mailboxes``: ``id<TAB>old<TAB>new`` a line) is carried out by whoever comes
after a crash.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.store import durable, mbox_journal, names, tree
from filterd.store import mbox_format as fmt
from filterd.store.base import MAX_DEPTH, BadName, MailboxExists, MailboxInfo, StoreUnavailable
from filterd.store.durable import Dir, LockRules, opened
from filterd.store.folder import BLOCK, MAILBOX_FILE, MailboxFile, read_mailbox_file, read_small
from filterd.store.index import AFTER_POWER, MailboxRow
from filterd.store.layout import MBOX_HOME
from filterd.store.mbox_file import MboxFile
from filterd.store.memory import rename_plan

if TYPE_CHECKING:
    from filterd.store.core import Core

HOME = MBOX_HOME
MAIL = "mail"
INBOX_FILE = "inbox"
FILE = "file"
INTENT = "rename"
DIRNAME = "mBoX-MeSsAgEs"
LOCK_ENDING = ".lock"
MAX_FILES = 20_000


@dataclass(frozen=True, slots=True)
class MboxSettings:
    """``inbox``: path of an account's INBOX, ``""`` for ``inbox`` in its directory; %{user}, %{domain}, %{account} are filled in.
    ``quoting``: how other programs quote From_ lines: ``mboxrd``, ``mboxo`` or ``none``."""

    inbox: str = ""
    quoting: str = "mboxrd"
    locks: LockRules = field(default_factory=LockRules)


def settings(core: Core) -> MboxSettings:
    found = getattr(core.settings.layout, "settings", None)
    return found if isinstance(found, MboxSettings) else MboxSettings()


def quoting(core: Core) -> str:
    return settings(core).quoting


@contextlib.contextmanager
def home(core: Core) -> Iterator[Dir]:
    with opened(core.settings.disk, f"{core.path}/{HOME}") as at:
        yield at


def path_of(core: Core, directory: str) -> str:
    """Of the mbox file of a row."""
    if directory:
        return f"{core.path}/{directory}"
    return inbox_path(settings(core), core.path, core.account)


def inbox_path(settings: MboxSettings, path: str, account: str) -> str:
    """``path``: the account's directory."""
    if not settings.inbox:
        return f"{path}/{INBOX_FILE}"
    user, _, domain = account.rpartition("@")
    filled = settings.inbox
    for name, value in (("user", user or domain), ("domain", domain), ("account", account)):
        filled = filled.replace("%{" + name + "}", value)
    return filled if filled.startswith("/") else f"{path}/{filled}"


def open_mbox(core: Core, directory: str) -> MboxFile:
    return MboxFile(core.settings.disk, path_of(core, directory), settings(core).locks)


def file_name(name: str) -> str:
    """The file below the account's directory, "" for INBOX."""
    if name == names.INBOX:
        return ""
    flat = names.encode_directory(name)[1:]
    if flat.endswith((LOCK_ENDING, "~")):  # others would take it for a lock or a copy
        flat = flat[:-1] + "&AGs-" if flat.endswith("k") else flat[:-1] + "&AH4-"
    if len(flat) > names.MAX_DIRECTORY_OCTETS - len(LOCK_ENDING):
        raise BadName("the mailbox name is too long for the disk")
    return f"{MAIL}/{flat}"


# -- finding ----------------------------------------------------------------------------------------------------------------


def _files(core: Core) -> Iterator[tuple[str, str, os.stat_result]]:
    """(path below the account's directory, mailbox name, facts) of what may be mailboxes."""
    stack = [(MAIL, 0)]
    count = 0
    while stack:
        directory, depth = stack.pop()
        try:
            entries = sorted(os.scandir(f"{core.path}/{directory}"), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        for entry in entries:
            count += 1
            if count > MAX_FILES:
                return
            if entry.name.startswith(".") or entry.name.endswith((LOCK_ENDING, "~")):
                continue
            below = f"{directory}/{entry.name}"
            if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                stack.append((below, depth + 1))
            elif entry.is_file(follow_symlinks=False):
                name = _name_of(below)
                if name is not None and name != names.INBOX:
                    yield below, name, entry.stat(follow_symlinks=False)


def _name_of(below: str) -> str | None:
    parts = below.split("/")[1:]
    if len(parts) > 1 and parts[-1] == DIRNAME:
        parts.pop()
    decoded = [names.decode_directory("." + part, any_name=True) for part in parts]
    if None in decoded:
        return None
    try:
        return names.normalise("/".join(part for part in decoded if part is not None))
    except BadName:
        return None


def _is_mbox(core: Core, below: str, facts: os.stat_result) -> bool:
    if not facts.st_size:
        return True
    with contextlib.suppress(OSError), open(f"{core.path}/{below}", "rb") as file:
        return fmt.from_date(file.readline(fmt.MAX_FROM_OCTETS).rstrip(b"\n")) is not None
    return False


def looked_recently(core: Core) -> bool:
    return core.root_seen == _stamp(core)


def _stamp(core: Core) -> int:
    """Changes when a file comes or goes in the directory of mailboxes; those that other programs nest are looked at too."""
    total = 0
    for directory, folders, _ in os.walk(f"{core.path}/{MAIL}"):
        folders[:] = [each for each in folders if not each.startswith(".")]
        with contextlib.suppress(FileNotFoundError):
            total = (total * 31 + os.stat(directory).st_mtime_ns) % 2**61
    return total or 1


def discover(core: Core) -> None:
    """Bring the index's mailboxes in line with the files. Under the lock."""
    stamp = _stamp(core)
    rows = {row.directory: row for row in core.index.mailboxes()}
    found = {"": names.INBOX}
    taken = {names.INBOX}
    for below, name, facts in _files(core):
        if name not in taken and (below in rows or _is_mbox(core, below, facts)):
            found[below] = name
            taken.add(name)
    fresh = [below for below in found if below not in rows]
    gone = [row for below, row in rows.items() if below not in found]
    lost = [row for row in rows.values() if not os.path.isdir(f"{core.path}/{HOME}/{row.mid}")]
    for row in lost:
        if row not in gone:
            _make_home(core, row)
    if fresh or gone:
        with core.index.transaction():
            for row in gone:
                core.drop_folder(row.id)
                core.index.drop_mailbox(row.id)
            homes = _homes(core) if fresh else {}
            kept = {row.mid for row in rows.values() if row not in gone}
            for below in fresh:
                core.index.add_mailbox(_row_for(core, below, found[below], homes.get(below, ""), kept))
    core.root_seen = _stamp(core) if fresh or gone else stamp


def _homes(core: Core) -> dict[str, str]:
    """The identities that lie there: file -> mailbox id."""
    out: dict[str, str] = {}
    with home(core) as at:
        for mid in os.listdir(at.fd):
            if os.path.isdir(f"{at.path}/{mid}"):
                with opened(core.settings.disk, f"{at.path}/{mid}") as inner:
                    data = read_small(inner, FILE)
                if data is not None:
                    out[os.fsdecode(data.rstrip(b"\n"))] = mid
    return out


def _row_for(core: Core, below: str, name: str, mid: str, kept: set[str]) -> MailboxRow:
    file = None
    if mid and mid not in kept:
        with opened(core.settings.disk, f"{core.path}/{HOME}/{mid}") as at:
            file = read_mailbox_file(at)
    if file is None or file.id != mid:
        file = MailboxFile(core.settings.ids.token(8), tree.next_uidvalidity(core), BLOCK + 1, BLOCK + 1)
        row = tree.new_row(file, below, name)
        _make_home(core, row)
        return row
    return tree.new_row(file, below, name, AFTER_POWER)


def _make_home(core: Core, row: MailboxRow) -> None:
    """The identity, durable."""
    disk = core.settings.disk
    built = f"filterd-make-{row.mid}"
    file = MailboxFile(row.mid, row.uidvalidity, row.uid_mark, row.modseq_mark, row.special_use)
    with opened(disk, f"{core.path}/tmp") as tmp, home(core) as at:
        if os.path.lexists(f"{tmp.path}/{built}"):
            remove_tree(core, tmp, built)
        disk.make_dir(tmp, built)
        with opened(disk, f"{tmp.path}/{built}") as inner:
            durable.replace_small(disk, inner, FILE, os.fsencode(row.directory) + b"\n")
            durable.replace_small(disk, inner, MAILBOX_FILE, file.render())
        disk.rename(tmp, built, at, row.mid)
        disk.sync_dir(at)


# -- changing -----------------------------------------------------------------------------------------------------------------


def create(core: Core, mailbox: str, special_use: str = "") -> MailboxInfo:
    name = names.normalise(mailbox)
    with core.locked():
        discover(core)
        for each in tree.missing_parents(core, name):
            _make(core, each, "")
        core.account_changed()
        return tree.info_of(core, _make(core, name, special_use))


def _make(core: Core, name: str, special_use: str) -> MailboxRow:
    disk = core.settings.disk
    below = file_name(name)
    with core.index.transaction():
        uidvalidity = tree.next_uidvalidity(core)
    file = MailboxFile(core.settings.ids.token(8), uidvalidity, BLOCK + 1, BLOCK + 1, special_use)
    row = tree.new_row(file, below, name)
    directory, base = os.path.split(below)
    with opened(disk, f"{core.path}/{directory}") as at:
        if os.path.lexists(f"{at.path}/{base}"):
            raise MailboxExists(f"a file is in the way of {name}")
        _make_home(core, row)
        fresh = disk.write_new(at, b"")
        try:
            disk.sync(fresh)
            disk.publish(fresh, base)
        except FileExistsError as error:
            disk.discard(fresh)
            raise MailboxExists(f"a file is in the way of {name}") from error
        disk.sync_dir(at)
    with core.index.transaction():
        core.index.add_mailbox(row)
    return row


def delete(core: Core, mailbox: str) -> None:
    with core.locked():
        folder, row = core.box(mailbox)
        if row.name == names.INBOX:
            raise BadName("INBOX cannot be deleted")
        core.drop_folder(folder.id)
        disk = core.settings.disk
        mbox = open_mbox(core, row.directory)
        try:
            with mbox.held():
                disk.unlink(mbox.at, mbox.name)
                disk.sync_dir(mbox.at)
        finally:
            mbox.close()
        with core.index.transaction():
            core.index.drop_mailbox(row.id)
        core.changed(row)
        core.account_changed()
        with home(core) as at, opened(disk, f"{core.path}/tmp") as tmp:
            gone = f"filterd-gone-{row.mid}"
            disk.rename(at, row.mid, tmp, gone)
            disk.sync_dir(at)
            remove_tree(core, tmp, gone)


def rename(core: Core, old: str, new: str) -> None:
    """Not for INBOX (its messages move, ``mbox_transfer``)."""
    old, new = names.normalise(old), names.normalise(new)
    with core.locked():
        discover(core)
        rows = {row.name: row for row in core.index.mailboxes()}
        plan = rename_plan(old, new, rows)
        todo = [(rows[name], target, file_name(target)) for name, target in plan]
        for _, target, below in todo:
            if os.path.lexists(f"{core.path}/{below}"):
                raise MailboxExists(f"a file is in the way of {target}")
        for name, _ in plan:
            core.drop_folder(rows[name].id)
        intent = b"".join(
            b"%s\t%s\t%s\n" % (row.mid.encode(), os.fsencode(row.directory), os.fsencode(below))
            for row, _, below in todo
        )
        with home(core) as at:
            durable.replace_small(core.settings.disk, at, INTENT, intent)
            for row, _, below in todo:
                _rename_one(core, row.mid, row.directory, below)
            with core.index.transaction():
                for row, target, below in todo:
                    row.name, row.directory = target, below
                    core.index.save(row)
                    core.changed(row)
            core.account_changed()
            core.settings.disk.unlink(at, INTENT)
            core.settings.disk.sync_dir(at)
        known = {row.name for row in core.index.mailboxes()}
        for parent in names.parents(new):
            if parent not in known:
                _make(core, parent, "")


def _rename_one(core: Core, mid: str, source: str, target: str) -> None:
    """May have been done already, in part."""
    disk = core.settings.disk
    if not os.path.lexists(f"{core.path}/{target}") and os.path.lexists(f"{core.path}/{source}"):
        mbox = open_mbox(core, source)
        try:
            with mbox.held(), opened(disk, os.path.dirname(f"{core.path}/{target}")) as to:
                disk.rename(mbox.at, mbox.name, to, os.path.basename(target))
                disk.sync_dir(to)
                disk.sync_dir(mbox.at)
        finally:
            mbox.close()
    if os.path.isdir(f"{core.path}/{HOME}/{mid}"):
        with opened(disk, f"{core.path}/{HOME}/{mid}") as at:
            durable.replace_small(disk, at, FILE, os.fsencode(target) + b"\n")


def finish(core: Core) -> None:
    """Under the lock, before anything else: carry out what a dead writer had decided."""
    with home(core) as at:
        if mbox_journal.recover(core.settings.disk, at, lambda path: open_mbox(core, path)):
            core.root_seen = 0
        intent = read_small(at, INTENT)
        if intent is None:
            return
        pairs = [line.split(b"\t") for line in intent.split(b"\n") if line.count(b"\t") == 2]
        for mid, source, target in pairs:
            _rename_one(core, mid.decode("ascii", "replace"), os.fsdecode(source), os.fsdecode(target))
        places = {mid.decode("ascii", "replace"): os.fsdecode(target) for mid, _, target in pairs}
        with core.index.transaction():
            for row in core.index.mailboxes():
                name = _name_of(places[row.mid]) if row.mid in places else None
                if name is not None:
                    row.directory, row.name = places[row.mid], name
                    core.index.save(row)
        core.root_seen = 0
        discover(core)
        with contextlib.suppress(FileNotFoundError):
            core.settings.disk.unlink(at, INTENT)
        core.settings.disk.sync_dir(at)


def sweep(core: Core) -> None:
    """Remove what dead writers left: what was being built or removed, and identities without a file. Under the lock."""
    disk = core.settings.disk
    with opened(disk, f"{core.path}/tmp") as tmp:
        for name in os.listdir(tmp.fd):
            if name.startswith(("filterd-gone-", "filterd-make-")):
                remove_tree(core, tmp, name)
        known = {row.mid for row in core.index.mailboxes()}
        with home(core) as at:
            for below, mid in _homes(core).items():
                if mid not in known and not os.path.lexists(path_of(core, below)):
                    with contextlib.suppress(OSError):
                        disk.rename(at, mid, tmp, f"filterd-gone-{mid}")
                        remove_tree(core, tmp, f"filterd-gone-{mid}")


def remove_tree(core: Core, parent: Dir, name: str) -> None:
    """Best effort; what stays is swept later."""
    disk = core.settings.disk
    with contextlib.suppress(OSError), opened(disk, f"{parent.path}/{name}") as at:
        for part in os.listdir(at.fd):
            disk.unlink(at, part)
        disk.remove_dir(parent, name)


def exists(core: Core, row: MailboxRow) -> bool:
    """Raises StoreUnavailable when INBOX's directory is not there."""
    path = path_of(core, row.directory)
    if not row.directory:
        if not os.path.isdir(os.path.dirname(path)):
            raise StoreUnavailable(f"there is no directory for {path}: see store.mbox.inbox")
        return True
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
