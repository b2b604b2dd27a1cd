"""Runs ``*.dialog`` scripts against a door, without sockets: our own text format for conversations.

A script is read line by line; blank lines and ``#`` comments do not count::

    %option value       settings for the door (before the first step); ``%modes whole bytes`` leaves modes out
    C: text             the client sends text and CR LF
    R: text             the client sends octets: escapes \\r \\n \\t \\0 \\\\ \\xHH, nothing added
    S: text             the server's next line; ``*`` stands for anything
    S/ regex            the same as a regular expression (whole line)
    S= text             octets with escapes that come next, exactly
    S...                lines until the next S: or S/ matches
    E: text             the next entry of the door's log (what the application was told); ``*`` as above
    TLS                 the server must want to begin TLS now: the handshake is done
    EOF / CUT           the client sends no more / the connection is gone
    CLOSED              the server has closed
    SILENT              nothing more was sent
    WAIT seconds        the clock moves on
    ---                 everything so far is waited for (matters in the mode "ahead" only)

In C and R lines ``{b64:text}`` becomes base64 of text with its escapes read, ``{text*N}`` the text N times.

Every script runs in three modes: *whole* (each run of C and R lines is one chunk), *bytes* (octet by octet) and *ahead*
(the client sends all it may before it reads: later commands trail behind each chunk). The server's octets must be the
same in all three. A failure names the script's line.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("whole", "bytes", "ahead")
_MACRO = re.compile(r"\{b64:([^}]*)\}|\{([^{}]+)\*(\d+)\}")
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|.)")
_PLAIN = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_BARRIERS = ("TLS", "EOF", "CUT", "CLOSED", "SILENT", "WAIT", "---")


@dataclass(frozen=True)
class Step:
    line: int
    kind: str
    text: str = ""


@dataclass(frozen=True)
class Script:
    path: Path
    options: Mapping[str, str]
    steps: tuple[Step, ...]

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(self.options.get("modes", " ".join(MODES)).split())


class DialogFailure(AssertionError):
    """Shows the script's line first."""


def load(path: Path) -> Script:
    options: dict[str, str] = {}
    steps: list[Step] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("%"):
            name, _, value = line[1:].partition(" ")
            options[name] = value.strip()
        elif line.startswith("WAIT "):
            steps.append(Step(number, "WAIT", line[5:].strip()))
        elif line.strip() in _BARRIERS or line.strip() == "S...":
            steps.append(Step(number, line.strip()))
        elif line[:2] in ("C:", "R:", "S:", "S/", "S=", "E:"):
            steps.append(Step(number, line[:2], line[3:] if line[2:3] == " " else line[2:]))
        else:
            raise ValueError(f"{path}:{number}: not a dialog line: {line!r}")
    return Script(path, options, tuple(steps))


def unescape(text: str) -> bytes:
    def one(found: re.Match[str]) -> str:
        escape = found[1]
        if escape[0] == "x" and len(escape) == 3:
            return (
                chr(0xDC00 + int(escape[1:], 16)) if int(escape[1:], 16) > 127 else chr(int(escape[1:], 16))
            )
        return _PLAIN.get(escape, "\\" + escape)

    return _ESCAPE.sub(one, text).encode("utf-8", "surrogateescape")


def client_octets(step: Step) -> bytes:
    def macro(found: re.Match[str]) -> str:
        if found[1] is not None:
            return base64.b64encode(unescape(found[1])).decode()
        return found[2] * int(found[3])

    text = _MACRO.sub(macro, step.text)
    return unescape(text) if step.kind == "R:" else text.encode("utf-8", "surrogateescape") + b"\r\n"


class FakeTransport(asyncio.Transport):
    """Collects what is written; closing is noticed by the protocol at the loop's next turn, as with a real one."""

    def __init__(self, loop: DialogLoop, protocol: asyncio.Protocol, peer: tuple[str, int] | str) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.peer = peer
        self.out = bytearray()
        self.closed = False
        self.tls = False
        self.handshake: asyncio.Future[None] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.out += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self.peer
        if name in ("ssl_object", "sslcontext") and self.tls:
            return self
        return default

    def version(self) -> str:
        return "TLSv1.3"

    def cipher(self) -> tuple[str, str, int]:
        return ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_reading(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def can_write_eof(self) -> bool:
        return False


class DialogLoop(asyncio.SelectorEventLoop):
    """``start_tls`` waits for the script's TLS line instead of a handshake; ``ahead`` is how far the clock was moved."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    async def start_tls(self, transport: Any, *args: Any, **kwargs: Any) -> Any:
        transport.handshake = self.create_future()
        await transport.handshake
        transport.handshake = None
        transport.tls = True
        return transport


class Door:
    """One connection to an asyncio.Protocol. ``make`` runs inside the loop; ``log`` is what the application saw."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        log: list[str],
        *,
        tls: bool = False,
        peer: tuple[str, int] | str = ("192.0.2.7", 40000),
    ) -> None:
        self.log = log
        self.loop = DialogLoop()
        self.loop.set_exception_handler(self._broken)
        self.faults: list[str] = []
        self.lost = False
        self.protocol = self._in_loop(make)
        self.transport = FakeTransport(self.loop, self.protocol, peer)
        self.transport.tls = tls
        self._in_loop(lambda: self.protocol.connection_made(self.transport))

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _in_loop(self, call: Callable[[], Any]) -> Any:
        async def body() -> Any:
            result = call()
            quiet = 0
            before = len(self.transport.out) if hasattr(self, "transport") else 0
            while quiet < 20:
                await asyncio.sleep(0)
                if len(asyncio.all_tasks()) == 1:
                    await asyncio.sleep(0)  # a close called by the last task
                    break
                size = len(self.transport.out) if hasattr(self, "transport") else 0
                quiet = quiet + 1 if size == before else 0
                before = size
            return result

        result = self.loop.run_until_complete(body())
        if self.faults:
            raise DialogFailure("; ".join(self.faults))
        return result

    @property
    def closed(self) -> bool:
        return self.transport.closed

    def feed(self, data: bytes) -> None:
        # During a handshake plaintext reaches no protocol: a real TLS layer would choke on it.
        if self.transport.handshake is None and not self.transport.closed:
            self._in_loop(lambda: self.protocol.data_received(data))

    def take(self) -> bytes:
        data = bytes(self.transport.out)
        self.transport.out.clear()
        return data

    def tls(self) -> None:
        handshake = self.transport.handshake
        if handshake is None:
            raise DialogFailure("the server did not begin TLS")
        self._in_loop(lambda: handshake.set_result(None))

    def wait(self, seconds: float) -> None:
        """Move the clock in steps, so that timers that set timers run as they would."""
        for _ in range(10):
            self.loop.ahead += seconds / 10
            self._in_loop(lambda: None)

    def eof(self) -> None:
        if not self.closed and not self._in_loop(self.protocol.eof_received):
            self._in_loop(self.transport.close)

    def cut(self) -> None:
        if not self.closed:
            self._in_loop(self.transport.close)

    def close(self) -> None:
        self.cut()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@dataclass
