"""The SMTP core alone: cuts do not matter, acknowledgement, aborts; the conversations are in tests/scripts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.proto.lines import ROW, Pause
from filterd.proto.smtp import SmtpCore
from filterd.proto.smtp_events import (
    Abort,
    Acknowledged,
    Auth,
    Close,
    Connected,
    Event,
    Helo,
    Mail,
    Rcpt,
    Text,
)
from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
from pipeline.envelope import Profile
from pipeline.reply import Reply

GOOD = Reply(250, "2.0.0", "Ok")


class Driver:
    """Answers every event: recipients beginning with "no" are refused, the password is "secret"."""

    def __init__(self, profile: Profile = Profile.MX, size: int = 300) -> None:
        submission = profile is Profile.SUBMISSION
        config = SmtpConfig(
            "mx.example",
            profile,
            size_limit=size,
            auth=submission,
            auth_required=submission,
            prdr=profile is not Profile.LMTP,
            limits=SmtpLimits(errors=6, recipients=3, idle_commands=5, line_swallow=6000, swallow_floor=2000),
        )
        self.core = SmtpCore(config, tls=submission, xclient=True, xforward=True)
        self.pauses = 0
        self.events: list[Event] = []
        self.out = b""
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        self.core.receive_data(data)
        self.pump()

    def pump(self) -> None:
        core = self.core
        while (event := core.next_event()) is not None:
            if isinstance(event, Pause):
                self.pauses += 1
                continue
            self.events.append(event)
            match event:
                case Connected() | Helo():
                    core.reply(None)
                case Auth():
                    core.reply(GOOD if event.password == "secret" else None)
                case Rcpt():
                    core.reply(Reply(550, "5.1.1", "No") if event.forward_path.startswith("no") else GOOD)
                case Mail():
                    core.reply(GOOD)
                case Text():
                    core.reply(*[GOOD] * (event.recipients if core.config.profile is Profile.LMTP else 1))
        self.out += core.data_to_send()

    def told(self) -> list[Event]:
        return [event for event in self.events if not isinstance(event, Acknowledged)]


FRAGMENTS = [
    b"EHLO c\r\n", b"LHLO c\r\n", b"HELO c\r\n", b"MAIL FROM:<a@b.c>\r\n", b"MAIL FROM:<a@b.c> SIZE=400\r\n",
    b"RCPT TO:<x@y.z>\r\n", b"RCPT TO:<no@y.z>\r\n", b"DATA\r\n", b"text\r\n", b".\r\n", b"..\r\n", b"\r\n.\r\n",
    b"BDAT 5\r\n", b"BDAT 7 LAST\r\n", b"BDAT 0 LAST\r\n", b"BDAT 290\r\n", b"ab\r\nc", b"\r\n", b"\n", b"\r",
    b"RSET\r\n", b"NOOP\r\n", b"AUTH PLAIN\r\n", b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n", b"*\r\n", b"AAA=\r\n",
    b"XCLIENT ADDR=192.0.2.9\r\n", b"XFORWARD ADDR=192.0.2.9\r\n", b"MAIL FROM:<a@b.c> PRDR\r\n",
    b"x" * 150, b"x" * 2100, b"\0", b"QUIT\r\n", b"FOO\r\n", b" ", b"\xff",
]  # fmt: skip


@pytest.mark.fuzz
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([Profile.MX, Profile.LMTP, Profile.SUBMISSION]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join),
    st.lists(st.integers(0, 3000), max_size=20),
)
def test_where_chunks_are_cut_does_not_matter(profile: Profile, data: bytes, cuts: list[int]) -> None:
    start = (
        b"LHLO c\r\n" if profile is Profile.LMTP else b"EHLO c\r\n"
    ) + b"MAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\n"
    data = start + data
    whole, cut, single = Driver(profile), Driver(profile), Driver(profile)
    whole.feed(data)
    bounds = sorted({min(at, len(data)) for at in cuts} | {0, len(data)})
    for first, last in itertools.pairwise(bounds):
        cut.feed(data[first:last])
    for at in range(len(data)):
        single.feed(data[at : at + 1])
    for other in (cut, single):
        assert other.out == whole.out
        assert other.told() == whole.told()
    _accounts_for_every_transaction(whole)


def test_a_line_far_too_long_is_cut_off_whether_its_end_came_along_or_not() -> None:
    line = b"x" * 6500 + b"\r\n"
    whole, cut = Driver(), Driver()
    whole.feed(line)
    for at in range(0, len(line), 700):
        cut.feed(line[at : at + 700])
    assert whole.out == cut.out and whole.out.endswith(b"421 4.5.2 Line far too long; closing\r\n")


def _accounts_for_every_transaction(driver: Driver) -> None:
    driver.core.lost()
    driver.pump()
    begun = 0
    for event in driver.events:
        if isinstance(event, Mail):
            assert begun == 0
            begun = 1
        elif isinstance(event, Text | Abort):
            assert begun == 1
            begun = 0
        elif isinstance(event, Rcpt):
            assert begun == 1
    assert begun == 0
    assert isinstance(driver.events[-1], Close)
    assert sum(isinstance(event, Close) for event in driver.events) == 1


def test_acknowledged_by_what_came_after_the_reply() -> None:
    driver = Driver()
    driver.feed(b"EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nhi\r\n.\r\n")
    assert not any(isinstance(event, Acknowledged) for event in driver.events)
    driver.feed(b"QU")
    assert not any(isinstance(event, Acknowledged) for event in driver.events)
    driver.feed(b"IT\r\n")
    assert [type(event) for event in driver.events[-2:]] == [Acknowledged, Close]


def test_pipelined_commands_prove_nothing() -> None:
    driver = Driver()
    driver.feed(b"EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nhi\r\n.\r\nNOOP\r\nNO")
    driver.feed(b"OP\r\n")
    # The second NOOP's end came after the reply went out.
    assert sum(isinstance(event, Acknowledged) for event in driver.events) == 1
    driver = Driver()
    driver.feed(b"EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n")
    assert not any(isinstance(event, Acknowledged) for event in driver.events)


def test_a_cut_while_the_text_is_taken_in_is_no_abort() -> None:
    core = Driver().core
    core.receive_data(b"EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nhi\r\n.\r\n")
    while not isinstance(event := core.next_event(), Text):
        core.reply(None if isinstance(event, Helo) else GOOD)
    core.lost()
    core.reply(GOOD)
    assert isinstance(core.next_event(), Close)
    assert core.next_event() is None


def test_a_missing_lmtp_reply_is_temporary() -> None:
    core = Driver(Profile.LMTP).core
    core.receive_data(
        b"LHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nRCPT TO:<w@y.z>\r\nDATA\r\nhi\r\n.\r\n"
    )
    while not isinstance(event := core.next_event(), Text):
        core.reply(None if isinstance(event, Helo) else GOOD)
    core.data_to_send()
    core.reply(GOOD)
    assert core.next_event() is None
    assert core.data_to_send() == b"250 2.0.0 Ok\r\n451 4.3.0 Internal error; try again later\r\n"


def test_an_endless_text_is_cut_off() -> None:
    driver = Driver()
    driver.feed(b"EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\n")
    for _ in range(30):
        driver.feed(b"x" * 98 + b"\r\n")
    assert b"421 4.3.4" in driver.out
    assert [type(event) for event in driver.events[-2:]] == [Abort, Close]


def test_an_endless_command_is_cut_off() -> None:
    driver = Driver()
    for _ in range(100):
        driver.feed(b"x" * 100)
    assert driver.out.endswith(b"421 4.5.2 Line far too long; closing\r\n")


def test_others_come_to_their_turn() -> None:
    """Thousands of commands that need nobody fit into one read."""
    driver = Driver()
    driver.core = SmtpCore(
        SmtpConfig("mx.example", Profile.MX, limits=SmtpLimits(idle_commands=2000)), tls=False
    )
    driver.feed(b"EHLO c\r\n" + b"NOOP\r\n" * 1000)
    assert driver.pauses == 1000 // ROW and driver.out.endswith(b"250 2.0.0 Ok\r\n")
