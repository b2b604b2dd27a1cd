"""The mailboxes of a Maildir account as directories: making, removing, renaming, finding, subscribing.

Each change is one rename of a directory, so that a crash leaves it undone or done: a mailbox is built in ``tmp`` and renamed
into place, a deleted one is renamed into ``tmp`` and removed there. Renaming a mailbox with children takes several; an intent
file in the index directory (``old<TAB>new`` a line) lets whoever comes after a crash finish it.

Directories are the truth of which mailboxes exist; ``discover`` brings the index in line when the root's mtime has moved. A
directory is a mailbox when it has ``cur`` and ``new``; its identity (mailbox id, UIDVALIDITY) is in its ``.filterd-mailbox``.

``subscriptions``: Dovecot's file, version 1 (one directory name a line, modified UTF-7, ``.`` between levels); version 2 is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from filterd.store import durable, names
from filterd.store.attempt import ADDING, ASIDE
from filterd.store.base import BadName, LimitReached, MailboxExists, MailboxInfo
from filterd.store.durable import Dir, opened
from filterd.store.folder import (
    BLOCK,
    MAILBOX_FILE,
    MailboxFile,
    read_mailbox_file,
    read_small,
)
from filterd.store.index import AFTER_POWER, FRESH, MailboxRow
from filterd.store.memory import MAX_MAILBOXES, rename_plan

if TYPE_CHECKING:
    from filterd.store.core import Core

SUBSCRIPTIONS = "subscriptions"
INTENT = "rename"
MARKER = "maildirfolder"  # Maildir++: an empty file that says "not an account of its own"
OLD_TEMPORARY = 36 * 3600  # Maildir: files in tmp older than this belong to nobody
COARSE = 50_000_000  # ns
_TREE_PARTS = ("cur", "new", "tmp")


def info_of(core: Core, row: MailboxRow) -> MailboxInfo:
    return MailboxInfo(row.mid, row.name, row.uidvalidity, row.special_use, row.name in subscriptions(core))


# -- finding ----------------------------------------------------------------------------------------------------------------


def looked_recently(core: Core) -> bool:
    """Nothing has come or gone in the root since it was listed."""
    return core.root_seen == os.fstat(core.root.fd).st_mtime_ns


def discover(core: Core) -> None:
    """Bring the index's mailboxes in line with the directories. Under the lock."""
    facts = os.fstat(core.root.fd)
    seen_at = core.settings.disk.now()
    found = {"": names.INBOX}
    for directory in sorted(os.listdir(core.root.fd)):
        if directory.startswith(".") and _is_folder(core, directory):
            name = names.decode_directory(directory)
            if name is not None and name not in found.values():
                found[directory] = name
    rows = {row.directory: row for row in core.index.mailboxes()}
    fresh = [directory for directory in found if directory not in rows]
    gone = [row for directory, row in rows.items() if directory not in found]
    if fresh or gone:
        _take_in(core, found, fresh, gone, {row.mid for row in rows.values()})
    core.root_seen = facts.st_mtime_ns if seen_at - facts.st_mtime_ns > COARSE else 0


def _is_folder(core: Core, directory: str) -> bool:
    path = f"{core.path}/{directory}"
    return os.path.isdir(f"{path}/cur") and os.path.isdir(f"{path}/new") and not os.path.islink(path)


def _take_in(
    core: Core, found: dict[str, str], fresh: list[str], gone: list[MailboxRow], mids: set[str]
) -> None:
    """New directories get rows, or the row of the one that was renamed; rows without a directory go."""
    moved = {row.mid: row for row in gone}
    with core.index.transaction():
        for row in gone:
            core.drop_folder(row.id)
        for directory in fresh:
            with opened(core.settings.disk, core.path_of(directory)) as at:
                row = _row_for(core, at, directory, found[directory], moved, mids)
            if row.id:
                core.index.save(row)
            else:
                core.index.add_mailbox(row)
            mids.add(row.mid)
        for row in moved.values():
            core.index.drop_mailbox(row.id)


def _row_for(
    core: Core, at: Dir, directory: str, name: str, moved: dict[str, MailboxRow], mids: set[str]
) -> MailboxRow:
    file = read_mailbox_file(at)
    if file is not None and (row := moved.pop(file.id, None)) is not None:
        row.directory, row.name = directory, name
        return row
    if file is None or file.id in mids:  # not ours yet, or a copy of one of ours
        file = MailboxFile(core.settings.ids.token(8), next_uidvalidity(core), BLOCK + 1, BLOCK + 1)
        durable.replace_small(core.settings.disk, at, MAILBOX_FILE, file.render())
        return new_row(file, directory, name)
    return new_row(file, directory, name, AFTER_POWER)


