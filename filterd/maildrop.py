"""The folder where users of this machine leave mail, whether the server runs or not: ``filterd-sendmail`` without rights.

The folder belongs to the server and has mode 1733: everybody may put a file in, nobody but the server may list or remove.
Format of a file: one line of JSON (``Drop``), a line feed, the message as it was handed over. A file of mode 0600 is being
written; 0644 says that it is complete and on the disk (the server, another user, must be able to read it; its name is chance
that nobody can guess). Its owner, as the system knows him, is who sends.

Invariants: a file goes only when each recipient has come to an end: taken (stored, or in the queue), or refused and its
sender told. A crash before that brings the file again: Date, Message-ID and ENVID derive from the file, so its delivery keys
are the same and nothing is stored or sent twice. What is no such file (a link, a device, broken JSON) is put aside once and
told, never followed. What cannot come to its end now is put off, so that it neither keeps the loop busy nor hides the files
behind it; no file, and no owner who takes his away meanwhile, ends the loop. How long it is tried counts from the first try, not
from when it was left: the server may have been away for days.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import pwd
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from filterd.accounts.directory import Account
from filterd.handover import named_user
from filterd.local_text import completed, crlf
from filterd.queue import dsn
from filterd.queue.base import Outgoing
from filterd.store.base import StoreUnavailable
from filterd.store.durable import RealDisk, digest, opened, write_complete
from pipeline.ports import Clock
from pipeline.reply import Reply
from rules.mail import header

if TYPE_CHECKING:  # the command that leaves a message does not load the server
    from filterd.local_delivery import LocalDelivery
    from filterd.queue.base import Spool

STANDARD = "/var/spool/filterd/maildrop"  # where sendmail looks when it may not read the configuration
MODE = 0o1733
COMPLETE = 0o644
LOOK_SECONDS = 2.0
LONGEST_PAUSE = 300.0  # between two tries of one file; the first is LOOK_SECONDS
MOST_AT_ONCE = 100
HEAD_OCTETS = 1 << 20  # of the line of JSON
MOST_RECIPIENTS = 10_000
GIVE_UP_SECONDS = 20 * 3600.0  # delivery keys of a first try live for a day
STALE_SECONDS = 86_400.0  # a file that nobody completes
ASIDE = ".bad-"
FIRST = ".first-"  # an empty file of ours: its time is that of the first try of the file it is named for
PARAMETERS = ("NOTIFY", "RET", "ENVID", "BODY")
NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)  # what opening a link, a socket or a device says

log = logging.getLogger("filterd.maildrop")


@dataclass(frozen=True, slots=True)
class Drop:
    """``sender`` None: who owns the file. Addresses may be bare names: the server completes them."""

    recipients: tuple[str, ...]
    sender: str | None = None
    full_name: str = ""
    params: Mapping[str, str] = field(default_factory=dict)


class Unusable(Exception):
    """The file is no drop; the text says why."""


def put(folder: str, drop: Drop, data: bytes) -> str:
    """Leave a message; durable on return. The file's name. Raises OSError."""
    facts = {
        "recipients": drop.recipients, "sender": drop.sender, "full_name": drop.full_name, "params": dict(drop.params),
    }  # fmt: skip
    name = os.urandom(16).hex()
    write_complete(os.path.join(folder, name), json.dumps(facts).encode() + b"\n" + data, COMPLETE)
    return name


