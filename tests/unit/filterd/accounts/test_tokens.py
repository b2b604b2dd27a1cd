"""Access tokens: signatures, claims, confusion of algorithms, keys that change, a source out of reach."""

from __future__ import annotations

import hmac
import json
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Event

import pytest

from filterd.accounts.errors import AccountsUnavailable
from filterd.accounts.tokens import (
    KEYS_FOR,
    KEYS_PAUSE,
    LEEWAY,
    Introspected,
    KeySet,
    Rules,
    Signed,
    judge_of,
    named,
    parse_keys,
)
from filterd.config.auth import OAuth
from pipeline.ports import Clock
from tests.tokenlab import Issuer, b64

NOW = 1_700_000_000.0
RULES = Rules("https://login.example", "mail")
GOOD: dict[str, object] = {
    "iss": "https://login.example", "aud": "mail", "exp": NOW + 60, "email": "ann@example.org",
}  # fmt: skip


class Hands(Clock):
    def __init__(self) -> None:
        self.at = 1000.0

    def time(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return self.at


@cache
def issuer() -> Issuer:
    return Issuer()


def whose(token: str, **more: object) -> str | None:
    clock = Hands()
    return Signed(RULES, KeySet(lambda: issuer().jwks(**more), clock), clock).whose(token)


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_a_good_token(alg: str) -> None:
    token = issuer().token(GOOD, alg)
    assert whose(token) == "ann@example.org"
    assert whose(issuer().token(GOOD, alg, kid=None)) == "ann@example.org", "any key when none is named"
    assert whose(token, use="sig", alg=alg) == "ann@example.org"
    assert whose(token, use="enc") is None
    head, claims, signature = token.split(".")
    other = b64(json.dumps({**GOOD, "email": "root@example.org"}).encode())
    assert whose(f"{head}.{other}.{signature}") is None
    assert whose(f"{head}.{claims}.{b64(b'x' * 64)}") is None
    assert whose(token + "=") is None and whose(token[:-2]) is None


def test_the_algorithm_is_the_keys() -> None:
    """RFC 8725 3.1: none, an HMAC with the public key as its secret, another family than the key's."""
    token = issuer().token(GOOD)
    claims = token.split(".")[1]
    for alg in ("none", "None", "HS256", "ES256", "RS512", "PS256", None, 5):
        head = b64(json.dumps({"alg": alg, "kid": "r"}).encode())
        data = f"{head}.{claims}"
        assert whose(f"{data}.") is None
        for secret in (issuer().jwks(), json.dumps(issuer().keys()[0]).encode()):
            assert whose(f"{data}.{b64(hmac.digest(secret, data.encode(), 'sha256'))}") is None
    assert whose(issuer().token(GOOD, "RS256", alg="ES256", kid="e")) is None


@pytest.mark.parametrize("header", [{"crit": ["b64"]}, {"kid": "unknown"}, {"kid": 5}])
def test_headers_that_do_not_do(header: dict[str, object]) -> None:
    assert whose(issuer().token(GOOD, **header)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://login.example/"}, {"iss": None}, {"aud": "other"}, {"aud": ["a", "b"]}, {"aud": None},
        {"exp": NOW - LEEWAY - 1}, {"exp": None}, {"exp": "soon"}, {"exp": True}, {"nbf": NOW + LEEWAY + 1}, {"nbf": "x"},
        {"email": None}, {"email": ""}, {"email": ["ann@example.org"]}, {"email_verified": False}, {"email_verified": "true"},
    ],
)  # fmt: skip
def test_claims_that_do_not_do(change: dict[str, object]) -> None:
    assert whose(issuer().token({**GOOD, **change})) is None


@pytest.mark.parametrize(
    "change",
    [{"aud": ["x", "mail"]}, {"exp": NOW - LEEWAY + 1}, {"nbf": NOW + LEEWAY - 1}, {"email_verified": True}],
)
def test_claims_that_do(change: dict[str, object]) -> None:
    assert whose(issuer().token({**GOOD, **change})) == "ann@example.org"


