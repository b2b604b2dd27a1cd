"""A proxy that writes down what an IMAP client says and is answered, and plays such a recording to a server again.

The client talks to it without TLS; it talks TLS to the server. COMPRESS=DEFLATE is passed on as it is and inflated for the record.

Format (owned here): ASCII text. ``#`` lines tell the origin. ``N C octets`` is what client connection N sent: the rest of a
literal and a line; ``N S octets`` a response of the server with its literals; ``N .`` the end of the connection; ``! words`` what
happened elsewhere at that moment. Octets are written as Python writes bytes between quotes.

Played, nothing is sent before all that had been answered by then is answered, and the answers must be what they were: each
response the command asked for, in order, and the same code in the tagged one. What is another number each time (``_VARIES``) is
put aside; capabilities may be added; the mod-sequences a client quotes are those of the server it talks to now. News of other
sessions may come a command earlier or later, but all that came during IDLE must come, and after NOOP as many messages be there.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import imaplib
import json
import re
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.header import decode_header
from pathlib import Path

from filterd.imap.names import decode_utf7
from tests.e2e.server import INSECURE, Server, folders, mail

_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n\Z")
_VARIES = re.compile(
    rb"(?<=UIDVALIDITY )\d+|(?<=APPENDUID )\d+|(?<=COPYUID )\d+|(?<=MODSEQ )\(?\d+\)?|(?<=MAILBOXID )\([^)]*\)"
    rb'|(?<=INTERNALDATE )"[^"]*"|(?<=EMAILID )\([^)]*\)|(?<=THREADID )\([^)]*\)'
)
_MODSEQ = re.compile(rb"MODSEQ \(?(\d+)")
_SINCE = re.compile(rb"(?i)(CHANGEDSINCE )(\d+)")
_COUNT = re.compile(rb"\* (\d+) (EXISTS|EXPUNGE)\r\n")
_NEWS = re.compile(
    rb"\* (?:\d+ (?:EXISTS|RECENT|EXPUNGE)|VANISHED .*|OK Still here.*|FLAGS .*|OK \[PERMANENTFLAGS .*)\r\n"
)
_MARKS = re.compile(rb"\* \d+ FETCH \((?:(?:UID \d+|FLAGS \([^)]*\)|MODSEQ \(\d+\)) ?)+\)\r\n")
_NUMBER = re.compile(rb"\* \d+ (?=FETCH )")
_CODE = re.compile(rb"(?:\* )?(?:\S+ )?(?:OK|NO|BAD|BYE)(?: \[[^\]]*\])?|\+")
SECONDS = 30.0
DATE = '" 1-Jan-2026 12:00:00 +0000"'


@dataclass
class Lines:
    """Octets in, whole lines with the literals before or in them out. ``server``: a response's literals belong to its line."""

    server: bool
    rest: bytes = b""
    inflate: zlib._Decompress | None = None
    _need: int = 0
    _begun: bytes = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.rest += self.inflate.decompress(data) if self.inflate else data
        while len(self.rest) >= self._need and b"\r\n" in self.rest[self._need :]:
            end = self.rest.index(b"\r\n", self._need) + 2
            line, self.rest, self._need = self._begun + self.rest[:end], self.rest[end:], 0
            self._begun = b""
            if literal := _LITERAL.search(line):
                self._need = int(literal[1])
                if self.server:
                    self._begun = line
                    continue
            yield line

    def compressed(self) -> None:
        """From here on; what came with the last line is compressed already."""
        self.inflate = zlib.decompressobj(-15)
        self.rest = self.inflate.decompress(self.rest) if self.rest else b""


@dataclass
class _Tap:
    """Both ways of one connection. ``asked``: the tag of a COMPRESS not yet answered."""

    client: Lines = field(default_factory=lambda: Lines(server=False))
    server: Lines = field(default_factory=lambda: Lines(server=True))
    asked: bytes = b""

    def sent(self, data: bytes) -> Iterator[bytes]:
        for line in self.client.feed(data):
            if line.split()[1:2] == [b"COMPRESS"]:
                self.asked = line.split()[0]
            yield line

    def answered(self, data: bytes) -> Iterator[bytes]:
        for line in self.server.feed(data):
            if self.asked and line.startswith(self.asked + b" "):
                if line.startswith(self.asked + b" OK"):
                    self.client.compressed()
                    self.server.compressed()
                self.asked = b""
            yield line


