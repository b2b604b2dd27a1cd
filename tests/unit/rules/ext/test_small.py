"""Small extensions: environment, spamtest, virustest, mailbox, metadata, special-use, mailboxid, ihave, envelope-dsn,
subaddress, encoded-character, error."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from rules.actions import FileInto, Redirect, RunResult
from rules.compiler import compile_script
from rules.errors import ScriptErrors
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.mail.message import Message
from rules.simplehost import SimpleHost

Go = Callable[..., RunResult]
Holds = Callable[..., bool]


def test_environment(holds: Holds) -> None:
    host = SimpleHost(items={"host": "mx.example", "remote-ip": ""})
    host.setting("secret", "x")
    assert holds('environment "HOST" "mx.example"', "environment", b"", host)
    assert holds('environment :matches "name" "*"', "environment", b"", host)
    assert holds('environment "remote-ip" ""', "environment", b"", host)
    assert not holds('environment :contains "vnd.none" ""', "environment", b"", host)
    assert not holds('environment :contains "vnd.filterd.setting.secret" ""', "environment", b"", host)


@pytest.mark.parametrize(
    ("spam", "value", "percent"),
    [
        (None, "0", "0"),
        ((-3.0, 5.0), "1", "0"),
        ((2.5, 5.0), "5", "50"),
        ((5.0, 5.0), "10", "100"),
        ((99.0, 5.0), "10", "100"),
        ((0.0, 5.0), "1", "0"),
    ],
)
def test_spamtest(holds: Holds, spam: tuple[float, float] | None, value: str, percent: str) -> None:
    host = SimpleHost(spam=spam)
    numeric = ':comparator "i;ascii-numeric"'
    more = "spamtestplus relational comparator-i;ascii-numeric"
    assert holds(f'spamtest :value "eq" {numeric} "{value}"', more, b"", host)
    assert holds(f'spamtest :percent :value "eq" {numeric} "{percent}"', more, b"", host)
    tested = "0" if spam is None else "1"
    assert holds(f'spamtest :count "eq" {numeric} "{tested}"', more, b"", host)


def test_virustest(holds: Holds) -> None:
    assert holds('virustest "0"', "virustest", b"", SimpleHost())
    assert holds('virustest "4"', "virustest", b"", SimpleHost(virus=4))
    assert holds('virustest :count "eq" "0"', "virustest relational", b"", SimpleHost())


def test_mailbox(holds: Holds, go: Go) -> None:
    host = SimpleHost(mailboxes={"a", "b"})
    assert holds('mailboxexists ["a", "b"]', "mailbox", b"", host)
    assert not holds('mailboxexists ["a", "c"]', "mailbox", b"", host)
    (action,) = go('require ["mailbox", "fileinto"]; fileinto :create "c";', b"", host).actions
    assert isinstance(action, FileInto) and action.create


def test_metadata(holds: Holds) -> None:
    host = SimpleHost(annotations={("INBOX", "/private/x"): "on", (None, "/shared/y"): "yes"})
    assert holds('metadata "INBOX" "/private/x" "ON"', "mboxmetadata", b"", host)
    assert not holds('metadata "INBOX" "/private/z" ""', "mboxmetadata", b"", host)
    assert holds('metadataexists "INBOX" "/private/x"', "mboxmetadata", b"", host)
    assert not holds('metadataexists "INBOX" ["/private/x", "/private/z"]', "mboxmetadata", b"", host)
    assert holds('servermetadata :contains "/shared/y" "e"', "servermetadata", b"", host)
    assert holds('servermetadataexists "/shared/y"', "servermetadata", b"", host)


def test_special_use(holds: Holds, go: Go) -> None:
    host = SimpleHost(special_uses={"Spam": {"\\Junk"}, "Sent": {"\\Sent"}})
    assert holds('specialuse_exists ["\\\\junk", "\\\\Sent"]', "special-use", b"", host)
    assert holds('specialuse_exists "Spam" "\\\\Junk"', "special-use", b"", host)
    assert not holds('specialuse_exists "Sent" "\\\\Junk"', "special-use", b"", host)
    (action,) = go(
        'require ["special-use", "fileinto"]; fileinto :specialuse "\\\\Junk" "Spam";', b"", host
    ).actions
    assert isinstance(action, FileInto) and (action.special_use, action.mailbox) == ("\\Junk", "Spam")


def test_mailboxid(holds: Holds, go: Go) -> None:
    host = SimpleHost(mailbox_ids={"F1", "F2"})
    assert holds('mailboxidexists ["F1", "F2"]', "mailboxid", b"", host)
    assert not holds('mailboxidexists ["F1", "f2"]', "mailboxid", b"", host)
    (action,) = go('require ["mailboxid", "fileinto"]; fileinto :mailboxid "F1" "A";', b"", host).actions
    assert isinstance(action, FileInto) and action.mailbox_id == "F1"


def test_ihave(go: Go) -> None:
    text = 'require "ihave"; if not ihave "vnd.nope" { error "no"; }'
    assert go(text).error == "no"
    text = 'require "ihave"; if not ihave "vnd.nope" { stop; } vnd_nope "x";'
    assert go(text).error is None
    text = 'require "ihave"; if ihave "vnd.nope" { stop; } vnd_nope "x";'
    assert "not there" in (go(text).error or "")
    text = 'require "ihave"; if ihave "fileinto" { fileinto "a"; }'
    assert isinstance(go(text).actions[0], FileInto)


def envelope_test(test: str, **more: dict[str, str]) -> bool:
    script = compile_script(
        f'require ["envelope-dsn", "envelope-deliverby", "envelope"]; if {test} {{ discard; }}'
    )
    host = SimpleHost(moment=datetime(2026, 1, 1, tzinfo=UTC))
    result = run([script], Message(b""), ScriptEnvelope("a@b", "c@d", **more), host)  # type: ignore[arg-type]  # by name
    return type(result.actions[0]).__name__ == "Discard"


def test_envelope_dsn() -> None:
    rcpt = {"NOTIFY": "success,DELAY", "ORCPT": "rfc822;a+2Bb@c"}
    mail = {"RET": "hdrs", "ENVID": "x+20y", "BY": "120;RT"}
    assert envelope_test('envelope "notify" "DELAY"', rcpt_params=rcpt)
    assert not envelope_test('envelope "notify" "NEVER"', rcpt_params=rcpt)
    assert envelope_test('envelope "orcpt" "rfc822;a+b@c"', rcpt_params=rcpt)
    assert envelope_test('envelope "ret" "HDRS"', mail_params=mail)
    assert envelope_test('envelope "envid" "x y"', mail_params=mail)
    assert envelope_test('envelope "bytimerelative" "120"', mail_params=mail)
    assert envelope_test('envelope "bytimeabsolute" "2026-01-01T00:02:00Z"', mail_params=mail)
    assert envelope_test('envelope "bymode" "return"', mail_params=mail)
    assert envelope_test('envelope "bytrace" "trace"', mail_params=mail)
    assert envelope_test('envelope "bytrace" ""', mail_params={"BY": "1;N"})
    assert not envelope_test('envelope "bytrace" ""', mail_params={})
    zoned = 'envelope :zone "+0130" "bytimeabsolute" "2026-01-01T01:32:00+01:30"'
    assert envelope_test(zoned, mail_params=mail)
    with pytest.raises(ScriptErrors, match="no address"):
        envelope_test('envelope :domain "ret" "x"')
    assert not envelope_test('envelope :contains ["notify", "ret", "bymode"] ""')


def test_redirect_deliverby(go: Go) -> None:
    text = (
        'require "redirect-deliverby"; redirect :bytimerelative 600 :bymode "notify" :bytrace "a@b.example";'
    )
    (action,) = go(text).actions
    assert isinstance(action, Redirect) and (action.by_time, action.by_mode, action.by_trace) == (
        600,
        "N",
        True,
    )
    text = 'require "redirect-deliverby"; redirect :bytimeabsolute "2026-01-01T01:00:00Z" "a@b.example";'
    (action,) = go(text, b"", SimpleHost(moment=datetime(2026, 1, 1, tzinfo=UTC))).actions
    assert isinstance(action, Redirect) and (action.by_time, action.by_mode) == (3600, "R")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${hex:40}", "@"),
        ("${HEX: c3 A9 }", "é"),
        ("${unicode:40 0041}", "@A"),
        ("${unicode: 10ffff}", "\U0010ffff"),
        ("${hex:400}", "${hex:400}"),
        ("${hex:}", "${hex:}"),
        ("$${hex:40}", "$@"),
        ("${hex:24}{hex:40}", "${hex:40}"),
        ("${unicode:40", "${unicode:40"),
    ],
)
def test_encoded_character(go: Go, written: str, value: str) -> None:
    (action,) = go(f'require ["encoded-character", "fileinto"]; fileinto "x{written}";').actions
    assert isinstance(action, FileInto) and action.mailbox == "x" + value


def test_subaddress_delimiters(holds: Holds) -> None:
    host = SimpleHost()
    host.setting("recipient_delimiter", "-+")
    mail = b"To: ken-x+y@example.org\r\n\r\n"
    assert holds('address :detail "to" "x+y"', "subaddress", mail, host)
    assert holds('address :user "to" "ken"', "subaddress", mail, host)
    assert holds('address :user "to" "ken-x"', "subaddress", mail, SimpleHost())