def make(folder: str, user: str) -> None:
    """The folder, with the right mode and owner. Raises OSError."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    entry = named_user(user)
    if entry is not None:
        os.chown(path, entry.pw_uid, entry.pw_gid)
    path.chmod(MODE)


def read(text: bytes) -> tuple[Drop, bytes]:
    """Raises Unusable."""
    head, newline, data = text.partition(b"\n")
    if not newline or len(head) > HEAD_OCTETS:
        raise Unusable("it does not begin with a line of JSON")
    try:
        facts = json.loads(head)
    except (ValueError, RecursionError):
        raise Unusable("its first line is no JSON") from None
    if not isinstance(facts, dict):
        raise Unusable("its first line is no object")
    recipients, sender = facts.get("recipients"), facts.get("sender")
    name, params = facts.get("full_name", ""), facts.get("params", {})
    if not isinstance(recipients, list) or not 0 < len(recipients) <= MOST_RECIPIENTS:
        raise Unusable("its first line does not say for whom it is")
    good = all(isinstance(one, str) for one in recipients)
    good = good and (sender is None or isinstance(sender, str)) and isinstance(name, str)
    good = good and isinstance(params, dict) and all(isinstance(one, str) for one in params.values())
    if not good:
        raise Unusable("its first line holds other things than texts")
    known = {word: params[word] for word in PARAMETERS if word in params}
    return Drop(tuple(recipients), sender, name, known), data


@dataclass(slots=True)
class Maildrop:
    """The server's side; one a server. ``domain`` completes bare names; ``limit``: octets of a message."""

    folder: str
    hostname: str
    domain: str
    limit: int
    local: LocalDelivery
    spool: Spool
    clock: Clock
    _told: set[str] = field(default_factory=set)
    _put_off: dict[str, tuple[int, float]] = field(default_factory=dict)  # name -> (tries, not before)
    _since: dict[str, float] = field(default_factory=dict)  # name -> its first try

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            try:
                names = await asyncio.to_thread(self._waiting, loop.time())
            except OSError as error:
                self._once(self.folder, f"cannot be read: {error}")
                names = []
            for name in names:
                if stop.is_set():
                    return
                if await self._guarded(name):
                    self._forget(name)
                else:
                    tries = self._put_off.get(name, (0, 0.0))[0]
                    pause = min(LONGEST_PAUSE, LOOK_SECONDS * 2 ** min(tries, 10))
                    self._put_off[name] = (tries + 1, loop.time() + pause)
            if len(names) < MOST_AT_ONCE:
                await self._pause(stop)

    async def _pause(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await stop.wait()
        except TimeoutError:
            return

    def _waiting(self, now: float) -> list[str]:
        """Complete files that are not put off, the oldest first; what was begun long ago and never completed goes."""
        found: list[tuple[float, str]] = []
        there, marked = {self.folder}, set[str]()
        for entry in os.scandir(self.folder):
            if entry.name.startswith("."):
                if entry.name.startswith(FIRST):
                    marked.add(entry.name.removeprefix(FIRST))
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and stat.S_IMODE(facts.st_mode) & 0o444 != 0o444:
                    if facts.st_mtime < self.clock.time() - STALE_SECONDS:
                        os.unlink(entry.path)
                    continue
            except FileNotFoundError:  # its owner took it away
                continue
            there.add(entry.name)
            if self._put_off.get(entry.name, (0, now))[1] <= now:
                found.append((facts.st_mtime, entry.name))
        told = {name.removeprefix(FIRST) for name in self._told}
        for name in {*self._put_off, *told, *self._since} - there:
            self._forget(name)
        for name in marked - there:
            with contextlib.suppress(OSError):  # anybody may make such a name: a folder, say
                os.unlink(self._first(name))
        return [name for _, name in sorted(found)][:MOST_AT_ONCE]

    def _forget(self, name: str) -> None:
        self._told -= {name, FIRST + name}
        self._put_off.pop(name, None)
        self._since.pop(name, None)

    def _first(self, name: str) -> str:
        return os.path.join(self.folder, FIRST + name)

    def _trying_since(self, name: str, now: float) -> float:
        """When it was first tried; from now on that is known, in the next process too. A mark that somebody else made is not
        believed; where none can be made (a full disk) this process at least knows."""
        path, known = self._first(name), self._since.setdefault(name, now)
        try:
            with contextlib.suppress(FileNotFoundError):
                facts = os.stat(path, follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
                    return min(known, facts.st_mtime)
                os.unlink(path)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.utime(path, (known, known))
        except OSError as error:
            self._once(
                FIRST + name, f"when it was first tried cannot be written down: {error.strerror or error}"
            )
        return known

    async def _guarded(self, name: str) -> bool:
        """Is it done with? Else it stays and is tried again."""
        path = os.path.join(self.folder, name)
        try:
            try:
                if await self._one(name):
                    await asyncio.to_thread(os.unlink, path)
                    return True
            except Unusable as error:
                await asyncio.to_thread(self._aside, name)
                log.error("maildrop: %s is put aside: %s", path, error)
                return True
        except (OSError, StoreUnavailable) as error:
            self._once(name, str(error))
        except Exception:  # a bug: the file stays, the others go on
            log.exception("maildrop: %s", path)
        return False

    def _once(self, name: str, text: str) -> None:
        if name not in self._told:
            log.warning("maildrop: %s: %s", name, text)
        self._told.add(name)

    def _aside(self, name: str) -> None:
        """Out of the way, for a person to look at."""
        disk = RealDisk()
        with opened(disk, self.folder) as at:
            disk.rename(at, name, at, ASIDE + name)

    # -- one message ---------------------------------------------------------------------------
    async def _one(self, name: str) -> bool:
        """Has everything come to an end? Raises Unusable, OSError, StoreUnavailable."""
        drop, login, sender, message = await asyncio.to_thread(self._made, name)
        recipients = list(dict.fromkeys(self._address(one) for one in drop.recipients))
        params = {"ENVID": name, **drop.params}
        replies = await self.local.dropped(sender, recipients, message, Account(login), params)
        ended, now = True, self.clock.time()
        late = any(reply.temporary for reply in replies) and (
            now - await asyncio.to_thread(self._trying_since, name, now) > GIVE_UP_SECONDS
        )
        for recipient, reply in zip(recipients, replies, strict=True):
            if reply.positive:
                continue
            if reply.temporary and not late:
                self._once(name, f"<{recipient}>: {reply.text}; tried again")
                ended = False
                continue
            log.info("maildrop: %s for %s refused: %s", name, recipient, reply.text)
            await self._bounce(name, sender, recipient, reply, message, params)
        return ended

    def _made(self, name: str) -> tuple[Drop, str, str, bytes]:
        """(what the file says, whose it is, from whom, the message as it goes on); not for the loop: it may be a large one."""
        facts, text = self._read(name)
        drop, data = read(text)
        login = self._address(owner(facts.st_uid))
        sender = login if drop.sender is None else self._address(drop.sender)
        date = formatdate(facts.st_mtime, localtime=True)
        message = completed(
            data,
            header.scan(data),
            sender or login,
            drop.full_name,
            date,
            f"<{name}@{self.hostname}>",
            self.domain,
        )
        return drop, login, sender, crlf(message)

    def _read(self, name: str) -> tuple[os.stat_result, bytes]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(os.path.join(self.folder, name), flags)
        except OSError as error:
            if error.errno not in NO_FILE:  # no fault of the file's: gone, or we have too many open
                raise
            raise Unusable(f"it cannot be opened: {error.strerror}") from None
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            os.close(fd)
            raise Unusable("it is no file of its own")
        with open(fd, "rb") as stream:
            text = stream.read(self.limit + HEAD_OCTETS + 1)
        if len(text) - text.find(b"\n") - 1 > self.limit:
            raise Unusable(f"it is larger than {self.limit} octets (limits.message_size)")
        return facts, text

    def _address(self, text: str) -> str:
        bare = text.strip().removeprefix("<").removesuffix(">")
        return f"{bare}@{self.domain}" if bare and "@" not in bare else bare

    async def _bounce(
        self, name: str, sender: str, recipient: str, reply: Reply, message: bytes, params: Mapping[str, str]
    ) -> None:
        if not sender or not dsn.wanted(params, "FAILURE"):
            return
        data = dsn.compose(
            hostname=self.hostname,
            action="failed",
            reverse_path=sender,
            recipient=recipient,
            status=reply.enhanced_code or "5.0.0",
            diagnostic=f"{reply.code} {reply.enhanced_code} {reply.text}",
            original=message,
            params=params,
            message_id=f"{name}.{digest(recipient.encode())[:6].hex()}@{self.hostname}",
            now=self.clock.time(),
        )
        key = f"maildrop:{name}:{recipient}".encode()
        await self.spool.enqueue([Outgoing(key, "", sender, data, "dsn")])


def owner(uid: int) -> str:
    """The system's name for a user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def folder_for(configured: str, exists: Sequence[str] = (STANDARD,)) -> str:
    """Where to leave a message: the configured folder, else the standard one when it is there; "" = nowhere."""
    return configured or next((path for path in exists if os.path.isdir(path)), "")
