"""Notifications, read back by an independent parser."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import pytest

from filterd.queue import dsn

ORIGINAL = b"From: ann@us.example\r\nSubject: hello\r\nX-Long: a\r\n b\r\n\r\nbody\r\n.dot\r\n"


def make(action: str = "failed", **changes: object) -> bytes:
    given: dict[str, object] = {
        "hostname": "us.example", "action": action, "reverse_path": "ann@us.example", "recipient": "bob@x.example",
        "status": "5.1.1", "diagnostic": "550 5.1.1 no such user", "original": ORIGINAL, "params": {},
        "message_id": "00112233445566778899@us.example", "now": 1_790_000_000.0, "remote": "mx.x.example",
        "arrival": 1_789_999_000.0,
    }  # fmt: skip
    return dsn.compose(**{**given, **changes})  # type: ignore[arg-type]  # the parameters above


def parse(data: bytes) -> tuple[EmailMessage, str, list[dict[str, str]], EmailMessage]:
    """(whole, text for people, groups of status fields, third part)."""
    assert data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r")
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    whole = email.message_from_bytes(data, policy=email.policy.SMTP)
    assert isinstance(whole, EmailMessage) and not whole.defects
    text, status, third = whole.iter_parts()
    assert [text.get_content_type(), status.get_content_type()] == ["text/plain", "message/delivery-status"]
    assert isinstance(third, EmailMessage)
    groups = [{name: str(value) for name, value in part.items()} for part in status.get_payload()]  # type: ignore[union-attr]  # a list
    return whole, text.get_content(), groups, third


def test_a_failure() -> None:
    whole, text, (message, recipient), third = parse(
        make(params={"ENVID": "QQ+2B1", "ORCPT": "rfc822;Bob+40old.example"})
    )
    assert whole["From"].addresses[0].addr_spec == "MAILER-DAEMON@us.example"
    assert whole["To"].addresses[0].addr_spec == "ann@us.example"
    assert whole["Auto-Submitted"] == "auto-replied" and whole.get_content_type() == "multipart/report"
    assert whole["Content-Type"].params["report-type"] == "delivery-status"
    assert "<bob@x.example>" in text and "550 5.1.1 no such user" in text and "mx.x.example" in text
    assert message["Reporting-MTA"] == "dns; us.example" and message["Original-Envelope-Id"] == "QQ+1"
    assert message["Arrival-Date"].endswith("-0000")
    assert recipient["Original-Recipient"] == "rfc822; Bob@old.example"
    assert recipient["Final-Recipient"] == "rfc822; bob@x.example"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")
    assert (
        recipient["Remote-MTA"] == "dns; mx.x.example"
        and recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    )
    assert third.get_content_type() == "text/rfc822-headers"
    assert b"Subject: hello\r\nX-Long: a\r\n b\r\n" in make() and b"body" not in make()


def test_the_whole_text_when_asked_for_and_small() -> None:
    _, _, _, third = parse(make(params={"RET": "FULL"}))
    assert third.get_content_type() == "message/rfc822" and b"\r\n.dot\r\n" in make(params={"RET": "FULL"})
    for change in ({"original": ORIGINAL + b"x\r\n" * 50_000}, {"action": "delayed"}):
        assert parse(make(params={"RET": "FULL"}, **change))[3].get_content_type() == "text/rfc822-headers"


def test_a_delay_tells_until_when() -> None:
    _, text, (_, recipient), _ = parse(
        make("delayed", status="4.4.1", diagnostic="451 4.4.1 no answer", until=1_790_400_000.0)
    )
    assert "keep trying until" in text and recipient["Will-Retry-Until"] and recipient["Action"] == "delayed"


@pytest.mark.parametrize("action", ["relayed", "delivered"])
def test_successes(action: str) -> None:
    _, _, (_, recipient), _ = parse(make(action, status="2.0.0", diagnostic="250 2.0.0 ok"))
    assert (
        recipient["Action"] == action
        and recipient["Status"] == "2.0.0"
        and "Diagnostic-Code" not in recipient
    )


def test_nothing_from_outside_begins_a_line() -> None:
    evil = "a\r\nEvil: 1\n\rEvil: 2\0"
    data = make(
        recipient="x\r\nEvil: 3@x",
        diagnostic=evil,
        remote=evil,
        params={"ENVID": "a+0D+0AEvil: 4", "ORCPT": "rfc822;b+0D+0A+0D+0AEvil: 5"},
    )
    assert b"\r\nEvil" not in data and b"\nEvil" not in data and b"\0" not in data
    parse(data)


def test_international_addresses_in_ascii_form() -> None:
    data = make(
        recipient="jöe@bücher.example",
        diagnostic="550 5.1.1 ß",
        params={"ORCPT": "utf-8;\\x{6A}\\x{F6}e@x.example"},
    )
    _, text, (_, recipient), _ = parse(data)
    assert recipient["Final-Recipient"] == "utf-8; j\\x{F6}e@b\\x{FC}cher.example"
    assert recipient["Original-Recipient"] == "utf-8; j\\x{F6}e@x.example"
    assert "jöe@bücher.example" in text
    head, _, rest = data.partition(b"Content-Type: message/delivery-status")
    assert rest.isascii() and b"Content-Transfer-Encoding: 8bit" in head


@pytest.mark.parametrize(
    ("original", "full", "kind"),
    [
        ("Subject: Grüße\r\n\r\nx\r\n".encode(), False, "message/global-headers"),
        ("Subject: Grüße\r\n\r\nx\r\n".encode(), True, "message/global"),
        ("Subject: x\r\n\r\nGrüße\r\n".encode(), True, "message/rfc822"),
        (b"Subject: \xff\r\n\r\nx\r\n", False, "text/rfc822-headers"),
    ],
)
def test_what_is_returned_of_international_mail(original: bytes, full: bool, kind: str) -> None:
    """RFC 6533 4: message/global-headers where text/rfc822-headers would hold UTF-8."""
    data = make(original=original, params={"RET": "FULL"} if full else {})
    third = data.partition(b"Content-Description: Original message\r\n")[2]
    assert third.startswith(f"Content-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode())
    assert (original if full else original.partition(b"\r\n\r\n")[0] + b"\r\n") in third


@pytest.mark.parametrize(
    "original",
    [
        b"",
        b"no header at all",
        b"\r\nbody only",
        b"X: 1\r\n" * 50_000,
        b"X: \xff\xfe\r\n\r\nx",
        b"Subject: x\r\n",
        b"X" * 200_000,
    ],
)
def test_odd_originals(original: bytes) -> None:
    data = make(original=original)
    assert len(data) < 80_000
    assert data.endswith(b"\r\n--=_00112233445566778899--\r\n")
    assert (b"Content-Transfer-Encoding: 8bit\r\n\r\nX:" in data) == (b"\xff" in original)


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("5.1.1 no", 550, "5.1.1"), ("no 5.7.1 x", 550, "5.7.1"), ("4.7.1 odd", 550, "5.0.0"), ("nothing", 451, "4.0.0"),
        ("5.1.10 x", 556, "5.1.10"), ("192.0.2.5 blocked", 554, "5.0.0"), ("5.1.1.1", 550, "5.0.0"), ("2.1.5 ok", 250, "2.1.5"),
        ("5.1234.1", 550, "5.0.0"), ("٥.١.١", 550, "5.0.0"),
        ("Mailbox unknown.  Either there is no mailbox associated with this\nname.\n5.1.1 User unknown", 550, "5.1.1"),
        ("no\nsee 5.1.1 there", 550, "5.0.0"), ("4.2.2 full\n5.2.2 full", 552, "5.2.2"),
    ],
)  # fmt: skip
def test_status_of(text: str, code: int, status: str) -> None:
    assert dsn.status_of(text, code) == status


def test_notify() -> None:
    assert [dsn.wanted({}, event) for event in ("FAILURE", "DELAY", "SUCCESS")] == [True, True, False]
    assert not any(dsn.wanted({"NOTIFY": "NEVER"}, event) for event in ("FAILURE", "DELAY", "SUCCESS"))
    assert [dsn.wanted({"NOTIFY": "success,Delay"}, e) for e in ("FAILURE", "DELAY", "SUCCESS")] == [
        False,
        True,
        True,
    ]


def test_mail_that_requires_tls_comes_back_as_its_header() -> None:
    """RFC 8689 5: as if RET=HDRS, whatever was asked for."""
    data = make(params={"RET": "FULL", "REQUIRETLS": ""})
    assert b"text/rfc822-headers" in data and b"message/rfc822\r\n" not in data
