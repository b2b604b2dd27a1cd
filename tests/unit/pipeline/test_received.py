"""Our Received line: the standard's words, and nothing a client says ends it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.envelope import Client, Profile
from pipeline.received import line, protocol
from rules.mail.header import scan, unfold

WHEN = datetime(2026, 11, 23, 12, 4, 9, tzinfo=UTC)


def test_the_whole_line() -> None:
    client = Client(
        ip="192.0.2.1", helo="mx.example.net", name="mx1.example.net", tls="TLSv1.3 TLS_AES_256_GCM_SHA384"
    )
    assert line(client, Profile.MX, "mail.example.org", "7K3QM-2XNPA", WHEN, ["ann@example.org"]) == (
        b"Received: from mx.example.net (mx1.example.net [192.0.2.1])\r\n"
        b"\tby mail.example.org with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384) id 7K3QM-2XNPA\r\n"
        b"\tfor <ann@example.org>;\r\n"
        b"\tMon, 23 Nov 2026 12:04:09 +0000\r\n"
    )


def test_hidden_client() -> None:
    client = Client(ip="192.0.2.1", helo="anns-laptop", name="dsl.example.net", tls="TLSv1.3", auth="ann")
    raw = line(client, Profile.SUBMISSION, "mail.example.org", "X", WHEN, ["a@b", "c@d"], hide_client=True)
    assert b"with ESMTPSA" in raw
    for secret in (b"192.0.2", b"laptop", b"dsl", b"ann", b"a@b", b"for <"):
        assert secret not in raw


@pytest.mark.parametrize(
    ("client", "profile", "smtputf8", "word"),
    [
        (Client(esmtp=False), Profile.MX, False, "SMTP"),
        (Client(), Profile.MX, False, "ESMTP"),
        (Client(tls="x"), Profile.MX, False, "ESMTPS"),
        (Client(auth="a"), Profile.SUBMISSION, False, "ESMTPA"),
        (Client(auth="a", tls="x"), Profile.SUBMISSION, False, "ESMTPSA"),
        (Client(auth="a", tls="x"), Profile.SUBMISSION, True, "UTF8SMTPSA"),
        (Client(), Profile.LMTP, False, "LMTP"),
        (Client(tls="x"), Profile.LMTP, True, "UTF8LMTPS"),
    ],
)
def test_protocol_words(client: Client, profile: Profile, smtputf8: bool, word: str) -> None:
    assert protocol(client, profile, smtputf8) == word


@pytest.mark.parametrize(
    ("helo", "ip", "begins"),
    [
        ("[192.0.2.1]", "192.0.2.1", b"from [192.0.2.1] ([192.0.2.1])"),
        ("[IPv6:2001:db8::1]", "2001:db8::1", b"from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])"),
        ("a b", "192.0.2.1", b"from [192.0.2.1] (HELO a b)"),
        ("x) by evil.example; (", "192.0.2.1", b"from [192.0.2.1] (HELO x? by evil.example? ?)"),
        ("a\r\nX-Evil: 1", None, b"from unknown (HELO a??X-Evil: 1)"),
        ("", "192.0.2.1", b"from [192.0.2.1] (no HELO)"),
        ("mx.example.net", None, b"from mx.example.net"),
        ("mx.example.net", "fe80::1%eth0", b"from mx.example.net ([IPv6:fe80::1])"),
    ],
)
def test_what_the_client_said(helo: str, ip: str | None, begins: bytes) -> None:
    raw = line(Client(ip=ip, helo=helo), Profile.MX, "us", "X", WHEN)
    assert raw.startswith(b"Received: " + begins + b"\r\n\tby us with ESMTP id X;")


def test_a_command_has_no_client() -> None:
    assert line(Client(), Profile.DELIVER, "us", "X", WHEN).startswith(b"Received: by us id X;")


def test_for_is_left_out_when_it_cannot_be_said() -> None:
    for recipients in ([], ["a@b", "c@d"], ["a b@c"], ["a>@b"], ["a\n@b"], ["é@b"]):
        assert b"for <" not in line(Client(), Profile.MX, "us", "X", WHEN, recipients)
    international = line(Client(), Profile.MX, "us", "X", WHEN, ["a@bücher.example"], smtputf8=True)
    assert b"for <a@xn--bcher-kva.example>" in international and b"UTF8SMTP" in international
    assert b"for" not in line(Client(), Profile.MX, "us", "X", WHEN, ["é@b"], smtputf8=True)


anything = st.text(max_size=80)


@settings(deadline=None)
@given(helo=anything, name=anything, tls=anything, ip=st.none() | anything, to=anything, hide=st.booleans())
def test_it_is_always_one_field(helo: str, name: str, tls: str, ip: str | None, to: str, hide: bool) -> None:
    client = Client(ip=ip, helo=helo, name=name, tls=tls)
    raw = line(client, Profile.MX, "us", "X", WHEN, [to], hide_client=hide)
    block = scan(raw + b"To: x\r\n\r\n")
    assert [field.lname for field in block.fields] == [b"received", b"to"]
    text = unfold(raw).strip()
    assert text.count(b"(") == text.count(b")") and b"by us with ESMTP" in text
    assert text.endswith(b";\tMon, 23 Nov 2026 12:04:09 +0000") and text.count(b";") == 1
