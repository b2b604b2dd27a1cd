"""The milter door's shell, without a socket: one write an answer, progress, faults, the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from filterd.doors import Neighbours
from filterd.net.limits import Admission, AdmissionLimits
from filterd.proto.milter import Judge
from filterd.servers.milter import MilterConnection, MilterDoor
from pipeline.wire import milter
from pipeline.wire.milter import (
    AddHeader,
    Bare,
    Connect,
    EndOfMessage,
    Frames,
    Header,
    Helo,
    Mail,
    Negotiate,
    Packet,
    Rcpt,
)

TALK = [
    Negotiate(6, 0x1FF, 0x1FFFFF), Connect(b"mx", b"4", 25, b"192.0.2.1"), Helo(b"mx"), Mail((b"<a@x>",)),
    Rcpt((b"<b@y>",)), Header(b"A", b" 1"), EndOfMessage(),
]  # fmt: skip


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def packets(self) -> list[Packet]:
        frames, out = Frames(), []
        frames.feed(b"".join(self.writes))
        while (packet := frames.next()) is not None:
            out.append(packet)
        return out


class Service:
    def __init__(self, answer: Sequence[Packet], wait: int = 0, fails: bool = False) -> None:
        self.answer, self.wait, self.fails = answer, wait, fails
        self.seen: list[Judge] = []

    async def judge(self, message: Judge) -> Sequence[Packet]:
        self.seen.append(message)
        for _ in range(self.wait):
            await asyncio.sleep(0)
        if self.fails:
            raise RuntimeError("a bug")
        return self.answer


def run(service: Service, *more: Packet, progress: float = 5.0) -> Transport:
    async def main() -> Transport:
        transport = Transport()
        connection = MilterConnection(MilterDoor(service, progress=progress))
        connection.connection_made(transport)
        connection.data_received(b"".join(map(milter.encode, (*TALK, *more))))
        while connection._task is not None:
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return transport

    return asyncio.run(main())


def test_changes_and_last_word_leave_in_one_write() -> None:
    service = Service([AddHeader(b"X", b" 1"), Bare.CONTINUE])
    transport = run(service)
    assert transport.packets()[-2:] == [AddHeader(b"X", b" 1"), Bare.CONTINUE]
    assert len(transport.writes) <= 2 and service.seen[0].fields == [(b"A", b" 1")]


def test_progress_while_it_takes_long() -> None:
    transport = run(Service([Bare.ACCEPT], wait=50), progress=0.0)
    assert transport.packets()[1] is Bare.PROGRESS and transport.packets()[-1] is Bare.ACCEPT


def test_a_bug_is_a_temporary_failure_and_the_session_goes_on() -> None:
    transport = run(Service([], fails=True), *TALK[3:])
    assert transport.packets()[1:] == [Bare.TEMPFAIL, Bare.TEMPFAIL] and not transport.closed


def test_quit_closes() -> None:
    assert run(Service([Bare.CONTINUE]), Bare.QUIT).closed


def test_one_mta_may_have_many_sessions() -> None:
    admission = Admission(AdmissionLimits(total=50, per_address=2))
    door = Neighbours(admission)
    tickets = [door.admit("127.0.0.1") for _ in range(40)]
    assert all(tickets) and admission.total == 40
    for ticket in tickets:
        assert ticket is not None
        ticket.release()
    assert admission.total == 0
