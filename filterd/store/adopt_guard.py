"""Is the other server done with its Maildir? Looked for: lock files, processes that have something of it open.

A lock file may be left over from a crash, so an operator may say that it is; an open file is never left over.
Linux's ``/proc`` tells which files are open; of processes of other users it tells only root.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

from filterd.store.core import INDEX_DIRECTORY, LOCK_FILE

LOCK_FILES = frozenset(
    (
        "dovecot-uidlist.lock",
        "dovecot-keywords.lock",
        "subscriptions.lock",
        "dovecot.index.log.lock",
        "dovecot.mailbox.log.lock",
        "courierimapuiddb.lock",
        "courier.lock",
        "courierpop3dsizelist.lock",
    )
)
# Programs that may sit in a mail folder with nothing open in it, between two commands of a client.
SERVERS = frozenset(
    ("imap", "pop3", "lmtp", "imap-hibernate", "indexer-worker", "dovecot-lda", "doveadm", "imapd", "pop3d")
)
SHOWN = 5


@dataclass(slots=True)
class Use:
    """``locks``: lock files. ``open``: who has what open. ``hidden``: processes that could not be looked at."""

    locks: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    hidden: int = 0


def look(*paths: str) -> Use:
    use = Use()
    roots = sorted({os.path.realpath(path) for path in paths if path and os.path.isdir(path)})
    for root in roots:
        for folder, folders, files in os.walk(root):
            # Mail files are many and none of them is a lock.
            folders[:] = [name for name in folders if name not in ("cur", "new")]
            use.locks += [os.path.join(folder, name) for name in sorted(files) if name in LOCK_FILES]
    for entry in sorted(os.listdir("/proc") if os.path.isdir("/proc") else [], key=len):
        if entry.isdigit() and int(entry) != os.getpid():
            _look_at(int(entry), roots, use)
    return use


def _look_at(pid: int, roots: list[str], use: Use) -> None:
    where = f"/proc/{pid}"
    name = "?"
    with contextlib.suppress(OSError), open(f"{where}/comm", encoding="utf-8", errors="replace") as file:
        name = file.read().strip()
    try:
        opened = [_target(f"{where}/fd/{fd}") for fd in os.listdir(f"{where}/fd")]
        with open(f"{where}/maps", encoding="utf-8", errors="surrogateescape") as maps:
            opened += [words[5].rstrip("\n") for line in maps if len(words := line.split(None, 5)) == 6]
    except PermissionError:
        use.hidden += 1
        return
    except OSError:
        return  # it ended meanwhile
    here = _target(f"{where}/cwd")
    if name in SERVERS and _below(here, roots):
        opened.append(here)
    found = sorted({path for path in opened if _below(path, roots)})
    if any(path.endswith(f"/{INDEX_DIRECTORY}/{LOCK_FILE}") for path in found):
        return  # a filterd: the account's lock keeps it out
    if found:
        use.open.append(f"{name} (process {pid}) has {found[0]} open")


def _target(link: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(link)
    return ""


def _below(path: str, roots: list[str]) -> bool:
    path = path.removesuffix(" (deleted)")
    return any(path == root or path.startswith(root + "/") for root in roots)


def refusal(use: Use, force: bool, server: str) -> str:
    """Why it is refused, "" when it is not."""
    if use.open:
        more = f"\n  and {len(use.open) - SHOWN} more" if len(use.open) > SHOWN else ""
        return (
            f"{server} still uses this Maildir:\n  "
            + "\n  ".join(use.open[:SHOWN])
            + more
            + f"\nStop {server} (or this user's sessions) first; --force does not help here."
        )
    if use.locks and not force:
        return (
            f"there are lock files of {server}:\n  "
            + "\n  ".join(use.locks[:SHOWN])
            + f"\nIf {server} is stopped they are left over from a crash: say --force."
        )
    return ""