class Recorder:
    """Listens on ``port`` of the loopback address until ``close``; ``entries``: the record, in the order of time."""

    def __init__(self, target: int) -> None:
        self.entries: list[str] = []
        self.count = 0
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(listener),))
        self._thread.start()

    def note(self, words: str) -> None:
        self.entries.append(f"! {words}")

    def quiet(self, seconds: float = 1.5) -> None:
        """Waits until nobody has said anything for that long: what a client began in the background is over."""
        count, since = len(self.entries), time.monotonic()
        while time.monotonic() < since + seconds:
            time.sleep(0.02)
            if len(self.entries) != count:
                count, since = len(self.entries), time.monotonic()

    def save(self, path: Path, *origin: str) -> None:
        """With lines that tell where it is from."""
        path.write_text("".join(f"{line}\n" for line in (*(f"# {line}" for line in origin), *self.entries)))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        await asyncio.start_server(self._client, sock=listener)
        await self._stop.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        number, tap = self.count, _Tap()
        there = await asyncio.open_connection("127.0.0.1", self._target, ssl=INSECURE)
        for side, feed, source, sink in (
            ("C", tap.sent, reader, there[1]),
            ("S", tap.answered, there[0], writer),
        ):
            task = asyncio.create_task(self._pass(f"{number} {side}", feed, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self,
        name: str,
        feed: Callable[[bytes], Iterator[bytes]],
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> None:
        """A record before the octets go on: what is answered comes after what was asked."""
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                self.entries.extend(f"{name} {line!r}" for line in feed(data))
                sink.write(data)
                await sink.drain()
        if name.endswith("C"):
            self.entries.append(f"{name[:-2]} .")
        sink.close()


@dataclass
class _Played:
    """One connection now: what must still be answered, and how many messages it was told of, then and now."""

    socket: ssl.SSLSocket
    lines: Lines = field(default_factory=lambda: Lines(server=True))
    deflate: zlib._Compress | None = None
    inbox: list[bytes] = field(default_factory=list)
    expected: list[bytes] = field(default_factory=list)
    command: bytes = b""
    then: int = 0
    now: int = 0


class Player:
    """``play`` says to a server what was recorded. ``elsewhere``: does what the ``!`` lines tell."""

    def __init__(self, port: int, elsewhere: Elsewhere) -> None:
        self._port, self._elsewhere = port, elsewhere
        self._open: dict[str, _Played] = {}
        self._modseq: dict[bytes, bytes] = {}
        self.commands: Counter[str] = Counter()  # how often each was answered OK, e.g. "UID FETCH"

    def play(self, recording: Path) -> None:
        try:
            for number, line in enumerate(recording.read_text("ascii").splitlines(), 1):
                try:
                    self._entry(line)
                except (AssertionError, OSError) as error:
                    raise AssertionError(f"{recording.name} line {number}: {line[:200]}\n{error}") from error
        finally:
            for each in self._open.values():
                each.socket.close()

    def _entry(self, line: str) -> None:
        if line.startswith("#") or not line:
            return
        name, _, rest = line.partition(" ")
        if rest[:2] == "S ":
            self._connection(name).expected.append(ast.literal_eval(rest[2:]))
            return
        for each in self._open.values():
            self._settle(each)
        if name == "!":
            self._elsewhere(*json.loads(rest))
        elif rest == ".":
            self._open.pop(name).socket.close()
        else:
            self._send(self._connection(name), ast.literal_eval(rest[2:]))

    def _connection(self, name: str) -> _Played:
        if name not in self._open:
            plain = socket.create_connection(("127.0.0.1", self._port), SECONDS)
            self._open[name] = _Played(INSECURE.wrap_socket(plain))
        return self._open[name]

    def _send(self, conn: _Played, data: bytes) -> None:
        data = _SINCE.sub(lambda found: found[1] + self._modseq.get(found[2], found[2]), data)
        words = data.split()
        if not conn.command and len(words) > 1:
            conn.command = b" ".join(words[1 : 3 if words[1].upper() == b"UID" else 2]).upper()
        conn.socket.sendall(
            conn.deflate.compress(data) + conn.deflate.flush(zlib.Z_SYNC_FLUSH) if conn.deflate else data
        )

    def _next(self, conn: _Played) -> bytes:
        while not conn.inbox:
            data = conn.socket.recv(65_536)
            assert data, "the connection ended"
            conn.inbox.extend(conn.lines.feed(data))
        return conn.inbox.pop(0)

    def _settle(self, conn: _Played) -> None:
        """Reads until all that is expected has come. A tagged line or "+" ends a turn; what follows the last one is news."""
        while any(_ends(line) for line in conn.expected):
            end = next(at for at, line in enumerate(conn.expected) if _ends(line)) + 1
            then, conn.expected = conn.expected[:end], conn.expected[end:]
            now = [self._next(conn)]
            while not _ends(now[-1]):
                now.append(self._next(conn))
            self._turn(conn, then, now)
        if conn.command != b"IDLE":
            return  # the rest of this answer was recorded later
        waiting, conn.expected = conn.expected, []
        count = [line for line in waiting if _COUNT.match(line)]
        waiting = [_put_aside(line) for line in waiting if _MARKS.match(line)]
        conn.then = _counted(conn.then, count)
        while waiting or conn.then != conn.now:
            line = self._next(conn)
            assert not _ends(line), (line, waiting)
            conn.now = _counted(conn.now, [line])
            if _put_aside(line) in waiting:
                waiting.remove(_put_aside(line))

    def _turn(self, conn: _Played, then: list[bytes], now: list[bytes]) -> None:
        for line, other in zip(_MODSEQ.findall(b"".join(then)), _MODSEQ.findall(b"".join(now)), strict=False):
            self._modseq[line] = other
        conn.then, conn.now = _counted(conn.then, then), _counted(conn.now, now)
        selecting = conn.command in (b"SELECT", b"EXAMINE")
        ours, theirs = (
            [_put_aside(line) for line in lines if selecting or not (_NEWS.match(line) or _MARKS.match(line))]
            for lines in (now, then)
        )
        assert len(ours) == len(theirs) and all(map(_same, ours, theirs)), (
            f"{conn.command!r} was answered {theirs}\nis now {ours}"
        )
        if conn.command in (b"UID FETCH", b"UID STORE"):
            missing = {_put_aside(line) for line in then if _MARKS.match(line)} - set(map(_put_aside, now))
            assert not missing, f"{conn.command!r}: {missing} not in {now}"
        if conn.command == b"NOOP":
            assert conn.then == conn.now, f"{conn.then} messages then, {conn.now} now"
        if then[-1].startswith(b"+"):
            return
        if b" OK" in now[-1][:12]:
            self.commands[conn.command.decode()] += 1
            if conn.command == b"COMPRESS":
                conn.deflate = zlib.compressobj(wbits=-15)
                conn.lines.compressed()
        conn.command = b""


def _ends(line: bytes) -> bool:
    """The greeting counts too."""
    return not line.startswith(b"* ") or line.startswith(b"* OK [CAPABILITY")


def _put_aside(line: bytes) -> bytes:
    line = _NUMBER.sub(b"* ", _VARIES.sub(b"?", line))
    code = _CODE.match(line)
    return code[0] if code and b" [CAPABILITY" not in line else line


def _same(now: bytes, then: bytes) -> bool:
    if b"CAPABILITY " in now and b"CAPABILITY " in then:
        missing = set(then.partition(b"]")[0].split()) - set(now.partition(b"]")[0].split())
        return all(b"=" in word for word in missing)
    return now == then


def _counted(count: int, lines: list[bytes]) -> int:
    for line in lines:
        if found := _COUNT.match(line):
            count = int(found[1]) if found[2] == b"EXISTS" else count - 1
    return count


class Elsewhere:
    """Another client at the same account, and what it sees. Messages are known by their subjects. ``note``: told each change."""

    def __init__(self, server: Server, person: str, note: Callable[[str], None] = lambda _: None) -> None:
        self._server, self._person, self._note = server, person, note

    def __call__(self, what: str, folder: str, subject: str, *more: str) -> None:
        """append; store (``more``: +FLAGS or -FLAGS and the flags); expunge."""
        self._note(json.dumps([what, folder, subject, *more]))
        with self._server.imap(self._person) as imap:
            if what == "append":
                assert imap.append(folder, "", DATE, mail(subject))[0] == "OK"
                return
            imap.select(folder)
            uid = imap.uid("SEARCH", "SUBJECT", f'"{subject}"')[1][0].decode() if subject.isascii() else ""
            if not uid:
                uid = next(str(each) for each, one, _ in self.state()[folder] if one == subject)
            if what == "store":
                imap.uid("STORE", uid, more[0], f"({more[1]})")
            else:
                imap.uid("STORE", uid, "+FLAGS", "(\\Deleted)")
                imap.uid("EXPUNGE", uid)

    def state(self) -> dict[str, list[tuple[int, str, set[str]]]]:
        """Folder -> (uid, subject, flags)."""
        with self._server.imap(self._person) as imap:
            return {_plain(name): list(_listed(imap, name)) for name in folders(imap)}


def _plain(quoted: str) -> str:
    name = decode_utf7(re.sub(r"\\(.)", r"\1", quoted))
    assert name is not None, quoted
    return name


def _listed(imap: imaplib.IMAP4, folder: str) -> Iterator[tuple[int, str, set[str]]]:
    imap.select(f'"{folder}"', readonly=True)
    for part in imap.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]:
        if isinstance(part, tuple):
            found = re.search(rb"UID (\d+).* FLAGS \(([^)]*)\)", part[0])
            assert found is not None, part
            words = part[1].partition(b":")[2].strip().decode("ascii", "replace")
            subject = "".join(
                text if isinstance(text, str) else text.decode(charset or "ascii")
                for text, charset in decode_header(words)
            )
            yield int(found[1]), subject, set(found[2].decode().split())
