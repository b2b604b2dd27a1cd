"""Takes away from the process of ``filterd-exec`` what programs must not have: the network, the mail, rights, resources.

Order, before anything else runs in the process (Linux): a network of its own with nothing in it (CLONE_NEWNET), mounts of its
own with an empty memory file system over ``data_dir`` (CLONE_NEWNS), the user and group of ``exec.user`` when started as
root, no new rights by setuid programs (PR_SET_NO_NEW_PRIVS). Without root the first two need a user namespace of our own,
which some systems forbid. ``isolate`` returns what could not be had; ``exec.isolation`` decides whether that is borne.
Elsewhere than on Linux nothing can be had but the user: keep the network away with the means of the system there.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
from collections.abc import Callable
from dataclasses import dataclass

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000  # <linux/sched.h>
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18  # <linux/mount.h>
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38  # <linux/prctl.h>
WORK_OCTETS = 64 << 20  # of files that programs make, all together


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """Of one program: seconds of time, octets of memory, of a file, of output; processes and open files."""

    seconds: float = 10.0
    memory: int = 512 << 20
    file: int = 64 << 20
    output: int = 8 << 20
    processes: int = 64
    files: int = 64


class CannotIsolate(Exception):
    """The text says what is missing and what to do."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> bool:
    try:
        return int(_libc().unshare(flags)) == 0
    except AttributeError:  # not Linux
        return False


def isolate(user: str, hidden: str) -> list[str]:
    """What could not be taken away, in words; empty: nothing is missing. Raises CannotIsolate for a wrong ``user``.

    ``hidden`` (``data_dir``) is the empty work area afterwards, if mounts can be made.
    """
    root = os.geteuid() == 0
    entry = _entry(user) if root else None
    uid, gid = (entry.pw_uid, entry.pw_gid) if entry is not None else (os.geteuid(), os.getegid())
    own = root or _own_users(uid, gid)
    missing = []
    if not (own and _unshare(CLONE_NEWNET)):
        missing.append("the network")
    hidden_now = own and _unshare(CLONE_NEWNS) and _cover(hidden, uid, gid)
    if not hidden_now and not root:
        missing.append("the mail (it runs as the same user)")
    if entry is not None:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if not _control(PR_SET_NO_NEW_PRIVS):
        missing.append("the rights of setuid programs")
    _control(PR_SET_CHILD_SUBREAPER)  # what a program leaves behind becomes our child, and is ended
    os.umask(0o077)
    return missing


def _entry(user: str) -> pwd.struct_passwd:
    if not user:
        raise CannotIsolate("started as root, filterd-exec needs exec.user: a user for nothing else")
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise CannotIsolate(f"exec.user: this system has no user {user}") from None
    if entry.pw_uid == 0:
        raise CannotIsolate("exec.user must not be root")
    return entry


def _own_users(uid: int, gid: int) -> bool:
    """A user namespace in which we are who we are: it allows an ordinary user the other namespaces."""
    if not _unshare(CLONE_NEWUSER):
        return False
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("gid_map", f"{gid} {gid} 1"),
            ("uid_map", f"{uid} {uid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        return False
    return True


def _cover(path: str, uid: int, gid: int) -> bool:
    """An empty file system over ``path``, which is our working directory then."""
    mount = _libc().mount
    if mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        return False
    options = f"size={WORK_OCTETS},mode=0700,uid={uid},gid={gid}".encode()
    if mount(b"tmpfs", os.fsencode(path), b"tmpfs", MS_NOSUID | MS_NODEV, options) != 0:
        return False
    os.chdir(path)
    return True


def _control(option: int) -> bool:
    try:
        return int(_libc().prctl(option, 1, 0, 0, 0)) == 0
    except AttributeError:
        return False


def limiter(limits: ProgramLimits) -> Callable[[], None]:
    """What a program's process does before the program begins."""
    cpu = int(limits.seconds) + 1
    wanted = (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
    )

    def limit() -> None:
        for kind, most in wanted:
            _, hard = resource.getrlimit(kind)
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (value, value))

    return limit
