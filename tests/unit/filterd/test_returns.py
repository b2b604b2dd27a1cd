"""Bounces that come home: tagged addresses (BATV), and how many SRS returns one sender gets."""

import asyncio
from collections.abc import Sequence

import pytest

from filterd import returns as returns_module
from filterd.queue.rows import TAGGED
from filterd.returns import HOUR, REPORTS_AN_HOUR, Returns
from pipeline.batv import DAY, Batv
from pipeline.envelope import Profile
from pipeline.reply import Reply
from tests.house import DOMAIN, MAIL, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
REPORT = b"From: MAILER-DAEMON@away.example\r\nSubject: Undelivered\r\n\r\nNo such user\r\n"


class Tagging(House):
    """A house with BATV switched on."""

    def __init__(self, refuse: bool = True) -> None:
        super().__init__()
        self.batv = self.reception._departure.batv = Batv([DOMAIN], [b"tags"], self.clock)
        self.reception.returns = Returns(self.clock, self.batv, refuse)

    def post(
        self, *recipients: str, sender: str = "", profile: Profile = Profile.MX, login: str = ""
    ) -> Sequence[Reply]:
        return asyncio.run(self.send(*recipients, sender=sender, data=REPORT, profile=profile, login=login))

    def codes(self, *recipients: str, sender: str = "", profile: Profile = Profile.MX) -> list[int]:
        return [reply.code for reply in self.post(*recipients, sender=sender, profile=profile)]


@pytest.fixture
def house() -> Tagging:
    return Tagging()


def test_a_real_bounce_comes_home_to_the_plain_address(house: Tagging) -> None:
    house.script(
        "ann",
        f'require ["envelope", "fileinto", "mailbox"]; if envelope "to" "{ANN}" {{ fileinto :create "Mine"; }}',
    )
    assert house.codes(house.batv.sign(ANN)) == [250]
    (text,) = house.box("ann", "Mine")
    assert b"prvs=" not in text and text.startswith(b"Return-Path: <>\r\n")
    (trace,) = house.traces.all
    assert [part.address for part in trace.recipients] == [ANN]


def test_forged_ones_are_refused(house: Tagging) -> None:
    tagged = house.batv.sign(ANN)
    assert house.codes(ANN, tagged.replace("=ann", "=bob"), f"team@{DOMAIN}") == [550, 550, 550]
    (reply, *_) = house.post(ANN)
    assert reply.enhanced_code == "5.7.1" and "not sent from here" in reply.text
    house.clock.now += 8 * DAY
    assert house.codes(tagged) == [550]
    assert not house.box("ann")
    assert house.codes(house.batv.sign(f"nobody@{DOMAIN}")) == [550]


def test_what_is_never_refused(house: Tagging) -> None:
    old = house.batv.sign(ANN)
    house.clock.now += 8 * DAY
    assert house.codes(f"postmaster@{DOMAIN}") == [250]
    assert house.codes(f"away@{DOMAIN}") == [250]  # an alias that leads elsewhere: nobody sends as it
    assert house.codes("x@behind.example") == [250]  # its own server may send by other ways
    assert house.codes(f"srs@{DOMAIN}") == [250]
    assert house.codes(ANN, profile=Profile.LMTP) == [250]  # the server in front would bounce it
    assert house.codes(old, sender="far@away.example") == [250]  # an answer of a person
    assert house.codes(ANN, sender="far@away.example") == [250]
    assert len(house.box("ann")) == 2  # the last one is a retry of the same


def test_without_refusing(house: Tagging) -> None:
    house = Tagging(refuse=False)
    assert house.codes(ANN) == [250]
    assert House().reception.returns.asked("prvs=0000abcdef=ann@here.example").tagged is None


def test_a_script_sees_our_own_sender_without_the_tag(house: Tagging) -> None:
    """Mail of ann's that comes back by somebody's forward."""
    house.script(
        "bob",
        f'require ["envelope", "fileinto", "mailbox"]; if envelope "from" "{ANN}" {{ fileinto :create "Ann"; }}',
    )
    assert house.codes(BOB, sender=house.batv.sign(ANN)) == [250]
    assert len(house.box("bob", "Ann")) == 1


def test_what_is_marked_to_be_tagged(house: Tagging) -> None:
    def marks(*recipients: str, sender: str, profile: Profile = Profile.MX, login: str = "") -> list[bool]:
        house.spool.outgoing.clear()
        asyncio.run(house.send(*recipients, sender=sender, profile=profile, login=login, data=MAIL))
        return [TAGGED in one.params for one in house.spool.outgoing]

    assert marks("x@far.example", sender=ANN, profile=Profile.SUBMISSION, login=ANN) == [True]
    assert marks(f"away@{DOMAIN}", sender=ANN, profile=Profile.SUBMISSION, login=ANN) == [True]
    assert marks(f"away@{DOMAIN}", sender=ANN) == [False]  # a stranger who says that he is ann
    assert marks(f"away@{DOMAIN}", sender="far@away.example") == [False]
    assert marks("x@far.example", sender="", profile=Profile.SUBMISSION, login=ANN) == [False]
    house.script("ann", 'require ["redirect-dsn"]; redirect :notify "FAILURE" "x@far.example";')
    assert marks(ANN, sender="far@away.example") == [True]  # the reports are ann's
    house.script("ann", 'redirect "x@far.example";')
    assert marks(ANN, sender="far@away.example") == [False]
    assert marks(ANN, sender=ANN) == [False]
    long = f"{'x' * 60}@{'a' * 60}.{'b' * 60}.{'c' * 60}.example"  # SRS has no room for it: ann stands in
    assert marks(ANN, f"away@{DOMAIN}", sender=long) == [True, True]


def test_reports_for_one_first_sender_are_limited() -> None:
    house = House()

    def post() -> int:
        return asyncio.run(house.send(f"srs@{DOMAIN}", sender="", data=REPORT))[0].code

    assert {post() for _ in range(REPORTS_AN_HOUR)} == {250}
    assert post() == 450
    house.clock.now += HOUR + 1
    assert post() == 250


def test_the_count_of_reports_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returns_module, "SENDERS_KNOWN", 3)
    house = House()
    returns = Returns(house.clock)
    assert [returns._too_many(f"{at}@away.example") for at in range(5)] == [False] * 3 + [True] * 2
    house.clock.now += HOUR + 1
    assert not returns._too_many("9@away.example")
    assert len(returns._times) == 1
