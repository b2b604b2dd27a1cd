"""One exchange with rspamd over a connection of its own. The time limit is the caller's: it cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipeline.endpoint import Endpoint
from pipeline.errors import StageFault
from pipeline.wire.http import Response, ResponseReader, request

READ = 1 << 16


async def dial(where: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError."""
    if where.is_unix:
        return await asyncio.open_unix_connection(where.path)
    return await asyncio.open_connection(where.host, where.port)


async def post(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    host: str,
    fields: Sequence[tuple[str, str]],
    data: bytes,
) -> Response:
    """POST ``data``. Raises StageFault; the streams are closed afterwards."""
    heard = ResponseReader("rspamd")
    sending = asyncio.ensure_future(_send(writer, request("POST", path, host, fields, data)))
    try:
        while heard.response is None:
            part = await reader.read(READ)
            if part:
                heard.receive(part)
            else:
                heard.eof()
        return heard.response
    except OSError as error:
        raise StageFault("protocol", f"the connection to rspamd broke: {error.strerror or error}") from error
    finally:
        sending.cancel()
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Beside the reading: it may answer before it has taken everything."""
    writer.write(data)
    try:
        await writer.drain()
    except OSError:
        return  # what it said before it closed is read all the same