def new_row(file: MailboxFile, directory: str, name: str, stale: int = FRESH) -> MailboxRow:
    """Of a mailbox with this identity, which the index does not know yet."""
    return MailboxRow(
        0,
        file.id,
        directory,
        name,
        file.uidvalidity,
        file.special,
        uid_mark=file.uids,
        modseq_mark=file.modseqs,
        stale=stale,
    )


def next_uidvalidity(core: Core) -> int:
    """Greater than every one given out in this account. Inside a transaction."""
    last = core.index.meta("uidvalidity")
    value = max(core.now(), int(last or 0) + 1)
    core.index.set_meta("uidvalidity", str(value))
    return value


def listing(core: Core) -> list[MailboxRow]:
    """All mailboxes, INBOX first."""
    layout = core.settings.layout
    if not layout.looked_recently(core):
        with core.locked():
            layout.discover(core)
    return sorted(core.index.mailboxes(), key=lambda row: names.sort_key(row.name))


# -- changing -----------------------------------------------------------------------------------------------------------------


def missing_parents(core: Core, name: str) -> list[str]:
    """What is made before a new mailbox. Raises MailboxExists, LimitReached."""
    known = {row.name for row in core.index.mailboxes()}
    if name in known:
        raise MailboxExists(f"{name} exists")
    missing = [parent for parent in names.parents(name) if parent not in known]
    if len(known) + len(missing) >= MAX_MAILBOXES:
        raise LimitReached("no further mailbox")
    return missing


def create(core: Core, mailbox: str, special_use: str = "") -> MailboxInfo:
    name = names.normalise(mailbox)
    with core.locked():
        discover(core)
        for each in missing_parents(core, name):
            _make(core, each, "")
        row = _make(core, name, special_use)
        core.settings.disk.sync_dir(core.root)
        core.account_changed()
        return info_of(core, row)


def _make(core: Core, name: str, special_use: str) -> MailboxRow:
    disk = core.settings.disk
    directory = names.encode_directory(name)
    mid = core.settings.ids.token(8)
    with core.index.transaction():
        uidvalidity = next_uidvalidity(core)
    file = MailboxFile(mid, uidvalidity, BLOCK + 1, BLOCK + 1, special_use)
    built = f"filterd-make-{mid}"
    with opened(disk, f"{core.path}/tmp") as tmp:
        disk.make_dir(tmp, built)
        with opened(disk, f"{core.path}/tmp/{built}") as at:
            for part in _TREE_PARTS:
                disk.make_dir(at, part)
            durable.replace_small(disk, at, MARKER, b"", durable=False)
            durable.replace_small(disk, at, MAILBOX_FILE, file.render())
        try:
            disk.rename(tmp, built, core.root, directory)
        except OSError as error:
            _remove_tree(core, tmp, built)
            raise MailboxExists(f"a directory is in the way of {name}: {error.strerror}") from error
    row = new_row(file, directory, name)
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
        gone = f"filterd-gone-{row.mid}"
        with opened(disk, f"{core.path}/tmp") as tmp:
            disk.rename(core.root, row.directory, tmp, gone)
            disk.sync_dir(core.root)
            with core.index.transaction():
                core.index.drop_mailbox(row.id)
            core.changed(row)
            core.account_changed()
            _remove_tree(core, tmp, gone)


def rename(core: Core, old: str, new: str) -> None:
    """Not for INBOX (its messages move, ``transfer``)."""
    old, new = names.normalise(old), names.normalise(new)
    with core.locked():
        discover(core)
        rows = {row.name: row for row in core.index.mailboxes()}
        plan = rename_plan(old, new, rows)
        pairs = [(rows[name].directory, names.encode_directory(target)) for name, target in plan]
        if len(pairs) > 1:
            intent = "".join(f"{source}\t{target}\n" for source, target in pairs)
            durable.replace_small(core.settings.disk, core.index_dir, INTENT, intent.encode())
        for name, _ in plan:
            core.drop_folder(rows[name].id)
        _rename_directories(core, pairs)
        with core.index.transaction():
            for (name, target), (_, directory) in zip(plan, pairs, strict=True):
                row = rows[name]
                row.name, row.directory = target, directory
                core.index.save(row)
                core.changed(row)
        core.account_changed()
        if len(pairs) > 1:
            core.settings.disk.unlink(core.index_dir, INTENT)
        known = {row.name for row in core.index.mailboxes()}
        for parent in names.parents(new):
            if parent not in known:
                _make(core, parent, "")
        core.settings.disk.sync_dir(core.root)


