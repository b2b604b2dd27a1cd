"""``.forward`` files of system users: where an account of ours that is named like a user of this machine wants its mail.

Format (sendmail, Postfix local(8)): comma-separated targets on lines; ``#`` begins a comment line; a target is an address, a name
of our domain, or ``\\name`` for the mailbox itself; quotes around it do not count. ``|command``, ``/file``, ``:include:`` are
not followed: the server is one user, what it ran or wrote would have the rights over everybody's mail.

Invariants: a file is believed only when it is a file of its own (no link, no second name), belongs to the user or root, nobody
else may write it or the folder it is in, and it is understood as a whole. One that is not believed counts as if it were not
there: the mail is in the mailbox, and the log and ``filterd route`` say why. A file that cannot be read for now (a disk, a
server of homes) leaves the last state in force; where there is none the mail is asked to come later. What took long the last time
is not read on a loop (``filterd.accounts.aside``); the first look at a user is. Safe to use from several threads.
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from filterd.accounts.aliasfile import Entry, targets_of
from filterd.accounts.aside import Aside

LOOK_SECONDS = 2.0
MAX_OCTETS = 65_536
MAX_TARGETS = 100
USERS_KNOWN = 10_000
NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
FOR_NOW = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
OTHERS = 0o022

log = logging.getLogger("filterd.accounts")

Passwd = Callable[[str], pwd.struct_passwd]  # raises KeyError


class Later(Exception):
    """Nobody can say now what the file says."""


class ForwardFiles:
    """Of the users whose mail is for ``domain``. ``template``: the file's path, with %{home} or %{user} in it."""

    def __init__(self, domain: str, template: str, passwd: Passwd = pwd.getpwnam) -> None:
        self.domain = domain
        self._template = template
        self._passwd = passwd
        self._users: dict[str, _User] = {}

    def find(self, name: str) -> Entry | None:
        """What the user ``name`` (folded) wants; None: nothing, or there is no such user. ``refused``: the file is not believed.
        Raises Later."""
        user = self._users.get(name)
        if user is None:
            if len(self._users) >= USERS_KNOWN:
                self._users.clear()
            user = self._users[name] = _User(name, self)
        return user.entry()

    def read(self, name: str) -> Entry | None:
        """Raises OSError when it cannot be read for now."""
        try:
            entry = self._passwd(name)
        except (KeyError, ValueError, UnicodeError):
            return None
        path = self._template.replace("%{home}", entry.pw_dir).replace("%{user}", entry.pw_name)
        try:
            text = _text(path, entry.pw_uid)
            targets, why = targets_of(_words(text), self.domain)
            if len(targets) > MAX_TARGETS:
                why = f"it has more than {MAX_TARGETS} targets"
        except FileNotFoundError:
            return None
        except ValueError as error:
            targets, why = [], str(error)
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            if error.errno in FOR_NOW:
                raise
            targets, why = [], f"it cannot be read: {error.strerror}"
        if not targets and not why:
            return None
        return Entry(() if why else tuple(targets), path, why)


@dataclass(slots=True)
class _User:
    name: str
    files: ForwardFiles
    looked: float = float("-inf")
    known: bool = False
    last: Entry | None = None
    told: str = ""
    aside: Aside = field(init=False)

    def __post_init__(self) -> None:
        self.aside = Aside(f"forward file of {self.name}", self._old, self._read)

    def entry(self) -> Entry | None:
        self.aside.fresh(wait=not self.known)
        if not self.known:
            raise Later
        return self.last

    def _old(self) -> bool:
        return not self.known or time.monotonic() - self.looked > LOOK_SECONDS

    def _read(self) -> None:
        try:
            self.last, self.known = self.files.read(self.name), True
            self._tell(self.last.refused if self.last is not None else "")
        except OSError as error:
            self._tell(str(error))
        self.looked = time.monotonic()

    def _tell(self, why: str) -> None:
        if why and why != self.told:
            log.warning("the forward file of %s is not followed: %s", self.name, why)
        self.told = why


def _words(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _text(path: str, uid: int) -> str:
    """Raises OSError, and ValueError with the words why it is not believed."""
    folder, name = os.path.split(path)
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _owned(os.fstat(at), uid, "its folder")
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise ValueError("it is a link") from None
    finally:
        os.close(at)
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise ValueError("it is no file")
    with open(fd, "rb") as stream:
        if facts.st_nlink != 1:
            raise ValueError("the file has another name, too")
        _owned(facts, uid, "it")
        data = stream.read(MAX_OCTETS + 1)
    if len(data) > MAX_OCTETS:
        raise ValueError(f"it has more than {MAX_OCTETS} octets")
    return data.decode("utf-8", "surrogateescape")


def _owned(facts: os.stat_result, uid: int, what: str) -> None:
    if facts.st_uid not in (uid, 0):
        raise ValueError(f"{what} belongs to somebody else")
    if facts.st_mode & OTHERS:
        raise ValueError(f"{what} can be written by others")
