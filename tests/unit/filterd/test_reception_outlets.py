"""Programs and files of aliases between RCPT and the reply: what is queued, once, and when it is asked to come later."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from filterd.accounts.outlets import Outlet, decoded
from filterd.queue.rows import OUTLET
from pipeline.reply import Reply
from pipeline.verdict import Disposition, Verdict
from tests.house import DOMAIN, MAIL, House

ROBOT, ARCHIVE = f"robot@{DOMAIN}", f"archive@{DOMAIN}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Somebody listens where filterd-exec should."""
    made, path = House(), str(tmp_path / "socket")
    made.reception._settings = replace(made.reception._settings, exec_socket=path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield made


def send(house: House, *recipients: str, data: bytes = MAIL, sender: str = "far@away.example") -> list[int]:
    replies: Sequence[Reply] = asyncio.run(house.send(*recipients, data=data, sender=sender))
    return [reply.code for reply in replies]


def test_what_is_queued(house: House) -> None:
    assert send(house, ROBOT, ARCHIVE, f"ann@{DOMAIN}") == [250]
    robot, archive = sorted(house.spool.outgoing, key=lambda one: one.kind, reverse=True)
    assert (robot.kind, robot.lane, robot.recipient) == ("program", "|take", ROBOT)
    assert (archive.kind, archive.lane, archive.recipient) == ("file", "/srv/archive", ARCHIVE)
    assert decoded(robot.params[OUTLET]) == Outlet("take", ("-x",))
    assert robot.reverse_path == "far@away.example"  # not rewritten: it does not leave
    assert robot.data.startswith(b"Return-Path: <far@away.example>\r\nDelivered-To: robot@here.example\r\n")
    assert robot.data.endswith(MAIL) and robot.key != archive.key and len(house.box("ann")) == 1
    told = {part.address: (part.outcome, part.decision) for part in house.traces.all[0].recipients}
    assert told[ROBOT][0] == "given to a program" and "|take -x because robot@here.example" in told[ROBOT][1]
    assert told[ARCHIVE] == ("filed", "On its way to /srv/archive because archive@here.example leads there.")


def test_the_same_key_when_it_comes_again_and_another_for_another(house: House) -> None:
    for data in (MAIL, MAIL, MAIL + b"more\r\n"):
        send(house, ROBOT, data=data)
    first, second, other = house.spool.outgoing
    assert first.key == second.key != other.key


def test_a_queue_that_is_broken_means_later(house: House) -> None:
    house.spool.broken = True
    assert send(house, ROBOT) == [451]


def test_a_loop_ends(house: House) -> None:
    data = f"Delivered-To: {ROBOT}\r\n".encode() + MAIL
    assert send(house, ROBOT, data=data) == [554] and not house.spool.outgoing


def test_a_program_whose_service_is_away() -> None:
    house = House()  # no exec.socket
    assert send(house, ROBOT) == [451]
    assert send(house, ARCHIVE) == [250]
    assert send(house, ROBOT, f"ann@{DOMAIN}") == [451, 250]


def test_what_a_check_holds_back() -> None:
    house = House(Verdict("clamav", Disposition.QUARANTINE, summary="a virus"))
    assert send(house, ARCHIVE) == [250]
    assert house.spool.outgoing[0].held
    house = House(Verdict("spamassassin", Disposition.QUARANTINE, summary="spam"))
    assert send(house, ARCHIVE) == [250]
    assert house.spool.outgoing[0].data.startswith(b"X-Filterd-Quarantine: ")
