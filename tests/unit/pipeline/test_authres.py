"""Authentication-Results: safe to write, and no forged one survives."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.authres import MOST_COSTLY, claimed_id, field, forged, value
from pipeline.edits import apply, render_field
from pipeline.verdict import AuthResult
from rules.mail.header import scan

ID = "mx.example.org"


def test_nothing_done() -> None:
    assert value(ID, []) == "mx.example.org; none"


def test_the_usual() -> None:
    results = [
        AuthResult(
            "spf", "pass", properties=(("smtp.mailfrom", "ann@example.net"), ("smtp.helo", "mx.example.net"))
        ),
        AuthResult(
            "dkim",
            "fail",
            "body changed",
            (("header.d", "example.net"), ("header.b", "ab/c+1=")),
            "2048-bit key",
        ),
        AuthResult("iprev", "pass", properties=(("policy.iprev", "2001:db8::1"),)),
    ]
    assert value(ID, results) == (
        "mx.example.org; spf=pass smtp.mailfrom=ann@example.net smtp.helo=mx.example.net; "
        'dkim=fail (2048-bit key) reason="body changed" header.d=example.net header.b="ab/c+1="; '
        'iprev=pass policy.iprev="2001:db8::1"'
    )


def test_it_folds() -> None:
    edit = field(
        ID, [AuthResult("dkim", "pass", properties=(("header.d", f"d{n}.example.net"),)) for n in range(9)]
    )
    raw = render_field(edit.name, edit.value)
    assert max(map(len, raw.split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    "evil", ['x"; dkim=pass', "x; dkim=pass", "x) dkim=pass (", "a\r\nX: y", "a\0b", "x\\", '"', "é"]
)
def test_what_strangers_say_stays_in_its_place(evil: str) -> None:
    text = value(ID, [AuthResult("spf", "fail", evil, (("smtp.mailfrom", evil),), evil)])
    raw = render_field("Authentication-Results", text)
    assert scan(raw + b"\r\n").first(b"authentication-results") == text.encode()
    outside = _outside(text)
    assert outside.count(";") == 1 and "dkim" not in outside


def _outside(text: str) -> str:
    """What stands neither in a quoted string nor in a comment."""
    out, quoted, depth, escaped = "", False, 0, False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and (quoted or depth):
            escaped = True
        elif quoted:
            quoted = char != '"'
        elif char == '"' and not depth:
            quoted = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif not depth:
            out += char
    assert not quoted and not depth and not escaped
    return out


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_safe(reason: str, mail: str, comment: str) -> None:
    text = value(ID, [AuthResult("spf", "fail", reason, (("smtp.mailfrom", mail),), comment)])
    assert _outside(text).count(";") == 1
    render_field("Authentication-Results", text)


def test_domains_outside_ascii_become_a_labels() -> None:
    text = value(ID, [AuthResult("spf", "pass", properties=(("smtp.mailfrom", "ann@bücher.example"),))])
    assert text.endswith("smtp.mailfrom=ann@xn--bcher-kva.example")


def test_keywords_that_are_none_are_left_out() -> None:
    results = [AuthResult("spf=pass; x", "fail"), AuthResult("dkim", "pass", properties=(("evil;x.y", "1"),))]
    assert value(ID, results) == "mx.example.org; dkim=pass"


FORGED = [
    "mx.example.org; spf=pass",
    "MX.Example.ORG; spf=pass",
    "mx.example.org 1; spf=pass",
    "mx.example.org (comment) 1 (more) ; spf=pass",
    "mx.example.org(comment)1; spf=pass",
    "(a (nested) comment) mx.example.org; spf=pass",
    '"mx.example.org"; spf=pass',
    '"mx.ex\\ample.org" ; spf=pass',
    "mx.example.org.; spf=pass",
    "mx.example.org",
    "\r\n\tmx.example.org;\r\n\tspf=pass",
    "(\r\n x)\r\n\tmx.example.org;",
    # what cannot be read
    "",
    "; spf=pass",
    "spf=pass smtp.mailfrom=a@b",
    "mx.example.org/1; spf=pass",
    "(unclosed mx.example.org; spf=pass",
    "mx.example.org (unclosed ; spf=pass",
    '"mx.example.org; spf=pass',
    "mx.example.org spf=pass",
    "mx.example.org\0; spf=pass",
    "\0mx.example.org; spf=pass",
    "mx.example.org\x0b; spf=pass",
    "<mx.example.org>; spf=pass",
    "other.example (mx.example.org) mx.example.org; spf=pass",
    "(((((five deep))))) mx.example.org; spf=pass",
]
FOREIGN = [
    "mx.example.net; spf=pass",
    "(mx.example.org) mx.example.net; spf=pass",
    '"mx.example.net" 1; x=pass',
    "xmx.example.org; none",
    "((((four) \\) deep))) mx.example.net ((a) (b)) 1; none",
]


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("name", ["Authentication-Results", "AUTHENTICATION-results "])
def test_forged_ones_go(text: str, name: str) -> None:
    data = f"A: 1\r\n{name}:{text}\r\nSubject: x\r\n\r\nbody".encode("latin-1")
    assert apply(data, (), forged(scan(data), {ID})) == b"A: 1\r\nSubject: x\r\n\r\nbody"


@pytest.mark.parametrize("text", FOREIGN)
def test_other_hosts_results_stay(text: str) -> None:
    data = f"Authentication-Results: {text}\r\nSubject: x\r\n\r\n".encode()
    assert forged(scan(data), {ID}) == []


def test_an_id_outside_ascii_is_the_same_in_both_forms() -> None:
    data = "Authentication-Results: bücher.example; spf=pass\r\n\r\n".encode()
    assert forged(scan(data), {"xn--bcher-kva.example"}) and forged(scan(data), {"bücher.example"})


def test_ids_too_long_or_too_many_outside_ascii_are_not_read() -> None:
    long = f"Authentication-Results: {'é' * 400}.example; spf=pass\r\n\r\n".encode()
    assert forged(scan(long), {ID})
    many = "".join(f"Authentication-Results: é{at}.example; spf=pass\r\n" for at in range(100)).encode()
    others = b"Authentication-Results: mx.example.net; spf=pass\r\n" * 100
    assert len(forged(scan(many + others + b"\r\n"), {ID})) == 100 - MOST_COSTLY


@pytest.mark.parametrize(
    "raw",
    [
        b"(" * 60000,
        b"(" * 30000 + b")" * 30000 + b"mx.example.org;",
        b"\\" * 60000,
        b'"' + b"\\a" * 30000,
        b" " * 60000,
    ],
)
def test_hostile_ones_are_read_in_linear_time(raw: bytes) -> None:
    began = time.perf_counter()
    claimed_id(raw)
    assert time.perf_counter() - began < 0.5


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_never_raises(raw: bytes) -> None:
    claimed_id(raw)
    claimed_id(b"mx.example.org" + raw)