def test_infinite_and_missing_ends() -> None:
    assert named({**GOOD, "exp": float("nan")}, RULES, NOW) is None
    without = {name: value for name, value in GOOD.items() if name not in ("iss", "aud", "exp")}
    assert named(without, RULES, NOW) is None
    assert named(without, RULES, NOW, loose=True) == "ann@example.org"
    assert named({**without, "iss": "other"}, RULES, NOW, loose=True) is None


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "a.b.c", "a.b.c.d", "....", "e30.e30.AAAA", "W10.e30.AAAA", "x" * 9000, "é.é.é", "{}.{}.{}"],
)
def test_what_is_no_token(token: str) -> None:
    assert whose(token) is None


def test_a_name_twice_is_no_header() -> None:
    head = b64(b'{"alg":"RS256","alg":"RS256","kid":"r"}')
    assert whose(f"{head}.e30.AAAA") is None
    assert whose(f"{b64(b'[' * 5000)}.e30.AAAA") is None


def test_keys_are_looked_at_again() -> None:
    clock, old, new = Hands(), issuer(), Issuer()
    served = [old.jwks()]
    reads = []

    def read() -> bytes:
        reads.append(1)
        return served[0]

    judge = Signed(RULES, KeySet(read, clock), clock)
    assert judge.whose(old.token(GOOD)) and judge.whose(old.token(GOOD)) and len(reads) == 1
    served[0] = new.jwks().replace(b'"kid": "r"', b'"kid": "r2"')
    token = new.token(GOOD, kid="r2")
    assert judge.whose(token) is None and len(reads) == 1, "not at once again"
    clock.at += KEYS_PAUSE + 1
    assert judge.whose(token) == "ann@example.org" and len(reads) == 2
    assert judge.whose(old.token(GOOD)) is None
    served[0] = b"broken"
    clock.at += KEYS_FOR + 1
    assert judge.whose(token) == "ann@example.org", "the last good ones"


def test_keys_out_of_reach_are_no_no() -> None:
    def read() -> bytes:
        raise OSError("gone")

    judge = Signed(RULES, KeySet(read, Hands()), Hands())
    for _ in range(2):
        with pytest.raises(AccountsUnavailable):
            judge.whose(issuer().token(GOOD))


def test_who_comes_while_the_keys_are_read_waits_for_them() -> None:
    reading, go_on = Event(), Event()

    def read() -> bytes:
        reading.set()
        assert go_on.wait(60)
        return issuer().jwks()

    judge, token = Signed(RULES, KeySet(read, Hands()), Hands()), issuer().token(GOOD)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(judge.whose, token)
        assert reading.wait(60)
        second = pool.submit(judge.whose, token)
        done, _ = wait([second], timeout=0.05)
        go_on.set()
        assert first.result(60) == second.result(60) == "ann@example.org"
    assert not done


def test_key_sets() -> None:
    weak = {"kty": "RSA", "n": b64((1 << 1023 | 1).to_bytes(128)), "e": "AQAB"}
    off = {"kty": "EC", "crv": "P-256", "x": b64(b"\1" * 32), "y": b64(b"\2" * 32)}
    odd = [weak, off, {"kty": "oct", "k": "AAAA"}, {"kty": "EC", "crv": "P-384"}, {"kty": "RSA"}, 5]
    found = parse_keys(json.dumps({"keys": [*odd, *issuer().keys()]}).encode())
    assert [name for name, _ in found] == ["r", "e"]
    for bad in (b"", b"[]", b'{"keys": 5}', b"{}"):
        with pytest.raises(ValueError):
            parse_keys(bad)


def test_as_configured() -> None:
    assert judge_of(OAuth(), Hands()) is None
    assert isinstance(judge_of(OAuth(keys="x"), Hands()), Signed)
    asking = judge_of(OAuth(introspection="http://elsewhere.example/", client_id="x"), Hands())
    assert isinstance(asking, Introspected)
    with pytest.raises(AccountsUnavailable):
        asking.whose("x")
