"""The shell of a conversation: octets to and from one connection, time limits, TLS, the transcript.

An own Protocol instead of asyncio's streams: what was received before TLS must be gone when TLS begins (RELIABILITY 5), and a
server that answers 552 in the middle of our text and hangs up must be heard although the write fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from typing import cast

from filterd.queue import tlsverify
from filterd.queue.dialogue import QUIT_SECONDS, Conversation, Mail, Say, Step, Talk, Upgrade
from filterd.queue.replies import RemoteReply, ReplyReader
from filterd.queue.route import Hop
from filterd.queue.tlsdemand import TlsResult

TRANSCRIPT_OCTETS = 8_000
HANDSHAKE_SECONDS = 30.0
UNREAD_OCTETS = 1 << 18  # received and not yet asked for; more is not a mail server


class Broken(Exception):
    """The connection failed or the other side spoke nonsense: try another host, or later."""


class Untrusted(Broken):
    """TLS is not what is demanded of this host; ``result`` for the reports."""

    def __init__(self, text: str, result: TlsResult) -> None:
        super().__init__(text)
        self.result = result


class Wire(asyncio.Protocol):
    """One connection's octets. One task reads and one writes, the same."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = bytearray()
        self.ended = False
        self._fault: Exception | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    # -- called by the loop ---------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > UNREAD_OCTETS and self.transport is not None:
            self.transport.abort()
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._fault = exc
        self._paused = False
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- called by the link ---------------------------------------------------------------------------
    async def _change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def write(self, data: bytes) -> None:
        """Returns when the system has taken it, or the other side spoke or left meanwhile."""
        if self.transport is None or self.ended:
            return
        self.transport.write(data)
        while self._paused and not self.ended and not self.received:
            await self._change()

    async def read(self) -> bytes:
        """What came; b"" at the end of the connection."""
        while not self.received and not self.ended:
            await self._change()
        data, self.received = bytes(self.received), bytearray()
        return data

    async def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        """Raises OSError, ssl.SSLError, ValueError."""
        if self.transport is None or self.ended:
            raise ConnectionError("the connection was closed")
        loop = asyncio.get_running_loop()
        new = await loop.start_tls(
            self.transport, self, context, server_hostname=name, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
        assert new is not None
        self.transport = new

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The running TLS session."""
        found = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        return cast("ssl.SSLObject | None", found)

    @property
    def stuck(self) -> bool:
        """Octets still wait for the other side to take them."""
        return self._paused

    @property
    def cause(self) -> str:
        return str(self._fault) if self._fault else "the connection was closed"

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


@dataclass(slots=True)
class Link:
    """One open connection with its conversation."""

    hop: Hop
    talk: Conversation
    wire: Wire
    context: ssl.SSLContext
    replies: ReplyReader = field(default_factory=ReplyReader)
    waiting: list[RemoteReply] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)
    noted: int = 0
    used: int = 0
    now: float = 0.0  # seconds since the epoch, when it was opened
    verified: str = ""  # why we know who is there

    @property
    def host(self) -> str:
        """For people and for the records."""
        return self.hop.path or f"{self.hop.name} [{self.hop.address}]"

    @property
    def fresh(self) -> bool:
        """Nothing was said since the last reply: an idle server that said 421 or left is of no use for the next message."""
        return not (
            self.talk.broken or self.wire.ended or self.wire.received or self.waiting or self.replies.pending
        )

    def note(self, who: str, text: str) -> None:
        if self.noted < TRANSCRIPT_OCTETS:
            self.transcript.append(f"{who} {text[:500]}")
            self.noted += len(self.transcript[-1])

    def take_transcript(self) -> str:
        text, self.transcript, self.noted = "\n".join(self.transcript), [], 0
        return text

    async def run(self, steps: Talk) -> None:
        """Drive one generator to its end. Raises Broken and Refused."""
        answer: list[RemoteReply] | None = None
        while True:
            try:
                step = next(steps) if answer is None else steps.send(answer)
            except StopIteration:
                return
            answer = await self._perform(step)

    async def _perform(self, step: Step) -> list[RemoteReply]:
        try:
            if isinstance(step, Upgrade):
                return await self._upgrade()
            async with asyncio.timeout(step.seconds):
                return await self._exchange(step)
        except TimeoutError as error:
            raise Broken("no answer in time") from error
        except (OSError, ValueError) as error:
            raise Broken(str(error) or type(error).__name__) from error

    async def _exchange(self, step: Say) -> list[RemoteReply]:
        if step.data:
            shown = step.show or step.data.decode("utf-8", "replace")
            for line in shown.splitlines():
                self.note(">", line)
            await self.wire.write(step.data)
        while len(self.waiting) < step.replies:
            data = await self.wire.read()
            if not data:
                return self._cut_short(step.replies)
            for reply in self.replies.feed(data):
                self.note("<", reply.text)
                self.waiting.append(reply)
        out, self.waiting = self.waiting[: step.replies], self.waiting[step.replies :]
        if self.wire.stuck:  # answered before our text was through: what follows would be read as text
            self.talk.broken = True
        return out

    def _cut_short(self, wanted: int) -> list[RemoteReply]:
        """RFC 5321 3.8: 421 and the end of the connection answer everything that was still open."""
        if self.waiting and self.waiting[-1].code == 421:
            self.talk.broken = True
            out = self.waiting + [self.waiting[-1]] * (wanted - len(self.waiting))
            self.waiting = []
            return out
        raise Broken(self.wire.cause)

    async def _upgrade(self) -> list[RemoteReply]:
        if self.waiting or self.replies.pending or self.wire.received:
            raise Broken("the other side spoke before TLS began")
        self.replies = ReplyReader()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS + 5):
                await self.wire.start_tls(self.context, tlsverify.server_name(self.hop))
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(*tlsverify.refusal(error)) from error
        self.check_tls()
        return []

    def check_tls(self) -> None:
        """TLS runs: is it what is demanded? Raises Untrusted; notes what was found."""
        session = self.wire.tls
        cipher = session.cipher() if session is not None else None
        what = f"{cipher[1]} {cipher[0]}" if cipher else ""
        if session is not None and self.hop.demand is not None:
            judgement = tlsverify.judge(self.hop.demand, session, self.now)
            if judgement.result is not TlsResult.OK:
                self.note("*", f"TLS {what}; {judgement.text}")
                raise Untrusted(judgement.text, judgement.result)
            self.verified = judgement.text
        self.note("*", f"TLS {what}; {self.verified or 'whose certificate it is was not checked'}".strip())

    async def attempt(self, mail: Mail) -> None:
        """One transaction. Raises Broken when it is not known how it ended for those without a result."""
        self.used += 1
        await self.run(self.talk.send(mail))

    async def close(self) -> None:
        """QUIT, and hang up whether it is answered or not."""
        if not self.talk.broken:
            with contextlib.suppress(Broken, TimeoutError):  # a farewell nobody needs to hear
                async with asyncio.timeout(QUIT_SECONDS):
                    await self.run(self.talk.quit())
        self.wire.abort()