class Runner:
    """Runs one script in one mode."""

    script: Script
    door: Door
    mode: str
    out: bytearray = field(default_factory=bytearray)
    logged: int = 0

    def run(self) -> None:
        for sends, checks in self._groups():
            self._send(sends)
            self.out += self.door.take()
            self._check(checks)
        if self.out:
            self._fail(self.script.steps[-1], f"the server sent more: {bytes(self.out[:300])!r}")

    def _groups(self) -> Iterator[tuple[list[Step], list[Step]]]:
        """Runs of steps: first all that is sent, then what must have come."""
        sends: list[Step] = []
        checks: list[Step] = []
        for step in self.script.steps:
            is_send = step.kind in ("C:", "R:")
            if is_send and checks and self.mode != "ahead":
                yield sends, checks
                sends, checks = [], []
            if step.kind in _BARRIERS:
                yield sends, checks
                yield [], [step]
                sends, checks = [], []
            elif is_send:
                sends.append(step)
            else:
                checks.append(step)
        yield sends, checks

    def _send(self, sends: list[Step]) -> None:
        data = b"".join(client_octets(step) for step in sends)
        if not data:
            return
        if self.mode == "bytes":
            for at in range(len(data)):
                self.door.feed(data[at : at + 1])
        else:
            self.door.feed(data)

    def _check(self, checks: list[Step]) -> None:
        skipping = False
        for step in checks:
            match step.kind:
                case "S...":
                    skipping = True
                    continue
                case "S:" | "S/":
                    self._line(step, skipping)
                case "S=":
                    self._octets(step)
                case "E:":
                    self._event(step)
                case _:
                    self._barrier(step)
            skipping = False

    def _line(self, step: Step, skipping: bool) -> None:
        pattern = step.text if step.kind == "S/" else glob(step.text)
        while True:
            line, end, rest = bytes(self.out).partition(b"\r\n")
            text = line.decode("utf-8", "surrogateescape")
            if not end:
                self._fail(step, f"expected {step.text!r}, the server sent only {text!r}")
            self.out = bytearray(rest)
            if re.fullmatch(pattern, text, re.DOTALL):
                return
            if not skipping:
                self._fail(step, f"expected {step.text!r}, got {text!r}")

    def _octets(self, step: Step) -> None:
        wanted = unescape(step.text)
        if not self.out.startswith(wanted):
            self._fail(step, f"expected {wanted!r}, got {bytes(self.out[: len(wanted) + 40])!r}")
        del self.out[: len(wanted)]

    def _event(self, step: Step) -> None:
        if self.logged >= len(self.door.log):
            self._fail(step, f"expected the event {step.text!r}; there was none")
        entry = self.door.log[self.logged]
        self.logged += 1
        if not re.fullmatch(glob(step.text), entry, re.DOTALL):
            self._fail(step, f"expected the event {step.text!r}, got {entry!r}")

    def _barrier(self, step: Step) -> None:
        door = self.door
        match step.kind:
            case "TLS":
                try:
                    door.tls()
                except DialogFailure as failure:
                    self._fail(step, str(failure))
            case "EOF":
                door.eof()
            case "CUT":
                door.cut()
            case "CLOSED":
                if not door.closed:
                    self._fail(step, "the server has not closed the connection")
            case "WAIT":
                door.wait(float(step.text))
            case "SILENT":
                if self.out:
                    self._fail(step, f"the server sent {bytes(self.out[:300])!r}")
        self.out += door.take()

    def _fail(self, step: Step, text: str) -> None:
        raise DialogFailure(f"{self.script.path}:{step.line} ({self.mode}): {text}")


def glob(text: str) -> str:
    """``*`` is anything, all else itself."""
    return ".*".join(re.escape(part) for part in text.split("*"))


MakeDoor = Callable[[Mapping[str, str]], Door]


def run(script: Script, mode: str, make_door: MakeDoor) -> None:
    """Run one script in one mode; raises DialogFailure."""
    door = make_door(script.options)
    try:
        Runner(script, door, mode).run()
    finally:
        door.close()
