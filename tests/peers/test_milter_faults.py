"""The milters stage over real sockets: filters that misbehave at each step, several filters, and what comes of it.

Whatever a filter does: an answer within its time limit, its ``on_error``, none of its changes, other mail unaffected.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.registry import StageContext
from pipeline.reply import Reply
from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.stages.milters import MilterSettings, MiltersSettings, MiltersStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition
from pipeline.wire import milter
from pipeline.wire.milter import (
    AddHeader,
    Bare,
    ChangeHeader,
    InsertHeader,
    Negotiate,
    Packet,
    Quarantine,
    ReplaceBody,
    ReplyCode,
)
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message
from tests import faultserver

pytestmark = pytest.mark.slow

MAIL = b"From: a@example.net\r\nSubject: hello\r\n\r\n" + b"body\r\n" * 20_000
LIMIT = 0.6  # seconds
ALL = Negotiate(6, 0x1FF, 0)
STEPS = {"connect": b"C", "mail": b"M", "header": b"L", "body": b"B", "end": b"E"}


def printed(*packets: Packet) -> bytes:
    return b"".join(map(milter.encode, packets))


def until(step: bytes) -> faultserver.Read:
    """Talks as a good filter does, up to the first packet named ``step``."""

    def read(conn: socket.socket) -> bytes:
        while True:
            code = _packet(conn)
            if code == step:
                return code
            if code == b"O":
                conn.sendall(printed(ALL))
            elif code not in (b"D", b"A", b"Q"):
                conn.sendall(printed(Bare.CONTINUE))

    return read


def _packet(conn: socket.socket, seen: bytearray | None = None) -> bytes:
    def exactly(count: int) -> bytes:
        out = b""
        while len(out) < count:
            part = conn.recv(count - len(out))
            if not part:
                raise EOFError
            out += part
        return out

    (length,) = struct.unpack(">I", exactly(4))
    packet = exactly(length)
    if seen is not None:
        seen += packet
    return packet[:1]


def good(*answer: Packet) -> faultserver.Behave:
    """Says ``answer`` at the end of the message; CONTINUE when there is none."""
    return faultserver.honest(until(b"E"), printed(*(answer or (Bare.CONTINUE,))))


def ask(
    *filters: MilterSettings,
    data: bytes = MAIL,
    profile: Profile = Profile.MX,
    times: int = 1,
    login: str = "",
    to: tuple[str, ...] = ("b@example.org",),
) -> RunOutcome:
    clock = SystemClock()

    async def main() -> RunOutcome:
        context = StageContext(clock, SystemIds(), ZoneResolver(Zone()), "mx.example.org")
        runner = Runner([MiltersStage(MiltersSettings(tuple(filters)), context)], clock)
        envelope = Envelope(
            "a@example.net", tuple(map(Recipient, to)), Client("192.0.2.1", auth=login), profile
        )
        for _ in range(times):
            one = Transaction(Message(data), envelope, "TRACE-00001", clock.monotonic() + 25)
            outcome = await runner.run(Phase.EOM, one)
        return outcome

    return asyncio.run(main())


def one(
    where: str, on_error: str = "defer", name: str = "f", timeout: float = LIMIT, **more: object
) -> MilterSettings:
    return MilterSettings(name, where, timeout, on_error, **more)  # type: ignore[arg-type]


GOOD = printed(AddHeader(b"X-Evil", b" 1"), Bare.CONTINUE)
FAULTS = {
    "silent": lambda read: faultserver.silent(read),
    "drip": lambda read: faultserver.drip(read, GOOD, 0.2),
    "reset": lambda read: faultserver.reset(read),
    "reset in the answer": lambda read: faultserver.reset(read, GOOD[:7]),
    "eof": lambda read: faultserver.honest(read, b""),
    "cut": lambda read: faultserver.honest(read, GOOD[:-1]),
    "garbage": lambda read: faultserver.honest(read, b"\x00\xff\xfe HTTP/1.1 200 OK\r\n\r\n"),
    "http": lambda read: faultserver.honest(read, b"HTTP/1.1 200 OK\r\n\r\n"),
    "huge length": lambda read: faultserver.honest(read, b"\xff\xff\xff\xffc"),
    "no name": lambda read: faultserver.honest(read, b"\0\0\0\0"),
    "another command": lambda read: faultserver.honest(read, printed(Bare.QUIT)),
    "bad reply": lambda read: faultserver.honest(read, printed(ReplyCode(b"250 2.0.0 fine"))),
    "progress for ever": lambda read: faultserver.drip(read, printed(Bare.PROGRESS) * 50, 0.02),
    "two answers": lambda read: faultserver.honest(read, printed(Bare.REJECT, Bare.CONTINUE)),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_takes_on_error_in_time(name: str, step: str) -> None:
    with faultserver.serve(FAULTS[name](until(STEPS[step]))) as where:
        began = time.monotonic()
        outcome = ask(one(where))
        assert time.monotonic() - began < LIMIT + 1.0
    verdict = outcome.verdict
    assert verdict.disposition is Disposition.TEMPFAIL, verdict
    assert verdict.reply is not None and verdict.reply.code == 451
    assert not verdict.edits and verdict.body is None
    assert verdict.tags["milters.fault"] in ("timeout", "protocol")


BEFORE = {
    "eof at once": faultserver.eof_at_once,
    "reset at once": faultserver.reset_at_once,
    "never reads": faultserver.never_reads,
    "endless": faultserver.endless,
    "early": faultserver.early(printed(Bare.CONTINUE)),
}


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize(
    ("on_error", "disposition"),
    [("defer", Disposition.TEMPFAIL), ("accept", Disposition.CONTINUE), ("reject", Disposition.REJECT)],
)
def test_the_policy_is_the_documented_one(name: str, on_error: str, disposition: Disposition) -> None:
    with faultserver.serve(BEFORE[name]) as where:
        assert ask(one(where, on_error)).verdict.disposition is disposition


def test_nobody_there(tmp_path: Path) -> None:
    for where in (faultserver.refused(), f"unix:{tmp_path}/none", f"/{tmp_path}/none"):
        verdict = ask(one(where)).verdict
        assert verdict.disposition is Disposition.TEMPFAIL and verdict.tags["milters.fault"] == "unavailable"


def test_a_split_answer_is_an_answer() -> None:
    with faultserver.serve(faultserver.split(until(b"E"), GOOD)) as where:
        verdict = ask(one(where)).verdict
    assert verdict.disposition is Disposition.CONTINUE and len(verdict.edits) == 1


def test_a_slow_reader_gets_the_whole_body() -> None:
    with faultserver.serve(good(), buffer=4096) as where:
        assert ask(one(where, timeout=10), data=MAIL * 20).spans[0].result == "continue"


def test_a_dead_filter_is_left_alone_after_five_faults() -> None:
    with faultserver.serve(faultserver.eof_at_once) as where:
        (span,) = ask(one(where), times=6).spans
    assert "not asked: 5 faults in a row" in span.summary


# -- what they say ---------------------------------------------------------------------------------------------------


def delivered(outcome: RunOutcome) -> bytes:
    return apply(MAIL, outcome.verdict.edits)


@pytest.mark.parametrize("unix", [False, True])
def test_changes_come_back_as_edits(unix: bool, tmp_path: Path) -> None:
    answer = (
        InsertHeader(1, b"X-Top", b"1"),
        ChangeHeader(1, b"subject", b"new"),
        ReplaceBody(b"b\r\n"),
        Bare.CONTINUE,
    )
    with faultserver.serve(good(*answer), tmp_path / "socket" if unix else None) as where:
        outcome = ask(one(where, timeout=5))
    head = b"X-Top: 1\r\nFrom: a@example.net\r\nSubject: new\r\n\r\n"
    assert delivered(outcome).startswith(head) and outcome.verdict.body == b"b\r\n"
    (span,) = outcome.spans
    assert span.result == "continue" and "2 header changes, a new body" in span.evidence["f"]


@pytest.mark.parametrize("login", ["", "ann"])
def test_results_that_strangers_wrote_in_our_name_are_not_shown(login: str) -> None:
    """OpenDMARC believes a field with our name; we take it out of the message, but only after the filters."""
    told = bytearray()

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        while (code := _packet(conn, told)) != b"E":
            if code == b"O":
                conn.sendall(printed(ALL))
            elif code not in (b"D", b"A", b"Q"):
                conn.sendall(printed(Bare.CONTINUE))
        conn.sendall(printed(AddHeader(b"X-Seen", b" 1"), Bare.CONTINUE))

    mine, other = (
        b"Authentication-Results: MX.example.org; spf=pass\r\n",
        b"Authentication-Results: x.example; dkim=pass\r\n",
    )
    with faultserver.serve(behave) as where:
        outcome = ask(one(where, timeout=5), data=mine + other + MAIL, login=login)
    assert (b"MX.example.org" in told) is bool(login) and b"x.example" in told and b"hello" in told
    assert outcome.verdict.disposition is Disposition.CONTINUE
    assert apply(mine + other + MAIL, outcome.verdict.edits).startswith(
        mine + other
    )  # not the stage's to remove


@pytest.mark.parametrize(
    ("answer", "disposition", "reply"),
    [
        ([Bare.REJECT], Disposition.REJECT, 550),
        ([Bare.TEMPFAIL], Disposition.TEMPFAIL, 451),
        ([Bare.DISCARD], Disposition.DISCARD, None),
        ([Bare.ACCEPT], Disposition.CONTINUE, None),
        ([Quarantine(b"odd"), Bare.CONTINUE], Disposition.QUARANTINE, None),
        ([ReplyCode(b"554-5.7.1 a\r\n554 5.7.1 b")], Disposition.REJECT, 554),
    ],
)
def test_dispositions(answer: list[Packet], disposition: Disposition, reply: int | None) -> None:
    with faultserver.serve(good(*answer)) as where:
        verdict = ask(one(where, timeout=5)).verdict
    assert verdict.disposition is disposition
    assert (verdict.reply.code if verdict.reply else None) == reply
    if reply == 554:
        assert verdict.reply == Reply(554, "5.7.1", "a\nb")


def test_filters_follow_each_other_and_the_first_refusal_ends_it() -> None:
    with (
        faultserver.serve(good(AddHeader(b"X-One", b"1"), Bare.CONTINUE)) as first,
        faultserver.serve(good(ChangeHeader(1, b"X-One", b"2"), Bare.CONTINUE)) as second,
        faultserver.serve(good(ReplyCode(b"550 5.7.1 no"))) as third,
        faultserver.serve(faultserver.silent(until(b"C"))) as never,
    ):
        outcome = ask(one(first, name="one", timeout=5), one(second, name="two", timeout=5))
        assert b"Subject: hello\r\nX-One: 2\r\n\r\n" in delivered(outcome)
        outcome = ask(
            one(first, name="one", timeout=5), one(third, name="three", timeout=5), one(never, name="four")
        )
        assert outcome.verdict.reply == Reply(550, "5.7.1", "no") and not outcome.verdict.edits
        assert set(outcome.spans[0].evidence) == {"one", "three"}


def refuses(told: list[bytes], **replies: bytes) -> faultserver.Behave:
    """Answers RCPT by the local part; notes who is asked for."""

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        while True:
            seen = bytearray()
            code = _packet(conn, seen)
            if code in (b"D", b"A", b"Q"):
                continue
            reply: Packet = ALL if code == b"O" else Bare.CONTINUE
            if code == b"R":
                told.append(bytes(seen[2:].split(b"@")[0]))
                text = replies.get(told[-1].decode())
                reply = ReplyCode(text) if text else reply
            conn.sendall(printed(reply))
            if code == b"E":
                return

    return behave


ALL_THREE = ("ann@example.org", "bob@example.org", "cy@example.org")
NO, LATER = b"550 5.1.1 no", b"451 4.1.1 later"


def test_a_filter_does_not_hear_of_whom_another_refused() -> None:
    first, second = list[bytes](), list[bytes]()
    with (
        faultserver.serve(refuses(first, ann=NO)) as one_,
        faultserver.serve(refuses(second, cy=LATER)) as two,
    ):
        outcome = ask(one(one_, name="one", timeout=5), one(two, name="two", timeout=5), to=ALL_THREE)
    assert (first, second) == ([b"ann", b"bob", b"cy"], [b"bob", b"cy"])
    codes = {address[:3]: reply.code for address, reply in outcome.verdict.recipients.items()}
    assert codes == {"ann": 550, "cy@": 451} and outcome.verdict.disposition is Disposition.CONTINUE


@pytest.mark.parametrize(("later", "code"), [("ann", 451), ("bob", 451), ("cy", 451), ("", 550)])
def test_when_all_are_refused_one_for_now_is_asked_for_again(later: str, code: int) -> None:
    replies = dict.fromkeys(("ann", "bob", "cy"), NO) | ({later: LATER} if later else {})
    told: list[bytes] = []
    with (
        faultserver.serve(refuses(told, ann=replies["ann"])) as one_,
        faultserver.serve(refuses(told, bob=replies["bob"], cy=replies["cy"])) as two,
    ):
        outcome = ask(one(one_, name="one", timeout=5), one(two, name="two", timeout=5), to=ALL_THREE)
    assert outcome.verdict.reply is not None and outcome.verdict.reply.code == code


def test_a_fault_that_is_accepted_costs_the_others_nothing() -> None:
    with faultserver.serve(good(AddHeader(b"X-One", b"1"), Bare.CONTINUE)) as works:
        outcome = ask(one(faultserver.refused(), "accept", "dead"), one(works, name="works", timeout=5))
    assert outcome.verdict.disposition is Disposition.CONTINUE and len(outcome.verdict.edits) == 1


def test_only_the_doors_that_are_named() -> None:
    refused = faultserver.refused()
    verdict = ask(one(refused, listeners=("submission",)), profile=Profile.MX).verdict
    assert verdict.disposition is Disposition.CONTINUE
    verdict = ask(one(refused, listeners=("submission",)), profile=Profile.SUBMISSION).verdict
    assert verdict.disposition is Disposition.TEMPFAIL


def test_latency_over_tcp_and_unix(tmp_path: Path) -> None:
    """A filter that answers every step, as libmilter does, with Nagle on: no step may wait for a delayed ACK."""
    answer = [InsertHeader(1, b"X-%d" % at, b"1") for at in range(5)]

    def separately(conn: socket.socket, stop: object) -> None:
        until(b"E")(conn)
        for packet in (*answer, Bare.CONTINUE):
            conn.sendall(milter.encode(packet))

    small = b"From: a@example.net\r\nSubject: x\r\n\r\nbody\r\n"
    for path in (None, tmp_path / "socket"):
        with faultserver.serve(separately, path) as where:
            times = []
            for _ in range(15):
                (span,) = ask(one(where, timeout=5), data=small).spans
                times.append(span.duration)
        median = sorted(times)[7] * 1000
        print(f"\n{'unix' if path else 'tcp'}: median {median:.1f} ms a message")
        assert median < 30
