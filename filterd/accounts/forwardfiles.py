"""``.forward`` files of system users: where an account of ours that is named like a user of this machine wants its mail.

Format (sendmail, Postfix local(8)): comma-separated targets on lines; ``#`` begins a comment line; a target is an address, a name
of our domain, or ``\\name`` for the mailbox itself; quotes around it do not count. ``|command``, ``/file``, ``:include:`` are
followed as far as the configuration allows (``outlets``, ``accounts.forward.includes``): the server is one user, what it ran or
wrote would have the rights over everybody's mail.

Invariants: a file is believed only when it is a file of its own (no link, no second name), belongs to the user or root, nobody
else may write it or the folder it is in, and it is understood as a whole. One that is not believed counts as if it were not
there: the mail is in the mailbox, and the log and ``filterd route`` say why. A file that cannot be read for now (a disk, a
server of homes) leaves the last state in force; where there is none the mail is asked to come later. Users and files are looked at
in threads of their own, never on a loop: ``find`` waits for what is older than LOOK_SECONDS, WAIT_SECONDS at most, and
on a loop not at all (``filterd.accounts.beside`` asks in a thread). One look a user at a time; who was waited for in vain is not
waited for again before his look has come to its end. Safe to use from several threads.
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from filterd.accounts.aliasfile import NOTHING_ALLOWED, Entry, forward_entry, lines_of
from filterd.accounts.aside import on_loop
from filterd.accounts.outlets import Permits

LOOK_SECONDS = 2.0
WAIT_SECONDS = 5.0
READERS = 64  # threads whose disk does not answer
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

    def __init__(
        self,
        domain: str,
        template: str,
        passwd: Passwd = pwd.getpwnam,
        includes: bool = False,
        permits: Permits = NOTHING_ALLOWED,
    ) -> None:
        self.domain = domain
        self._template = template
        self._passwd = passwd
        self._includes = includes
        self._permits = permits
        self._users: dict[str, _User] = {}
        self.readers = threading.Semaphore(READERS)

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
            found = self._entry(text, path, entry)
        except FileNotFoundError:
            return None
        except ValueError as error:
            return Entry((), path, str(error))
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            if error.errno in FOR_NOW:
                raise
            return Entry((), path, f"it cannot be read: {error.strerror}")
        return found if found.targets or found.outlets or found.refused else None

    def _entry(self, text: str, path: str, user: pwd.struct_passwd) -> Entry:
        """Raises ValueError, and OSError when a file it includes cannot be read for now."""

        def included(name: str) -> str:
            if not os.path.isabs(name):
                raise ValueError(f":include:{name}: write the whole path")
            try:
                return _text(name, user.pw_uid)
            except ValueError as error:
                raise ValueError(f":include:{name}: {error}") from None
            except OSError as error:
                if error.errno in FOR_NOW:
                    raise
                raise ValueError(f":include:{name}: {error.strerror}") from None

        include = included if self._includes else None
        found = forward_entry(_words(text), self.domain, path, user.pw_name, include, self._permits)
        if len(found.targets) + len(found.outlets) > MAX_TARGETS:
            return Entry((), path, f"it has more than {MAX_TARGETS} targets")
        return found


@dataclass(slots=True)
class _User:
    name: str
    files: ForwardFiles
    looked: float = float("-inf")
    known: bool = False
    last: Entry | None = None
    told: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    look: threading.Event | None = None  # set at the end of the look that is under way
    late: bool = False  # it was waited for in vain

    def entry(self) -> Entry | None:
        waits = not on_loop()
        with self.lock:
            stale = time.monotonic() - self.looked > LOOK_SECONDS
            if stale and self.look is None:
                self._begin()
            look, late = self.look, self.late
        if look is not None and waits and not late and not look.wait(WAIT_SECONDS):
            self._overdue(look)
        with self.lock:
            if not self.known:
                raise Later
            return self.last

    def _begin(self) -> None:
        """Under the lock."""
        if not self.files.readers.acquire(blocking=False):
            return self._tell("too many other files are being waited for")
        look = threading.Event()
        try:
            threading.Thread(
                target=self._read, args=(look,), name=f"forward file of {self.name}", daemon=True
            ).start()
        except RuntimeError as error:  # too many threads: who asks next tries again
            self.files.readers.release()
            return self._tell(str(error))
        self.look = look

    def _overdue(self, look: threading.Event) -> None:
        with self.lock:
            if self.look is look:
                self.late = True
                self._tell(f"it was not read in {WAIT_SECONDS:g} seconds")

    def _read(self, look: threading.Event) -> None:
        found, why = self.last, ""
        known = False
        try:
            found, known = self.files.read(self.name), True
            why = found.refused if found is not None else ""
        except OSError as error:
            why = str(error)
        finally:
            with self.lock:
                if known:
                    self.last, self.known = found, True
                self._tell(why)
                self.looked, self.look, self.late = time.monotonic(), None, False
            self.files.readers.release()
            look.set()

    def _tell(self, why: str) -> None:
        if why and why != self.told:
            log.warning("the forward file of %s is not followed: %s", self.name, why)
        self.told = why


def _words(text: str) -> list[str]:
    lines = (line.strip() for line in lines_of(text))
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
