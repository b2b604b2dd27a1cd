"""What becomes of an item that an alias gives to a program or puts into a file: exit status, our own failures, permits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from filterd.accounts.outlets import ALIAS, Outlet, Permits
from filterd.execclient import ExecClient
from filterd.outlets import OutletDelivery, ready, reply_of
from filterd.proto.exec import Answer, Pair, Request, encode_answer
from filterd.queue.rows import OUTLET, Item
from filterd.store.durable import LockRules, RealDisk

STARTED = 1_800_000_000.0
TEXT = b"Return-Path: <a@far.example>\r\nSubject: hi\r\n\r\nbody\r\n"


def item(outlet: Outlet | None, created: float = STARTED + 1) -> Item:
    params = {OUTLET: outlet.encode()} if outlet is not None else {}
    return Item(
        7,
        1,
        created,
        "a@far.example",
        "robot@us.example",
        "|x",
        "program",
        "",
        params,
        "queued",
        0.0,
        0,
        0.0,
        "",
        0,
    )


class Service:
    """filterd-exec, as far as its answers go."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path, self.answer = path, answer
        self.asked: list[Request] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = Pair()
        while not pair.done and (chunk := await reader.read(65_536)):
            pair.feed(chunk)
        if pair.done:
            self.asked.append(pair.request())
            writer.write(encode_answer(self.answer))
        writer.close()

    async def during(self, delivery: OutletDelivery, one: Item) -> tuple[int, str, str]:
        async with await asyncio.start_unix_server(self._serve, self.path):
            reply, place = await delivery.deliver(one, TEXT)
        return reply.code, reply.lines[0], place


def delivery(socket: Path, permits: Permits | None = None) -> OutletDelivery:
    allowed = permits or Permits(frozenset({ALIAS}), frozenset({ALIAS}), (str(socket.parent),))
    return OutletDelivery(allowed, ExecClient(str(socket), 5.0, 1000), RealDisk(), LockRules(), STARTED)


@pytest.mark.parametrize(
    ("status", "code", "enhanced"),
    [
        (0, 250, "2.0.0"),
        (1, 550, "5.3.0"),
        (65, 550, "5.6.0"),
        (67, 550, "5.1.1"),
        (71, 451, "4.3.0"),
        (75, 451, "4.3.0"),
        (77, 550, "5.7.0"),
        (78, 550, "5.3.0"),
        (127, 451, "4.3.0"),
        (255, 550, "5.3.0"),
        (-9, 451, "4.3.5"),
        (None, 451, "4.3.5"),
    ],
)
def test_exit_status(tmp_path: Path, status: int | None, code: int, enhanced: str) -> None:
    service = Service(tmp_path / "socket", Answer(status, error="x" if status is None else ""))
    outlet = Outlet("grab", ("-x", "secret/path"))
    found = asyncio.run(service.during(delivery(service.path), item(outlet)))
    assert found[0] == code and found[1].startswith(f"{enhanced} ")
    assert "grab" not in found[1] and "secret" not in found[1]  # goes to strangers
    assert found[2].startswith("|grab -x secret/path")
    assert status in (0, None) or ("status" in found[2] or "ended" in found[2])
    (asked,) = service.asked
    assert asked.data.startswith(b"From a@far.example ") and asked.data.endswith(b"\nSubject: hi\n\nbody\n")
    assert asked.facts == {
        "USER": "robot@us.example",
        "SENDER": "a@far.example",
        "RECIPIENT": "robot@us.example",
    }


def test_the_users_name_goes_with_his_forward(tmp_path: Path) -> None:
    service = Service(tmp_path / "socket", Answer(0))
    permits = Permits(frozenset({"forward"}))
    asyncio.run(service.during(delivery(service.path, permits), item(Outlet("grab", owner="ann"))))
    assert service.asked[0].facts["USER"] == "ann"


def test_no_service(tmp_path: Path) -> None:
    one = delivery(tmp_path / "socket")
    reply, place = asyncio.run(one.deliver(item(Outlet("grab")), TEXT))
    assert reply.code == 451 and "filterd-exec does not run" in place
    reply, _ = asyncio.run(replace(one, client=None).deliver(item(Outlet("grab")), TEXT))
    assert reply.code == 451


def test_a_file_gets_it_once(tmp_path: Path) -> None:
    one = delivery(tmp_path / "socket")
    box = tmp_path / "box"
    for at in (STARTED - 5, STARTED - 5):  # from before this process: it may have been done
        reply, place = asyncio.run(one.deliver(item(Outlet(path=str(box)), at), TEXT))
        assert (reply.code, place) == (250, str(box))
    assert box.read_bytes().count(b"Subject: hi") == 1
    box.chmod(0o622)
    reply, place = asyncio.run(one.deliver(item(Outlet(path=str(box))), TEXT))
    assert reply.code == 451 and "others may write" in place and str(box) not in reply.lines[0]
    assert asyncio.run(one.deliver(item(Outlet(path="/dev/null")), TEXT))[0].code == 250


def test_what_is_not_allowed_any_more_waits(tmp_path: Path) -> None:
    one = delivery(tmp_path / "socket", Permits())
    for outlet in (Outlet("grab"), Outlet(path=str(tmp_path / "box")), Outlet(path="/dev/null")):
        reply, place = asyncio.run(one.deliver(item(outlet), TEXT))
        assert reply.code == 451 and "any more" in place
    assert asyncio.run(one.deliver(item(None), TEXT))[0].code == 451
    assert not (tmp_path / "box").exists()


def test_at_rcpt_only_programs_need_the_service(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert asyncio.run(ready(path, [None, Outlet(path="/dev/null")]))
    assert not asyncio.run(ready(path, [None, Outlet("grab")]))
    assert not asyncio.run(ready("", [Outlet("grab")]))
    assert reply_of(0)[1] == ""
