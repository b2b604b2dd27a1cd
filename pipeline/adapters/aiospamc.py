"""The fence around aiospamc: it writes the request and speaks the protocol, we own the streams and the judgement.

Why a fence: aiospamc reads until EOF without a limit, waits for a close that may not come, and binds the message to its
logger. So: its logger is disabled before anything is asked; its connection manager is replaced by one that works on
streams we opened, reads at most REPLY_LIMIT octets and closes without waiting; the raw reply is judged by
``pipeline.wire.spamd`` before aiospamc's parser sees it. Time limits are the caller's (it cancels).

Imported on first use only: aiospamc brings loguru and certifi, 0.1 s that a single delivery without spamd should not pay.
"""

from __future__ import annotations

import asyncio

from aiospamc.client import Client
from aiospamc.connections import ConnectionManager, Timeout
from aiospamc.header_values import (
    ActionOption,
    Headers,
    MessageClassOption,
    MessageClassValue,
    SetOrRemoveValue,
    UserValue,
)
from aiospamc.requests import Request
from loguru import logger

from pipeline.errors import StageFault
from pipeline.wire.spamd import REPLY_LIMIT, Judgement, judge, told, wanted

logger.disable("aiospamc")  # before the first request: it binds whole messages to its log records


class _Streams(ConnectionManager):  # type: ignore[misc]  # aiospamc's types are not followed
    """A connection that is open already."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seconds: float,
        telling: bool = False,
        more: int | None = None,
    ) -> None:
        super().__init__("spamd", Timeout(total=seconds))
        self._telling = telling
        self._text = more is not None
        self._limit = REPLY_LIMIT + (more or 0)
        self.did: bool | None = None
        self._reader = reader
        self._writer = writer
        self.judgement: Judgement | None = None

    async def _send(self, data: bytes) -> bytes:
        self._writer.write(data)
        if self._writer.can_write_eof():
            self._writer.write_eof()
        try:
            await self._writer.drain()
        except ConnectionError:
            # It closed early, and may have said why: the reply is read all the same. A reply is never taken for a
            # verdict on half a message: spamd itself checks Content-length before it looks.
            await asyncio.sleep(0)
        raw = await self._read()
        if self._telling:
            self.did = told(raw)
        else:
            self.judgement = judge(raw, self._limit, self._text)
        return raw

    async def _read(self) -> bytes:
        received = b""
        try:
            while len(received) <= self._limit:
                part = await self._reader.read(REPLY_LIMIT)
                if not part:
                    break
                received += part
                whole = wanted(received, self._limit)
                if whole is not None and len(received) >= whole:
                    break
        except OSError as error:
            raise StageFault(
                "protocol", f"the connection to spamd broke: {error.strerror or error}"
            ) from error
        return received


async def ask(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    verb: str,
    data: bytes,
    user: str,
    seconds: float,
    more: int | None = None,
) -> Judgement:
    """Have ``data`` judged by SYMBOLS or REPORT; by HEADERS or PROCESS, whose answer may be ``more`` octets longer.

    Raises StageFault. The streams are closed afterwards.
    """
    streams = _Streams(reader, writer, seconds, more=more)
    headers = Headers({"User": UserValue(user)} if user else {})
    await _exchange(streams, writer, Request(verb, headers=headers, body=data), seconds)
    if streams.judgement is None:
        raise StageFault("protocol", "spamd gave no verdict")
    return streams.judgement


async def tell(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    spam: bool,
    forget: bool,
    data: bytes,
    user: str,
    seconds: float,
) -> bool:
    """Have ``data`` learned as spam or ham, or forgotten (TELL). False: spamd knew already. Raises StageFault."""
    streams = _Streams(reader, writer, seconds, telling=True)
    action = SetOrRemoveValue(ActionOption(local=True, remote=False))
    told_class = MessageClassOption.spam if spam else MessageClassOption.ham
    headers = Headers({"Message-class": MessageClassValue(told_class), "Remove" if forget else "Set": action})
    if user:
        headers["User"] = UserValue(user)
    await _exchange(streams, writer, Request("TELL", headers=headers, body=data), seconds)
    if streams.did is None:
        raise StageFault("protocol", "spamd did not say what it did")
    return streams.did


async def _exchange(
    streams: _Streams, writer: asyncio.StreamWriter, request: Request, seconds: float
) -> None:
    try:
        await Client(streams).request(request)
    except (StageFault, asyncio.CancelledError):
        raise
    except TimeoutError as error:
        raise StageFault("timeout", f"no answer from spamd within {seconds:g} s") from error
    except Exception as error:  # aiospamc's own classes, or its parser stumbling: no verdict
        if (
            streams.did is not None
        ):  # it cannot read the body of an answer to TELL (an empty line); we have judged it
            return
        raise StageFault(
            "protocol", f"aiospamc could not read spamd's answer: {type(error).__name__}"
        ) from error
    finally:
        writer.transport.abort()
