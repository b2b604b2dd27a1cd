from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.proto import smtp_parse
from filterd.proto.smtp_limits import SmtpLimits
from filterd.proto.smtp_parse import SyntaxFault

LIMITS = SmtpLimits()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"<a@b.example>", "a@b.example"),
        (b"<A.B+c@B-1.Example>", "A.B+c@B-1.Example"),
        (b"<@x.example:a@b.example>", "a@b.example"),
        (b"<@[192.0.2.1],@y.example:a@b.example>", "a@b.example"),
        (b'<"a.b"@c.example>', "a.b@c.example"),
        (b'<"a\\"b"@c.example>', '"a\\"b"@c.example'),
        (b'<"a\\\\b"@c.example>', '"a\\\\b"@c.example'),
        (b'<"a>@b"@c.example>', '"a>@b"@c.example'),
        (b'<""@c.example>', '""@c.example'),
        (b"<a@[IPv6:::1]>", "a@[IPv6:::1]"),
        (b"<a@b_c.example>", "a@b_c.example"),
        ("<ä@ö.example>".encode(), "ä@ö.example"),
        (b"<Postmaster>", "Postmaster"),
    ],
)
def test_paths(text: bytes, address: str) -> None:
    assert smtp_parse.path(text + b" X=1", LIMITS, reverse=False) == (address, b" X=1")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<",
        b"<>",
        b"a@b.example",
        b"<a@b.example",
        b"<a@>",
        b"<@b.example>",
        b"<@x.example:>",
        b"<a b@c.example>",
        b"<a@b.example>x",
        b"<a@b@c.example>",
        b"<a..b@c.example>",
        b"<.a@c.example>",
        b'<"a"b@c.example>',
        b'<"a@c.example>',
        b"<a@b..c>",
        b"<a@-b.example>",
        b"<a@b-.example>",
        b"<a@[1.2.3]>",
        b"<a@[1.2.3.4>",
        b"<a@[IPv6:1]>",
        b"<a@[IPv6:fe80::1%eth0]>",
        b"<a@b.example\x01>",
        b"<a@\xff.example>",
        b"<ann>",
        b"<" + b"a" * 600 + b"@b.example>",
    ],
)
def test_bad_paths(text: bytes) -> None:
    with pytest.raises(SyntaxFault) as caught:
        smtp_parse.path(text, LIMITS, reverse=False)
    assert 500 <= caught.value.reply.code < 600


def test_hostile_lines_are_linear() -> None:
    began = time.process_time()
    for text in (
        b'<"' * 1000,
        b'<"' + b"\\" * 2000,
        b'<"' + b'""' * 1000,
        b"<@" + b"a,@" * 600,
        b"<a@" + b"a-" * 1000 + b">",
        b"<" + b"a." * 1000 + b">",
    ):
        with pytest.raises(SyntaxFault):
            smtp_parse.path(text, LIMITS, reverse=False)
    assert time.process_time() - began < 0.5


@given(st.binary(max_size=200))
def test_any_octets_are_an_address_or_a_fault(data: bytes) -> None:
    for reverse in (True, False):
        try:
            address, rest = smtp_parse.path(b"<" + data, LIMITS, reverse=reverse)
        except SyntaxFault:
            continue
        assert not set(address) & set("\r\n\0")
        assert not rest or rest.startswith(b" ")


@given(st.binary(max_size=100))
def test_any_octets_as_parameters(data: bytes) -> None:
    for checks in (smtp_parse.MAIL_PARAMETERS_AUTH, smtp_parse.RCPT_PARAMETERS):
        try:
            smtp_parse.parameters(b" " + data, checks)
        except SyntaxFault as fault:
            assert fault.reply.code in (501, 555)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_xtext_round_trip(text: str) -> None:
    encoded = "".join(char if char not in "+=" else f"+{ord(char):02X}" for char in text)
    assert smtp_parse.xtext(encoded) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-15T08:00:00Z", 1_800_000_000.0),
        ("2027-01-15t08:00:00z", 1_800_000_000.0),
        ("2027-01-15T09:30:00+01:30", 1_800_000_000.0),
        ("2027-01-15T08:00:00.250000Z", 1_800_000_000.25),
        ("2027-01-15T08:00:00", None),
        ("2027-02-30T08:00:00Z", None),
        ("2027-01-15 08:00:00Z", None),
        ("0000-01-15T08:00:00Z", None),
        ("2027-01-15T24:00:00Z", None),
        ("", None),
    ],
)
def test_date_time(text: str, seconds: float | None) -> None:
    assert smtp_parse.date_time(text) == seconds


@given(st.text(max_size=40))
def test_date_time_takes_any_text(text: str) -> None:
    smtp_parse.date_time(text)
