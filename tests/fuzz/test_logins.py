"""Properties of the SASL exchanges: any octets in any order raise nothing, and grant nobody who has not proved himself."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filterd.accounts.tokens import parse_keys
from filterd.proto import sasl
from filterd.proto.sasl import Channel, Granted, Proof
from filterd.proto.sasl_offer import Mechanisms
from filterd.proto.sasl_prep import Unprepared, saslprep
from tests.saslclient import Example, judged

pytestmark = pytest.mark.fuzz
SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
PARTS = [
    b"n,,", b"y,,", b"p=tls-exporter,,", b"p=x,,", b"a=user,", b"n=user", b"n=user=2C", b",r=abc", b"c=biws", b"r=abc%hv",
    b",p=AAAA",
    b"=", b",", b"\0", b"\x01", b"auth=Bearer x", b"user=ann", b"\x01\x01", b"\xff", b"ann@example.org", b"A" * 5000, b"e=other",
    b"m=1,",
]  # fmt: skip
messages = st.lists(
    st.lists(st.sampled_from(PARTS), max_size=8).map(b"".join) | st.binary(max_size=60), max_size=6
)
CHANNEL = Channel({"tls-exporter": b"x" * 32}, ("ann@example.org",))
NAMES = ("PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL")


@SETTINGS
@given(st.sampled_from(NAMES), st.booleans(), messages)
def test_exchanges_hold(mechanism: str, initial: bool, said: list[bytes]) -> None:
    offer = Mechanisms(Example(), oauth="https://x", nonce=lambda: b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    dialog = sasl.Dialog(offer)
    lines = [sasl.encode(one) for one in said]
    step = dialog.begin(mechanism, lines.pop(0) if initial and lines else None, CHANNEL)
    for line in lines:
        if isinstance(step, sasl.Failed | sasl.WireFault | sasl.Credentials):
            break
        if isinstance(step, sasl.Proof | sasl.Token):
            assert mechanism == "EXTERNAL" or not (isinstance(step, Proof) and step.good)
            if dialog.judged(judged(step)) is None:
                break
        step = dialog.line(line)
    assert not isinstance(step, Granted), "nobody here knows the password"


@SETTINGS
@given(st.binary(max_size=200))
def test_lines_hold(line: bytes) -> None:
    dialog = sasl.Dialog(Mechanisms(Example()))
    dialog.begin("SCRAM-SHA-256", line)
    dialog.line(line)


@SETTINGS
@given(st.text(max_size=40))
def test_saslprep_is_stable(text: str) -> None:
    try:
        once = saslprep(text)
    except Unprepared:
        return
    if once.isascii():
        assert saslprep(once) == once


@SETTINGS
@given(st.binary(max_size=200) | st.sampled_from([b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}']))
def test_key_sets_hold(data: bytes) -> None:
    try:
        assert parse_keys(data) == ()
    except ValueError:
        pass
