"""An IMAP client that believes nothing: it keeps the mailbox's state as the server told it and checks every response.

After the idea of Dovecot's imaptest: numbers move only by EXPUNGE and only where that is allowed, UIDs ascend and stay with
their message, EXISTS never shrinks, what a UID is does not change. A broken rule raises ``Broken`` with the last lines.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

_FETCH = re.compile(rb"\* (\d+) FETCH \((.*)\)\Z", re.S)
_NUMBER = re.compile(rb"\* (\d+) (EXISTS|EXPUNGE)\Z")
_UID = re.compile(rb"\bUID (\d+)")
_FLAGS = re.compile(rb"\bFLAGS \(([^)]*)\)")
_SIZE = re.compile(rb"RFC822\.SIZE (\d+)")
_SUBJECT = re.compile(rb"Subject: (\S+)")
_CONTEXT = re.compile(rb'\* ESEARCH \(TAG "(\w+)"\) UID(?: (ALL) ([0-9:,]+)| ((?:ADDTO|REMOVEFROM) .*))?\Z')
_CHANGE = re.compile(rb"(ADDTO|REMOVEFROM) \(0 ([0-9:,]+)\)")
_LITERAL = re.compile(rb"\{(\d+)\}\r\n\Z")
QUIET = (b"FETCH", b"STORE", b"SEARCH")  # no EXPUNGE during these (RFC 9051 7.5.1)


class Broken(AssertionError):
    """The server broke a rule."""


class Ended(Exception):
    """The server said good-bye, where it may (``Session.volatile``)."""


def numbers(text: bytes) -> set[int]:
    found: set[int] = set()
    for piece in text.split(b","):
        first, _, last = piece.partition(b":")
        found.update(range(int(first), int(last or first) + 1))
    return found


@dataclass
class Known:
    """What all sessions know together: a UID is one message for ever."""

    subjects: dict[tuple[str, int], bytes] = field(default_factory=dict)
    sizes: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class Session:
    port: int
    user: str
    password: str
    known: Known
    uids: list[int | None] = field(default_factory=list)
    flags: dict[int, frozenset[bytes]] = field(default_factory=dict)
    mailbox: str = ""
    volatile: bool = False  # others may take the mailbox away: BYE is allowed
    contexts: dict[bytes, tuple[bytes, set[int]]] = field(
        default_factory=dict
    )  # tag -> search keys, what they find
    command: bytes = b""
    count: int = 0
    said: deque[bytes] = field(default_factory=lambda: deque(maxlen=40))

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        await self._response()
        await self(f'LOGIN "{self.user}" "{self.password}"'.encode())

    def close(self) -> None:
        self.writer.close()

    async def select(self, mailbox: str) -> None:
        self.mailbox = ""
        self.uids, self.flags, self.contexts = [], {}, {}
        done = (await self(b'SELECT "%b"' % mailbox.encode()))[-1].split()[1] == b"OK"
        if done or not self.volatile:
            self.mailbox = mailbox
            await self(b"UID FETCH 1:* (FLAGS RFC822.SIZE)")

    async def follow(self, keys: bytes) -> None:
        """Keep the result of this search current (RFC 5267)."""
        tag = b"c%d" % (self.count + 1)
        self.contexts[tag] = keys, set()
        if b"NOUPDATE" in b"".join(await self(b"UID SEARCH RETURN (UPDATE ALL) " + keys)):
            del self.contexts[tag]

    async def forget(self, tag: bytes) -> None:
        await self(b'CANCELUPDATE "%b"' % tag)
        del self.contexts[tag]

    async def compare(self) -> None:
        """When nobody changes anything: what the kept results became is what a new search finds."""
        await self(b"NOOP")
        for tag, (keys, found) in self.contexts.items():
            lines = await self(b"UID SEARCH " + keys)
            now = {int(uid) for line in lines if line.startswith(b"* SEARCH") for uid in line.split()[2:]}
            if found != now:
                self.broken(f"{keys!r} of {tag!r} finds {sorted(now ^ found)} more or less than was told")

    async def __call__(self, command: bytes, literal: bytes = b"") -> list[bytes]:
        """Untagged responses. NO is no fault (a message may be gone); BAD is."""
        self.count += 1
        tag = b"c%d" % self.count
        self.command = command
        line = tag + b" " + command
        self.said.append(line[:400])
        self.writer.write(line + (b" {%d+}\r\n" % len(literal) + literal if literal else b"") + b"\r\n")
        lines = []
        while True:
            response = await self._response()
            if response.startswith(tag):
                if self.volatile and b" BAD Not possible in the auth" in response:
                    self.mailbox = ""  # it was deleted
                elif b" BAD" in response[:20]:
                    self.broken(f"BAD to {line!r}")
                self.command = b""
                return [*lines, response]
            lines.append(response)
            self._untagged(response)

    async def idle(self, seconds: float) -> None:
        self.count += 1
        tag = b"c%d" % self.count
        self.command = b"IDLE"
        self.said.append(tag + b" IDLE")
        self.writer.write(tag + b" IDLE\r\n")
        done = asyncio.get_running_loop().call_later(seconds, self.writer.write, b"DONE\r\n")
        try:
            while not (response := await self._response()).startswith(tag):
                if not response.startswith(b"+"):
                    self._untagged(response)
        finally:
            done.cancel()
        self.command = b""

    async def silently(self, command: bytes, uids: Iterable[int | None], sign: bytes, flag: bytes) -> None:
        """``STORE +FLAGS.SILENT`` or ``-FLAGS.SILENT`` of ``uids``: when we are told nothing of one, its flags are what we
        work out ourselves (RFC 9051 6.4.6: no race may leave a doubt)."""
        before = {uid: self.flags.pop(uid) for uid in uids if uid is not None and uid in self.flags}
        done = (await self(command))[-1].split()[1] == b"OK"
        for uid in before.keys() & set(self.uids) - self.flags.keys():
            old = before[uid]
            self.flags[uid] = old if not done else old | {flag} if sign == b"+" else old - {flag}

    def broken(self, what: str) -> None:
        raise Broken(what + "\n" + "\n".join(repr(line[:160]) for line in self.said))

    async def _response(self) -> bytes:
        text = b""
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\r\n"):
                if self.volatile and any(said.startswith(b"* BYE") for said in self.said):
                    raise Ended
                self.broken("the connection ended")
            text += line
            literal = _LITERAL.search(line)
            if literal is None:
                break
            text += await self.reader.readexactly(int(literal[1]))
        self.said.append(text[:-2])
        return text[:-2]

    # -- the rules ------------------------------------------------------------------------------------------------
    def _untagged(self, line: bytes) -> None:
        if line.startswith(b"* BYE") and not self.volatile:
            self.broken("BYE")
        if number := _NUMBER.match(line):
            if number[2] == b"EXISTS":
                self._exists(int(number[1]))
            else:
                self._expunged(int(number[1]))
        elif fetch := _FETCH.match(line):
            self._fetched(int(fetch[1]), fetch[2])
        elif (context := _CONTEXT.match(line)) and context[1] in self.contexts:
            self._found(self.contexts[context[1]][1], context)

    def _exists(self, count: int) -> None:
        if count < len(self.uids):
            self.broken(f"EXISTS {count} after {len(self.uids)}")
        self.uids += [None] * (count - len(self.uids))

    def _found(self, known: set[int], told: re.Match[bytes]) -> None:
        if told[2]:
            known |= numbers(told[3])
        for what, uids in _CHANGE.findall(told[4] or b""):
            changed = numbers(uids)
            if not (changed.isdisjoint(known) if what == b"ADDTO" else changed <= known):
                self.broken(f"{what!r} {sorted(changed)} of {sorted(known)}")
            known ^= changed

    def _expunged(self, number: int) -> None:
        if self.command.startswith(QUIET):
            self.broken("EXPUNGE where it is not allowed")
        if not 1 <= number <= len(self.uids):
            self.broken(f"EXPUNGE {number} of {len(self.uids)}")
        uid = self.uids.pop(number - 1)
        if uid is not None:
            self.flags.pop(uid, None)
            if any(uid in found for _, found in self.contexts.values()):
                self.broken(f"UID {uid} was expunged and not taken out of a kept result first (RFC 5267 4.3)")

    def _fetched(self, number: int, items: bytes) -> None:
        if not 1 <= number <= len(self.uids):
            self.broken(f"FETCH {number} of {len(self.uids)}")
        found = _UID.search(items)
        before = self.uids[number - 1]
        uid = int(found[1]) if found else before
        if uid is None:
            return
        if before not in (None, uid):
            self.broken(f"number {number} was UID {before}, now {uid}")
        self.uids[number - 1] = uid
        lower = next((each for each in reversed(self.uids[: number - 1]) if each is not None), 0)
        higher = next((each for each in self.uids[number:] if each is not None), 2**32)
        if not lower < uid < higher:
            self.broken(f"UID {uid} between {lower} and {higher}")
        if flags := _FLAGS.search(items):
            self.flags[uid] = frozenset(flags[1].split())
        key = (self.mailbox, uid)
        if (
            self.mailbox
            and (size := _SIZE.search(items))
            and self.known.sizes.setdefault(key, int(size[1])) != int(size[1])
        ):
            self.broken(f"another size of UID {uid}")
        if (
            self.mailbox
            and (subject := _SUBJECT.search(items))
            and self.known.subjects.setdefault(key, subject[1]) != subject[1]
        ):
            self.broken(f"another message under UID {uid}")
