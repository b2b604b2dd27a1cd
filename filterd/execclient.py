"""Asks ``filterd-exec`` to run a program, for pipe, filter and execute of scripts.

``run`` never raises and never takes longer than its limit: a service that is gone, slow or confused is an answer.
``blocking`` makes the call that a script's host needs (``rules.host.Host.execute``) out of it, for a thread of the pool.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence

from filterd.proto.exec import Pair, Request, WireError, encode_request

log = logging.getLogger("filterd.exec")

CAPABILITIES = ("vnd.dovecot.pipe", "vnd.dovecot.filter", "vnd.dovecot.execute")
AT_ONCE = 32  # calls of one process; the others wait, and their time runs
SPARE_SECONDS = 5.0  # the service itself ends a program in time: what it needs beyond that
CHUNK = 1 << 16
PROBE_SECONDS = 2.0
ENDED = -1  # status of a program that did not come to its end as far as we know


class ExecClient:
    """``seconds`` for one program, ``output`` octets of it at most."""

    def __init__(self, path: str, seconds: float, output: int) -> None:
        self._path = path
        self._seconds = seconds + SPARE_SECONDS
        self._output = output
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(
        self, program: str, arguments: Sequence[str], data: bytes, facts: Mapping[str, str]
    ) -> tuple[int, bytes] | None:
        """(exit status, output), status below 0: ended, or nobody knows; None: no such program, no service."""
        request = Request(program, tuple(arguments), data, facts)
        try:
            async with asyncio.timeout(self._seconds), self._places:
                return await self._ask(request)
        except (TimeoutError, WireError) as error:
            log.warning(
                "program %s: %s", program, error if str(error) else "the service did not answer in time"
            )
            return ENDED, b""
        except OSError as error:
            log.warning("program %s: filterd-exec cannot be reached: %s", program, error)
            return None

    async def _ask(self, request: Request) -> tuple[int, bytes] | None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            pair = Pair(self._output)
            try:
                writer.write(encode_request(request))
                await writer.drain()
            except (BrokenPipeError, ConnectionResetError):
                log.debug("filterd-exec answers before it has read all")
            while not pair.done and (chunk := await reader.read(CHUNK)):
                pair.feed(chunk)
            answer = pair.answer()
        finally:
            writer.close()
        if answer.error:
            log.warning("program %s: %s", request.program, answer.error)
        return None if answer.status is None else (answer.status, answer.output)

    def blocking(
        self, loop: asyncio.AbstractEventLoop, facts: Mapping[str, str]
    ) -> Callable[[str, Sequence[str], bytes], tuple[int, bytes] | None]:
        """For threads: waits for the loop's answer. Never called on the loop."""

        def call(program: str, arguments: Sequence[str], data: bytes) -> tuple[int, bytes] | None:
            return asyncio.run_coroutine_threadsafe(self.run(program, arguments, data, facts), loop).result()

        return call


async def answers(path: str) -> bool:
    """Does somebody listen there now? For a loop."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_unix_connection(path)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def reachable(path: str) -> bool:
    """Does somebody listen there? Asked once, when a worker starts: no service, no capability."""
    if not path:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except OSError as error:
            log.warning("exec.socket %s: %s; pipe, filter and execute are not offered", path, error)
            return False
    return True
