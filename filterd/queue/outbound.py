"""The shell of our side: connections to other servers, time limits, TLS, the transcript of every attempt."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from filterd.queue.dialogue import Conversation, Mail, Refused, RemoteReply, ReplyReader, Say, Talk, Upgrade
from filterd.queue.route import Hop

CONNECT_SECONDS = 30.0
COMMAND_SECONDS = 300.0  # RFC 5321 4.5.3.2
DATA_SECONDS = 600.0  # RFC 5321 4.5.3.2.6
QUIT_SECONDS = 2.0
TRANSCRIPT_OCTETS = 8_000


def opportunistic() -> ssl.SSLContext:
    """Better than clear text, proves nothing about who is there (RFC 7435)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Broken(Exception):
    """The connection failed or the other side spoke nonsense: try another host, or later."""


@dataclass(slots=True)
class Link:
    """One open connection."""

    hop: Hop
    talk: Conversation
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    replies: ReplyReader = field(default_factory=ReplyReader)
    waiting: list[RemoteReply] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)
    used: int = 0

    def note(self, who: str, text: str) -> None:
        if sum(len(line) for line in self.transcript) < TRANSCRIPT_OCTETS:
            self.transcript.append(f"{who} {text[:500]}")

    async def run(self, steps: Talk, seconds: float = COMMAND_SECONDS) -> None:
        """Drive one generator to its end. Raises Broken and Refused."""
        answer: list[RemoteReply] | None = None
        while True:
            try:
                step = next(steps) if answer is None else steps.send(answer)
            except StopIteration:
                return
            answer = await self._perform(step, seconds)

    async def _perform(self, step: Say | Upgrade, seconds: float) -> list[RemoteReply]:
        try:
            if isinstance(step, Upgrade):
                if self.waiting:
                    raise Broken("the other side spoke before TLS began")
                self.replies = ReplyReader()  # nothing said in clear survives (RELIABILITY 5)
                await asyncio.wait_for(
                    self.writer.start_tls(opportunistic(), server_hostname=self.hop.name), seconds
                )
                self.note("*", "TLS")
                return []
            if step.data:
                self.writer.write(step.data)
                for line in (step.show or step.data.decode("utf-8", "replace")).splitlines():
                    self.note(">", line)
                await asyncio.wait_for(self.writer.drain(), DATA_SECONDS)
            return await asyncio.wait_for(
                self._read(step.replies), seconds if len(step.data) < 10_000 else DATA_SECONDS
            )
        except TimeoutError as error:
            raise Broken("no answer in time") from error
        except (OSError, ValueError, ssl.SSLError) as error:
            raise Broken(str(error) or type(error).__name__) from error

    async def _read(self, count: int) -> list[RemoteReply]:
        while len(self.waiting) < count:
            data = await self.reader.read(65_536)
            if not data:
                raise Broken("the connection was closed")
            for reply in self.replies.feed(data):
                self.note("<", reply.text)
                self.waiting.append(reply)
        out, self.waiting = self.waiting[:count], self.waiting[count:]
        return out

    async def close(self) -> None:
        with contextlib.suppress(Exception):  # a farewell nobody needs to hear
            await asyncio.wait_for(self.run(self.talk.quit()), QUIT_SECONDS)
        self.writer.close()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.writer.wait_closed(), QUIT_SECONDS)


async def connect(hop: Hop, helo: str, login: tuple[str, str] | None = None) -> Link:
    """A conversation that is ready for mail; falls back to clear text when TLS fails. Raises Broken and Refused."""
    for want_tls in (True, False):
        talk = Conversation(helo=helo, want_tls=want_tls, login=login)
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(hop.address, hop.port, limit=1 << 20), CONNECT_SECONDS
            )
        except (OSError, TimeoutError) as error:
            raise Broken(
                f"cannot connect to {hop.name} [{hop.address}]:{hop.port}: {error or 'no answer'}"
            ) from error
        link = Link(hop, talk, reader, writer)
        try:
            await link.run(talk.open())
        except Broken:
            writer.close()
            if want_tls and "STARTTLS" in talk.features:
                continue
            raise
        except Refused:
            await link.close()
            raise
        return link
    raise Broken(f"no conversation with {hop.name}")


@dataclass(slots=True)
class Attempt:
    """The end of one try for a group of recipients: each one's deciding reply, where, and what was said."""

    results: dict[str, RemoteReply]
    host: str
    transcript: str


async def attempt(link: Link, mail: Mail) -> Attempt:
    """One transaction on an open link. Raises Broken when it is not known how it ended."""
    link.transcript.clear()
    link.used += 1
    await link.run(link.talk.send(mail))
    return Attempt(dict(mail.results), f"{link.hop.name} [{link.hop.address}]", "\n".join(link.transcript))


async def first_link(hops: Sequence[Hop], helo: str, login: tuple[str, str] | None) -> Link | RemoteReply:
    """The first hop that talks; else the reply to record (4xx unless all of them refuse for good)."""
    last = RemoteReply(451, ("4.4.1 no host could be reached",))
    for hop in hops:
        try:
            return await connect(hop, helo, login)
        except Broken as error:
            last = RemoteReply(451, (f"4.4.1 {error}",))
        except Refused as error:
            # RFC 5321 4.2.1: a 5xx greeting concerns this host; the next one may be willing
            last = RemoteReply(451, (f"4.3.0 {hop.name} refused: {error.reply.text}",))
    return last