def _rename_directories(core: Core, pairs: Sequence[tuple[str, str]]) -> None:
    for source, target in pairs:
        if not os.path.lexists(f"{core.path}/{target}"):
            with contextlib.suppress(FileNotFoundError):
                core.settings.disk.rename(core.root, source, core.root, target)
    core.settings.disk.sync_dir(core.root)


def finish_rename(core: Core) -> None:
    """Under the lock, before mailboxes are looked for: carry out what a dead writer had decided."""
    intent = read_small(core.index_dir, INTENT)
    if intent is None:
        return
    lines = intent.decode("utf-8", "replace").split("\n")
    _rename_directories(
        core, [(source, target) for source, _, target in (line.partition("\t") for line in lines) if target]
    )
    core.root_seen = 0
    discover(core)
    with contextlib.suppress(FileNotFoundError):
        core.settings.disk.unlink(core.index_dir, INTENT)


def sweep(core: Core) -> None:
    """Remove what dead writers left in ``tmp``: ours at once (``attempt`` has told who is dead), others' after 36 hours."""
    disk = core.settings.disk
    limit = disk.now() - OLD_TEMPORARY * 1_000_000_000
    with opened(disk, f"{core.path}/tmp") as tmp:
        for name in os.listdir(tmp.fd):
            with contextlib.suppress(OSError):
                if name.startswith(("filterd-gone-", "filterd-make-")):
                    _remove_tree(core, tmp, name)
                elif name.startswith(ASIDE):
                    if not os.path.exists(f"{core.index_path}/{ADDING}{name.removeprefix(ASIDE)}"):
                        _remove_tree(core, tmp, name)
                elif os.stat(name, dir_fd=tmp.fd, follow_symlinks=False).st_mtime_ns < limit:
                    disk.unlink(tmp, name)


def _remove_tree(core: Core, parent: Dir, name: str) -> None:
    """Best effort, never through a link; what stays is swept later."""
    disk = core.settings.disk
    with contextlib.suppress(OSError), opened(disk, f"{parent.path}/{name}") as at:
        for part in os.listdir(at.fd):
            if part in _TREE_PARTS and not os.path.islink(f"{at.path}/{part}"):
                with opened(disk, f"{at.path}/{part}") as inner:
                    for file in os.listdir(inner.fd):
                        disk.unlink(inner, file)
                disk.remove_dir(at, part)
            elif os.path.isdir(f"{at.path}/{part}") and not os.path.islink(f"{at.path}/{part}"):
                _remove_tree(core, at, part)  # of another server, such as courierimapkeywords
            else:
                disk.unlink(at, part)
        disk.remove_dir(parent, name)


# -- subscriptions --------------------------------------------------------------------------------------------------------------


def subscriptions(core: Core) -> tuple[str, ...]:
    """Read again when the file is another one."""
    try:
        facts = os.stat(SUBSCRIPTIONS, dir_fd=core.root.fd, follow_symlinks=False)
        stamp = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
    except FileNotFoundError:
        return ()
    if core.subscribed is None or core.subscribed[0] != stamp:
        core.subscribed = (stamp, _read_subscriptions(core))
    return core.subscribed[1]


def _read_subscriptions(core: Core) -> tuple[str, ...]:
    data = read_small(core.root, SUBSCRIPTIONS)
    if not data:
        return ()
    lines = data.decode("utf-8", "replace").splitlines()
    found = set()
    for line in lines[2:] if lines[0].startswith("V\t2") else lines:
        # Version 2 has a TAB between levels; each is in modified UTF-7 all the same.
        directory = "." + (line.replace("\t", ".") if lines[0].startswith("V\t2") else line)
        name = (
            names.INBOX if line.upper() == names.INBOX else names.decode_directory(directory, any_name=True)
        )
        if line and name is not None:
            found.add(name)
    return tuple(sorted(found, key=names.sort_key))


def subscribe(core: Core, mailbox: str, on: bool) -> None:
    name = names.normalise(mailbox)
    with core.locked():
        known = set(subscriptions(core))
        if (name in known) == on:
            return
        write_subscriptions(core, known ^ {name})
        core.account_changed()


def write_subscriptions(core: Core, known: Iterable[str]) -> None:
    """Under the lock."""
    lines = [
        names.INBOX if each == names.INBOX else names.encode_directory(each)[1:] for each in sorted(known)
    ]
    data = "".join(line + "\n" for line in lines).encode()
    durable.replace_small(core.settings.disk, core.root, SUBSCRIPTIONS, data)
