"""How workers leave connections to each other."""

from __future__ import annotations

import asyncio
import os
import socket

from filterd.net.limits import Admission, AdmissionLimits, Ticket
from filterd.net.listen import ListenAddress, Server, bind, bound_address
from filterd.net.share import ShareTable


def test_who_has_more_leaves_the_next_to_the_others() -> None:
    table = ShareTable(listeners=2, workers=2)
    one, two = table.share(0, 0), table.share(0, 1)
    assert not one.others_first
    one.enter()
    assert one.others_first
    assert not two.others_first
    two.enter()
    assert not one.others_first
    assert not table.share(1, 0).others_first  # another listener counts for itself
    two.leave()
    two.leave()  # never below nothing
    assert one.others_first


def test_a_new_process_in_the_place_counts_from_nothing() -> None:
    table = ShareTable(1, 2)
    old, other = table.share(0, 0), table.share(0, 1)
    old.enter()
    old.enter()
    old.close()
    new = table.share(0, 0)
    new.enter()
    old.leave()  # the old generation's connections end
    other.enter()
    assert not new.others_first
    new.enter()
    assert new.others_first


def test_the_table_is_seen_by_children() -> None:
    table = ShareTable(1, 2)
    mine = table.share(0, 0)
    child = os.fork()
    if child == 0:
        table.share(0, 1).enter()
        os._exit(0)
    os.waitpid(child, 0)
    mine.enter()
    assert not mine.others_first
    mine.enter()
    assert mine.others_first


class Door(asyncio.Protocol):
    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"220 here\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ticket.release()


def test_a_worker_with_more_waits_and_then_takes_it() -> None:
    """Nobody else comes for them, so all are served; the counts go down when they leave."""

    async def go() -> None:
        table = ShareTable(1, 2)
        sock = bind(ListenAddress("127.0.0.1", 0))
        share = table.share(0, 0)
        server = Server(sock, Door, Admission(AdmissionLimits()), share=share)
        server.start()
        port = bound_address(sock).port
        clients = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.readline(), 10) == b"220 here\r\n"
            clients.append(writer)
        assert share.others_first
        for writer in clients:
            writer.close()
            await writer.wait_closed()
        while share.others_first:
            await asyncio.sleep(0)
        server.stop()
        sock.close()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_two_workers_get_the_same_number() -> None:
    """Two servers on one socket, as two workers: ten clients at once are shared five and five."""

    async def go() -> None:
        table = ShareTable(1, 2)
        sock = bind(ListenAddress("127.0.0.1", 0))
        other = socket.socket(fileno=os.dup(sock.fileno()))
        taken = [0, 0]
        servers = []
        for at, one in enumerate((sock, other)):

            def door(ticket: Ticket, at: int = at) -> Door:
                taken[at] += 1
                return Door(ticket)

            one.setblocking(False)
            servers.append(Server(one, door, Admission(AdmissionLimits()), share=table.share(0, at)))
            servers[-1].start()
        port = bound_address(sock).port
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for reader, _ in clients:
            await asyncio.wait_for(reader.readline(), 10)
        assert taken == [5, 5]
        for server in servers:
            server.stop()
        for _, writer in clients:
            writer.close()
            await writer.wait_closed()
        sock.close()
        other.close()

    asyncio.run(asyncio.wait_for(go(), 30))
