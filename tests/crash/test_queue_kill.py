"""SIGKILL again and again while messages are queued and sent to a flaky host: none is lost, none is sent twice but
for the window that SMTP itself leaves open, and that is counted.

The child queues numbered messages, prints each number once it is durable, and sends through a unix socket to a host that
lives in this process, refuses for now, cuts connections in the text and after it, and counts what it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from filterd.queue.journal import Journal
from filterd.queue.rows import ENDS, LIVE

MESSAGES = 1_000
KILLS = 10
SECONDS = 90.0
COURIERS = 4

CHILD = """
import asyncio, sys
from pathlib import Path
from filterd.explain.traces import TraceWriter
from filterd.ports import SystemClock, SystemIds
from filterd.queue.base import Outgoing
from filterd.queue.route import Relay
from filterd.queue.sender import Sender, SenderSettings
from filterd.queue.spool import GroupSpool
from pipeline.zone import Zone, ZoneResolver
import filterd.queue.sender as module

module.PER_RELAY = {couriers}
root, first = Path(sys.argv[1]), int(sys.argv[2])
clock = SystemClock()


async def nothing(*arguments):
    raise AssertionError


async def produce(door):
    for number in range(first, {messages}):
        data = b"Subject: %d\\r\\n\\r\\nbody\\r\\n" % number + (b"x" * 100_000 if number % 20 == 0 else b"")
        await door.enqueue([Outgoing(b"key-%d" % number, "a@us.example", f"u{{number}}@x.example", data, "submission")])
        print(number, flush=True)


async def main():
    settings = SenderSettings(
        root / "queue", "us.example", Relay("", path=str(root / "sink")), (0.2,), 600.0, 0.0, frozenset(), frozenset()
    )
    door = GroupSpool(root / "queue", clock)
    traces = TraceWriter(root / "traces.db", 1e6)
    sender = Sender(settings, ZoneResolver(Zone()), clock, SystemIds(), traces, nothing, nothing)
    await asyncio.gather(sender.run(asyncio.Event()), produce(door))


asyncio.run(main())
"""


class FlakyHost:
    """Speaks just enough SMTP. ``taken``: texts answered 250; ``doubtful``: taken, but the answer never left."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.doubtful: Counter[str] = Counter()
        self.moods = random.Random(3)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._talk(reader, writer)
        writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        recipient = ""
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-sink\r\n250 PIPELINING\r\n")
            elif verb == b"RCPT":
                recipient = line.split(b"<")[1].split(b">")[0].decode()
                late = self.moods.random() < 0.1
                writer.write(b"450 4.2.0 later\r\n" if late else b"250 ok\r\n")
                recipient = "" if late else recipient
            elif verb == b"DATA" and not recipient:
                writer.write(b"503 5.5.1 nobody\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go\r\n")
                if self.moods.random() < 0.05:
                    return
                await reader.readuntil(b"\r\n.\r\n")
                self.taken[recipient] += 1
                if self.moods.random() < 0.05:
                    self.doubtful[recipient] += 1
                    return
                writer.write(b"250 2.0.0 taken\r\n")
            else:
                writer.write(b"250 ok\r\n")
            await writer.drain()


async def hammer(root: Path) -> tuple[FlakyHost, int]:
    """Run and kill the child until everything has ended; the host and how often it was killed."""
    host = FlakyHost()
    listening = await asyncio.start_unix_server(host.serve, str(root / "sink"), limit=1 << 20)
    promised, kills = -1, 0
    chance = random.Random(11)
    code = CHILD.format(messages=MESSAGES, couriers=COURIERS)
    deadline = time.monotonic() + SECONDS
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            str(root),
            str(promised + 1),
            stdout=asyncio.subprocess.PIPE,
            cwd=os.getcwd(),
        )
        assert process.stdout is not None
        started = time.monotonic()
        life = chance.uniform(0.05, 0.6)  # after its first line
        first = promised
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    line = await process.stdout.readline()
                    promised = int(line) if line else promised
                    if first == promised - 1:
                        started = time.monotonic()
            done = promised == MESSAGES - 1 and len(host.taken) == MESSAGES
            if (done and kills >= KILLS) or time.monotonic() > deadline:
                await asyncio.sleep(0.5)
                break
            if (
                kills < KILLS
                and (promised > first or first == MESSAGES - 1)
                and time.monotonic() - started > life
            ):
                break
        process.send_signal(signal.SIGKILL)
        kills += 1
        rest = await process.stdout.read()  # promised, and killed before we read it
        promised = max([promised, *(int(word) for word in rest.split())])
        await process.wait()
        if (
            promised == MESSAGES - 1 and len(host.taken) == MESSAGES and kills > KILLS
        ) or time.monotonic() > deadline:
            listening.close()
            return host, kills


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    host, kills = asyncio.run(hammer(tmp_path))
    assert kills > KILLS
    everyone = {f"u{number}@x.example" for number in range(MESSAGES)}
    journal = Journal(tmp_path / "queue")
    items = journal.items(LIVE + ENDS)
    assert Counter(item.recipient for item in items) == dict.fromkeys(everyone, 1)
    assert set(host.taken) == everyone, "lost"
    twice = sum(count - 1 for count in host.taken.values())
    open_window = host.doubtful.total() + kills * COURIERS
    assert twice <= open_window, f"{twice} sent twice, {host.doubtful.total()} answers lost, {kills} kills"
    left = [item for item in items if item.state != "sent"]
    assert len(left) <= COURIERS + host.doubtful.total()  # taken, and killed before it could be written down
    assert all(item.state == "queued" for item in left)
    journal.close()
    print(f"{MESSAGES} messages, {kills} kills, {host.doubtful.total()} answers lost, {twice} sent twice")
