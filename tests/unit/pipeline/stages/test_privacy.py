"""privacy: what goes, what stays, and not one octet more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edits import splice
from pipeline.stages.privacy import DEFAULT_STRIP, PrivacySettings, strip
from rules.mail.header import scan
from rules.mail.message import Message

LEAKS = (
    b"User-Agent: Mozilla Thunderbird\r\n",
    b"X-Mailer: iPhone Mail\r\n\t(20A362)\r\n",
    b"x-originating-ip : [192.0.2.9]\r\n",
    b"X-PHP-Originating-Script: 1000:mail.php\r\n",
    b"X-PHP-Script: www.example.org/x.php for 192.0.2.9\r\n",
    b"X-Sender-IP: 192.0.2.9\r\n",
    b"X-Forwarded-For: 192.0.2.9\r\n",
    b"X-ClientProxiedBy: AM0.example (10.1.2.3)\r\n",
    b"X-Source: /usr/bin/php\r\n",
    b"X-Source-Args: x\r\n",
    b"X-AntiAbuse: Originator/Caller UID/GID - [500 501]\r\n",
    b"X-Authenticated-Sender: host: ann\r\n",
    b"X-Originating-Email: [ann@example.org]\r\n",
    b"X-Filterd-Trace: 7K3QM-2XNPA\r\n",
)
KEPT = (
    b"From: ann@example.org\r\n",
    b"Subject: X-Mailer: in a value\r\n",
    b"X-Mailers: not this one\r\n",
    b"List-Id: <x>\r\n",
    b"X-Priority: 1\r\n",
)


def done(data: bytes, **more: object) -> bytes:
    return splice(data, strip(Message(data), PrivacySettings(), **more).splices)  # type: ignore[arg-type]  # free options


@settings(deadline=None)
@given(st.permutations(LEAKS + KEPT))
def test_leaks_go_and_the_rest_stays_in_order(fields: list[bytes]) -> None:
    data = b"".join(fields) + b"\r\nbody\r\nX-Mailer: in the body\r\n"
    assert (
        done(data)
        == b"".join(one for one in fields if one in KEPT) + b"\r\nbody\r\nX-Mailer: in the body\r\n"
    )


def test_fields_of_parts_but_not_of_attached_messages() -> None:
    data = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nX-Unix-Mode: 0644\r\nContent-Type: text/plain\r\nX-Mailer: y\r\n\r\ntext\r\n"
        b"--b\r\nContent-Type: message/rfc822\r\n\r\nX-Mailer: theirs\r\nSubject: s\r\n\r\nx\r\n--b--\r\n"
    )
    out = done(data)
    assert out == data.replace(b"X-Unix-Mode: 0644\r\n", b"").replace(b"X-Mailer: y\r\n", b"")
    assert done(data, signed=True) == data


def test_the_evidence_names_a_field_of_a_part_whose_colon_is_on_the_next_line() -> None:
    data = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX-Mailer\r\n : y\r\nA: b\r\n\r\nx\r\n--b--\r\n"
    stripped = strip(Message(data), PrivacySettings())
    assert stripped.evidence == {"removed": "x-mailer"} and b"y" not in splice(data, stripped.splices)[45:]


def test_the_comment_of_mime_version() -> None:
    data = b"Mime-Version: 1.0 (Mac OS X Mail 16.0 \\(3696\\))\r\nSubject: x\r\n\r\n"
    assert done(data) == b"Mime-Version: 1.0\r\nSubject: x\r\n\r\n"
    assert done(b"MIME-Version: 1.0\r\n\r\n") == b"MIME-Version: 1.0\r\n\r\n"


def test_a_signed_field_stays_and_the_evidence_says_so() -> None:
    data = b"X-Mailer: a\r\nUser-Agent: b\r\nMime-Version: 1.0 (c)\r\n\r\nbody"
    result = strip(Message(data), PrivacySettings(), frozenset({b"x-mailer", b"from"}))
    assert splice(data, result.splices) == b"X-Mailer: a\r\nMime-Version: 1.0 (c)\r\n\r\nbody"
    assert result.evidence == {"removed": "User-Agent", "kept": "signed: X-Mailer"}


def test_own_list_and_off() -> None:
    data = b"X-Mailer: a\r\nX-House: b\r\nReceived: c\r\nX-Filterd-Trace: t\r\n\r\nbody"
    own = PrivacySettings(strip=("x-HOUSE", "Received", "*", ""))
    assert splice(data, strip(Message(data), own).splices) == b"X-Mailer: a\r\n\r\nbody"
    assert strip(Message(data), PrivacySettings(enabled=False)).splices == ()


def test_hops_before_a_submission_keep_only_their_dates() -> None:
    data = (
        b"Received: from localhost (client address withheld)\r\n\tby mx.example with ESMTPSA id 7K3Q-M2;\r\n"
        b"\tMon, 23 Nov 2026 10:00:00 +0000\r\n"
        b"Received: from laptop.home ([10.0.0.5])\r\n\tby relay.home with SMTP id 9;\r\n\tMon, 23 Nov 2026 09:59:58 +0000\r\n"
        b"received: from 10.0.0.6 without a date\r\nSubject: x\r\n\r\nReceived: from a quoted one\r\n"
    )
    result = strip(Message(data), PrivacySettings(), submitted=b"7K3Q-M2")
    out = splice(data, result.splices)
    assert b"10.0.0" not in out and b"home" not in out and b"withheld" in out
    assert b"Received: from hidden by hidden; Mon, 23 Nov 2026 09:59:58 +0000\r\n" in out
    assert len(scan(out).fields) == 4 and out.endswith(b"\r\n\r\nReceived: from a quoted one\r\n")
    assert result.evidence == {"removed": "Received of the client"}
    assert (
        splice(out, strip(Message(out), PrivacySettings(), submitted=b"7K3Q-M2").splices) == out
    )  # once is enough
    assert done(data) == data  # forwarded mail keeps its hops


def test_the_default_list_is_well_formed() -> None:
    assert len(set(DEFAULT_STRIP)) == len(DEFAULT_STRIP)
    assert all(name.rstrip("*").replace("-", "").isalnum() for name in DEFAULT_STRIP)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_octets(data: bytes) -> None:
    out = done(data)
    assert len(out) <= len(data)
    names = {field.lname for field in scan(out).fields}
    assert not names & {b"x-mailer", b"user-agent"}
