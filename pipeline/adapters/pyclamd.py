"""The fence around pyclamd: it frames the stream, we own the socket and the judgement.

Why a fence: pyclamd 0.4.0 answers None ("clean") after EOF, a reset, a cut or late reply; it multiplies its time-out by
retries; ``send`` may write half a chunk. So: ``_init_socket`` installs a ``_Channel``, which sends everything under one
total deadline and raises our own exception (not a socket.error: pyclamd would retry it); the raw line is kept and
judged by ``pipeline.wire.clamd``; pyclamd's own result is not looked at. One object serves one command and is never
shared. Everything in here blocks and runs in the stage's bounded pool only.

Invariants: ``Question.scan`` returns Scan or raises StageFault, within ``seconds`` whatever the other end does; a
stream that was not sent whole is never clean.
"""

from __future__ import annotations

import io
import socket

import pyclamd

from pipeline.endpoint import Endpoint
from pipeline.errors import StageFault
from pipeline.ports import Clock
from pipeline.presence import Presence
from pipeline.wire.clamd import REPLY_LIMIT, Scan, Version, judge, version

CHUNK = 1 << 18  # octets of one INSTREAM chunk; clamd's limit for one is far above
GATHER = 1 << 18  # octets that are collected for one write
LATE = "no answer from clamd within {:g} s"


class Unreachable(StageFault):
    """No connection."""

    def __init__(self, reason: str) -> None:
        super().__init__("unavailable", reason)


class Absent(Unreachable):
    """Nobody listens at the socket (it does not exist, refuses, or is not for us)."""


class _Channel:
    """What pyclamd takes for its socket: ``send``, ``recv``, ``close``; one command, one answer line.

    ``deadline`` is a Clock.monotonic() value for everything together.
    """

    def __init__(self, endpoint: Endpoint, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self.clock = clock
        self.deadline = clock.monotonic() + seconds
        self.raw = b""
        self._held: list[bytes] = []
        self._held_size = 0
        self._broken: OSError | None = None
        self._socket = self._connect(endpoint)

    def _connect(self, endpoint: Endpoint) -> socket.socket:
        try:
            if endpoint.is_unix:
                channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    channel.settimeout(self._left())
                    channel.connect(endpoint.path)
                except BaseException:
                    channel.close()
                    raise
                return channel
            channel = socket.create_connection((endpoint.host, endpoint.port), timeout=self._left())
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return channel
        except TimeoutError as error:
            raise StageFault("timeout", LATE.format(self.seconds)) from error
        except OSError as error:
            kind = Absent if Presence.nobody(error) else Unreachable
            raise kind(f"cannot reach {endpoint}: {error.strerror or error}") from error

    def _left(self) -> float:
        left = self.deadline - self.clock.monotonic()
        if left <= 0:
            raise StageFault("timeout", LATE.format(self.seconds))
        return left

    def send(self, data: bytes) -> int:
        """All of it, later: small pieces (a length, the final zero) wait for the next large one or for ``recv``."""
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size >= GATHER:
            self._flush()
        return len(data)

    def _flush(self) -> None:
        data = memoryview(b"".join(self._held))
        self._held, self._held_size = [], 0
        if self._broken is not None:
            return
        try:
            while data:
                self._socket.settimeout(self._left())
                data = data[self._socket.send(data) :]
        except TimeoutError as error:
            raise StageFault("timeout", LATE.format(self.seconds)) from error
        except OSError as error:
            self._broken = error  # clamd may have said why before it closed: recv looks

    def recv(self, _size: int) -> bytes:
        """The whole answer line the first time, b"" afterwards (that ends pyclamd's loop)."""
        if self.raw:
            return b""
        self._flush()
        received = b""
        try:
            while b"\n" not in received and len(received) <= REPLY_LIMIT:
                self._socket.settimeout(self._left())
                part = self._socket.recv(REPLY_LIMIT)
                if not part:
                    break
                received += part
        except TimeoutError as error:
            raise StageFault("timeout", LATE.format(self.seconds)) from error
        except OSError as error:
            raise StageFault(
                "protocol", f"the connection to clamd broke: {error.strerror or error}"
            ) from error
        self.raw = received
        if not received.endswith(b"\n") or self._broken is not None:
            raise self._unfinished()
        return received

    def _unfinished(self) -> StageFault:
        """Why there is no answer to a whole stream. A good word about half a stream is not believed."""
        if self._broken is None or self.raw.endswith(b" ERROR\n"):
            try:
                judge(self.raw)
            except StageFault as fault:
                return fault
        return StageFault("protocol", "clamd closed the connection before it had the whole message")

    def close(self) -> None:
        self._socket.close()

    def shut(self) -> None:
        """From another thread: whoever waits in here wakes up with an error."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # not connected any more: nobody waits
            return


class _Session(pyclamd.ClamdUnixSocket):  # type: ignore[misc]  # pyclamd has no types
    """pyclamd over our channel. Its ``__init__`` would connect once for nothing and is not called."""

    def __init__(self, endpoint: Endpoint, seconds: float, clock: Clock) -> None:
        self._endpoint = endpoint
        self._seconds = seconds
        self._clock = clock
        self.clamd_socket: _Channel | None = None

    def _init_socket(self) -> None:
        self.clamd_socket = _Channel(self._endpoint, self._seconds, self._clock)


class Question:
    """One question to clamd, asked by one thread; ``stop`` may come from another."""

    def __init__(self, endpoint: Endpoint, seconds: float, clock: Clock) -> None:
        self._session = _Session(endpoint, seconds, clock)

    def scan(self, data: bytes) -> Scan:
        """Have ``data`` scanned. Raises StageFault, ``Absent`` among them. Blocks at most ``seconds``."""
        session = self._session
        try:
            # The file branch: the one for bytes sends a second final zero chunk when the size is a multiple of CHUNK.
            session.scan_stream(io.BytesIO(data), chunk_size=CHUNK)
        except StageFault:
            raise
        except Exception as error:  # pyclamd stumbles over odd lines: an odd line is a fault, never clean
            if not self._raw():
                raise StageFault("protocol", f"pyclamd failed: {type(error).__name__}") from error
        finally:
            self._close()
        return judge(self._raw())

    def version(self) -> Version:
        """Engine and signature date. Raises StageFault. Blocks at most ``seconds``."""
        try:
            self._session.version()
        finally:
            self._close()
        return version(self._raw())

    def stop(self) -> None:
        channel = self._session.clamd_socket
        if channel is not None:
            channel.shut()

    def _raw(self) -> bytes:
        channel = self._session.clamd_socket
        return channel.raw if channel is not None else b""

    def _close(self) -> None:
        channel = self._session.clamd_socket
        if channel is not None:
            channel.close()
