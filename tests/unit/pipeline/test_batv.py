"""BATV tags (draft-levine-smtp-batv-01)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batv import DAY, VALID_DAYS, Batv, Tagged
from pipeline.ports import Clock
from pipeline.srs import Original, Rewritten, Srs

SECRET = b"the secret of the tests"


class HandClock(Clock):
    def __init__(self, day: float = 20_000) -> None:
        self.now = day * DAY

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def made(clock: Clock | None = None, *secrets: bytes) -> Batv:
    return Batv(["here.example", "Also.example"], secrets or [SECRET], clock or HandClock())


def test_the_form_of_the_draft() -> None:
    stamp = "0007"  # day 20,007 modulo 1000
    tag = hmac.new(SECRET, f"{stamp}ann@here.example".encode(), hashlib.sha1).hexdigest()[:6]
    assert made().sign("Ann@here.example") == f"prvs={stamp}{tag}=Ann@here.example"
    assert made().open(f"PRVS={stamp}{tag.upper()}=ANN@HERE.example") == Tagged("ANN@HERE.example")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ann",
        "far@away.example",
        "SRS0=abcd=AA=away.example=far@here.example",
        "srs1+abcd=x==y@here.example",
        "prvs=0007abcdef=ann@here.example",
        f"{'x' * 240}@here.example",
    ],
)
def test_what_gets_no_tag(address: str) -> None:
    assert made().sign(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "ann@here.example",
        "prvs=0007abcdef=ann@away.example",
        "prvs=007abcdef=ann@here.example",
        "prvs=0007abcdeg=ann@here.example",
        "prvs=0007abcdef=@here.example",
        "prvs=0007abcdef@here.example",
        "prvs=\u0660\u0660\u0660\u0667abcdef=ann@here.example",
        "x-prvs=0007abcdef=ann@here.example",
        "",
    ],
)
def test_what_is_no_tagged_address_of_ours(address: str) -> None:
    assert made().open(address) is None


def test_wrong_old_and_from_the_future() -> None:
    clock = HandClock()
    batv = made(clock)
    signed = batv.sign("ann@here.example")
    assert batv.open(signed.replace("=ann", "=bob")) == Tagged("bob@here.example", "wrong tag")
    for days, why in ((VALID_DAYS, ""), (VALID_DAYS + 1, "expired"), (900, "expired")):
        clock.now = (20_000 + days) * DAY
        assert batv.open(signed) == Tagged("ann@here.example", why)
    clock.now = (20_000 - 1) * DAY  # signed by a clock that is ahead of ours
    assert batv.open(signed) == Tagged("ann@here.example", "expired")


def test_the_day_comes_round() -> None:
    clock = HandClock(20_998)
    batv = made(clock)
    signed = batv.sign("ann@here.example")
    assert signed.startswith("prvs=0005")
    clock.now += 6 * DAY
    assert batv.open(signed) == Tagged("ann@here.example")


def test_rotation_of_secrets() -> None:
    old, new = made(None, b"old"), made(None, b"new", b"old")
    assert new.open(old.sign("ann@here.example")) == Tagged("ann@here.example")
    assert old.open(new.sign("ann@here.example")) == Tagged("ann@here.example", "wrong tag")
    for bad in ([], [b""]):
        with pytest.raises(ValueError):
            Batv(["here.example"], bad, HandClock())


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable() and "@" not in text))
@settings(max_examples=300)
def test_there_and_back(local: str) -> None:
    from rules.mail.address import quote_local, split

    sender = f"{quote_local(local)}@here.example"
    signed = made().sign(sender)
    if signed != sender:
        opened = made().open(signed)
        assert opened is not None and not opened.why and split(opened.address) == split(sender)


def test_a_tag_of_somebody_else_survives_srs() -> None:
    clock = HandClock()
    srs = Srs("here.example", [SECRET], clock)
    sender = "prvs=1234abcdef=far@away.example"
    rewritten = srs.forward(sender)
    assert isinstance(rewritten, Rewritten)
    assert srs.reverse(rewritten.address) == Original(sender)
    assert made(clock).open(rewritten.address) is None
