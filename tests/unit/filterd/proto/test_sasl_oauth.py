"""OAUTHBEARER and XOAUTH2: RFC 7628's example, what follows a refusal, malformed messages."""

import json

import pytest

from filterd.accounts.directory import Account
from filterd.proto import sasl
from filterd.proto.sasl import Challenge, Failed, Token
from filterd.proto.sasl_oauth import BEARER, TOKEN_MAX, XOAUTH2, OAuth
from filterd.proto.sasl_offer import Mechanisms

EXAMPLE = (  # RFC 7628 4.1
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
)


def test_rfc_7628_example() -> None:
    exchange = OAuth(BEARER, "https://login.example.com")
    assert exchange.start(None) == Challenge(b"")
    assert exchange.respond(EXAMPLE) == Token(
        "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
    )
    assert exchange.judged(Account("user@example.com")) is None


def test_a_refusal_is_told_and_answered_before_it_ends() -> None:
    exchange = OAuth(BEARER, "https://login.example.com/")
    assert isinstance(exchange.start(EXAMPLE), Token)
    told = exchange.judged(None)
    assert told is not None and json.loads(told) == {
        "status": "invalid_token",
        "openid-configuration": "https://login.example.com/.well-known/openid-configuration",
    }
    assert isinstance(exchange.respond(b"\x01"), Failed)


def test_xoauth2() -> None:
    exchange = OAuth(XOAUTH2, "x")
    assert exchange.start(b"user=ann@example.org\x01auth=Bearer abc.def-_~+/=\x01\x01") == Token(
        "ann@example.org", "abc.def-_~+/="
    )
    told = exchange.judged(None)
    assert told is not None and json.loads(told)["status"] == "401"
    assert isinstance(exchange.respond(b""), Failed)


@pytest.mark.parametrize(
    "message",
    [
        b"n,,\x01auth=Bearer abc\x01\x01",
        b"y,,\x01auth=bearer abc\x01\x01",
        b"n,a=,\x01auth=BEARER  abc\x01x=y\x01\x01",
    ],
)
def test_no_user_need_be_named(message: bytes) -> None:
    assert OAuth(BEARER, "").start(message) == Token("", "abc")


@pytest.mark.parametrize("name", [BEARER, XOAUTH2])
@pytest.mark.parametrize(
    "message",
    [
        b"", b"\x01", b"n,,\x01\x01", b"p=tls-unique,,\x01auth=Bearer a\x01\x01", b"n,,\x01auth=Basic abc\x01\x01",
        b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01", b"n,,\x01auth=Bearer a b\x01\x01", b"n,,\x01auth=Bearer \x01\x01",
        b"n,,\x01auth=Bearer a\x01", b"n,a=\xff,\x01auth=Bearer a\x01\x01", b"user=\x01auth=Bearer a\x01\x01",
        b"user=a\x01auth=Bearer a\x01", b"user=\xff\x01auth=Bearer a\x01\x01", b"user=" + b"a" * 600 + b"\x01auth=Bearer a\x01\x01",
        b"n,,\x01auth=Bearer " + b"a" * (TOKEN_MAX + 1) + b"\x01\x01",
    ],
)  # fmt: skip
def test_malformed(name: str, message: bytes) -> None:
    assert isinstance(OAuth(name, "").start(message), Failed)


def test_offered_only_where_tokens_are_taken_and_under_tls() -> None:
    assert BEARER not in Mechanisms().names(sasl.NO_CHANNEL, True)
    offer = Mechanisms(oauth="https://x")
    assert offer.names(sasl.NO_CHANNEL, True)[-2:] == (BEARER, XOAUTH2)
    assert offer.begin("xoauth2", sasl.NO_CHANNEL, False) is sasl.WireFault.NEEDS_TLS
    assert isinstance(offer.begin("xoauth2", sasl.NO_CHANNEL, True), OAuth)
