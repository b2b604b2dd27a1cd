"""``filterd-exec``: runs the administrator's programs for scripts, away from the mail and the network.

The process isolates itself first (``filterd.execisolation``), then listens on ``exec.socket``; whoever may open that socket
(the mail server's user alone) may ask for the programs in ``exec.directory``, by file name. A program gets its arguments as
a vector, never through a shell; an empty folder that goes away afterwards; standard input, output and error and no other
descriptor; an environment of our own making. Beyond its time, its memory or its output it is ended with its whole session;
what left the session is found as our orphan and ended too. Protocol: ``filterd.proto.exec``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from filterd.execisolation import ProgramLimits, limiter
from filterd.proto.exec import Answer, Pair, Request, WireError, encode_answer
from rules.programs import name_fault

log = logging.getLogger("filterd.exec")

LOOK_AGAIN = 0.2  # seconds between looks for processes that hold a pipe of a program that ended
AT_ONCE = 16  # programs that run side by side; the others wait
REQUEST_SECONDS = 30.0  # to send a request
CHUNK = 1 << 16
ERROR_OCTETS = 2_000  # of a program's standard error, for the log
FACTS = ("USER", "SENDER", "RECIPIENT", "ORIG_RECIPIENT")
PATH = "/usr/local/bin:/usr/bin:/bin"
NOT_RUN = 127


@dataclass(slots=True)
class ExecService:
    """``directory`` holds the programs; ``work`` is where their folders are made, "" = the system's place."""

    directory: str
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    work: str = ""
    _sessions: set[int] = field(default_factory=set)
    _starting: int = 0  # programs whose processes exist and are not yet known

    async def serve(self, sock: socket.socket, stop: asyncio.Event) -> None:
        places = asyncio.Semaphore(AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._client(reader, writer, places)
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_unix_server(client, sock=sock)
        async with server:
            await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, places: asyncio.Semaphore
    ) -> None:
        pair = Pair()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                while not pair.done and (chunk := await reader.read(CHUNK)):
                    pair.feed(chunk)
            request = pair.request()
        except (WireError, TimeoutError, OSError) as error:
            log.info("a request that is none: %s", error)
            return
        async with places:
            answer = await self.run(request)
        with contextlib.suppress(OSError):
            writer.write(encode_answer(answer))
            await writer.drain()

    def find(self, name: str) -> str:
        """The program's path; "" when there is none that may run."""
        if name_fault(name):
            return ""
        path = os.path.join(self.directory, name)
        try:
            found = os.stat(path)
        except OSError:
            return ""
        if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK):
            return ""
        if found.st_mode & 0o022:
            log.warning("%s may be written by others: it is not run", path)
            return ""
        return path

    async def run(self, request: Request) -> Answer:
        """Runs one program to its end. Never raises."""
        path = self.find(request.program)
        if not path:
            return Answer(None, error=f"there is no program {request.program[:60]!r}")
        folder = tempfile.mkdtemp(prefix="run-", dir=self.work or None)
        try:
            return await self._program(path, request, folder)
        except OSError as error:
            return Answer(NOT_RUN, error=f"it cannot be started: {error.strerror or error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _program(self, path: str, request: Request, folder: str) -> Answer:
        self._starting += 1
        try:
            process = await asyncio.create_subprocess_exec(
                path,
                *request.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=folder,
                env=environment(request.facts, folder),
                start_new_session=True,
                preexec_fn=limiter(self.limits),
            )
            self._sessions.add(process.pid)
        finally:
            self._starting -= 1
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        errors = asyncio.create_task(_head(process.stderr, ERROR_OCTETS))
        feeding = asyncio.create_task(_feed(process.stdin, request.data))
        why = ""
        output: bytes | None = b""
        try:
            async with asyncio.timeout(self.limits.seconds):
                output = await _capped(process.stdout, self.limits.output)
                if output is None:
                    why = f"more than {self.limits.output} octets of output"
                else:
                    await process.wait()
        except TimeoutError:
            why = f"it took more than {self.limits.seconds:g} seconds"
        finally:
            feeding.cancel()
            await self._gone(process, process.stdout)
        said = await errors
        if said.strip():
            log.info("program %s: %s", request.program, said.decode("utf-8", "replace").strip())
        if why:
            return Answer(-signal.SIGKILL, error=why)
        status = process.returncode if process.returncode is not None else -signal.SIGKILL
        return Answer(status, output or b"", "" if status >= 0 else f"ended by signal {-status}")

    async def _gone(self, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        """Ends what is left of the program. asyncio's ``wait`` comes back only when the pipes are at their ends too, so what the
        program has still written is read away, and who left its session and holds a pipe ends as well."""
        self._end(process.pid)
        rest = asyncio.create_task(_head(output, 0))
        over = False
        while not over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):
                    await process.wait()
                    over = True
            if process.returncode is not None:
                self._sessions.discard(process.pid)
                if not self._starting:
                    self._orphans()
        rest.cancel()

    def _end(self, session: int) -> None:
        """All of the program's processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)

    def _orphans(self) -> None:
        """Processes that left a program's session have become our children (PR_SET_CHILD_SUBREAPER)."""
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                children = [int(word) for word in file.read().split()]
            for pid in children:
                if pid not in self._sessions and _session(pid) not in self._sessions:
                    with contextlib.suppress(ProcessLookupError, ChildProcessError):
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)


def _session(pid: int) -> int:
    """The session a process is in; 0 when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def environment(facts: Mapping[str, str], folder: str) -> dict[str, str]:
    """Nothing of our own environment."""
    known = {name: facts[name] for name in FACTS if name in facts}
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder, **known}


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    """A program need not read its input."""
    with contextlib.suppress(OSError):
        stream.write(data)
        await stream.drain()
    stream.close()


async def _capped(stream: asyncio.StreamReader, most: int) -> bytes | None:
    """All of it; None when it is more."""
    out = bytearray()
    while chunk := await stream.read(CHUNK):
        out += chunk
        if len(out) > most:
            return None
    return bytes(out)


async def _head(stream: asyncio.StreamReader, most: int) -> bytes:
    """The beginning; the rest is read and forgotten."""
    out = b""
    while chunk := await stream.read(CHUNK):
        out += chunk[: most - len(out)]
    return out


def without_threads() -> None:
    """Python 3.11 waits for children in threads, and a process with threads must not run code between fork and exec."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        watcher = asyncio.PidfdChildWatcher()
        asyncio.set_child_watcher(watcher)
