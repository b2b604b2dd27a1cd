"""From a configuration to stages, signatures and seals: filterd/assembly.py, filterd/signing.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from filterd import assembly, signing
from filterd.config.load import parse
from filterd.config.schema import Config
from filterd.outgoing import Departure
from filterd.signing import SigningProblem
from pipeline.adapters.crypto import generate
from pipeline.adapters.dnspython import DnsResolver
from pipeline.dkim.arc import ArcVerification
from pipeline.dkim.verify import Verification
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.plan import Send
from pipeline.ports import DnsAnswer, DnsStatus
from pipeline.registry import StageContext
from pipeline.srs import Rewritten, Unchanged
from pipeline.stage import Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition
from pipeline.zone import Zone, ZoneResolver
from rules.mail.header import scan
from rules.mail.message import Message
from tests.house import TestClock, TestIds

MAIL = (
    b"From: Far <far@away.example>\r\nTo: ann@here.example\r\nSubject: Hi\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Message-ID: <1@away.example>\r\nX-Mailer: x\r\n\r\nHello\r\n"
)
ZONE = """
away.example TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.away.example TXT "v=DMARC1; p=reject; rua=mailto:d@away.example"
9.2.0.192.zen.example A 127.0.0.2
"""


def config(folder: Path, more: str = "") -> Config:
    text = (
        f'[server]\nhostname = "mx.here.example"\ndata_dir = "{folder}"\n[[domain]]\nname = "here.example"\n'
    )
    return parse(text + more)


def context(zone: Zone, made: Config) -> StageContext:
    return assembly.stage_context(made, TestClock(), TestIds(), ZoneResolver(zone))


def arrive(
    made: Config, zone: Zone, ip: str = "192.0.2.1", profile: Profile = Profile.MX, trusted: bool = True
) -> Transaction:
    """A message that passed the incoming stages."""
    runner = assembly.incoming(made, context(zone, made))
    client = Client(ip=ip, helo="mx.away.example", facts_trusted=trusted)
    envelope = Envelope("far@away.example", (Recipient("ann@here.example"),), client, profile)
    work = Transaction(Message(MAIL), envelope, "trace", TestClock().now + 25)

    async def go() -> None:
        work.state["outcome"] = await runner.run(Phase.EOM, work)
        await runner.close()

    asyncio.run(go())
    return work


def departure(made: Config, zone: Zone) -> Departure:
    return assembly.departure(made, context(zone, made), None)


def disposition(work: Transaction) -> tuple[Disposition, str]:
    verdict = work.state["outcome"].verdict  # type: ignore[attr-defined]
    return verdict.disposition, verdict.stage


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[Config, Zone]:
    """here.example with two keys of its own making, both published."""
    made = config(tmp_path)
    zone = Zone.parse(ZONE)
    for selector, kind in (("r", "rsa"), ("e", "ed25519")):
        key, path = signing.make(made, "here.example", selector, kind, 2048)
        assert path.stat().st_mode & 0o777 == 0o600
        zone.add(f"{selector}._domainkey.here.example", "TXT", key.record())
    signing.activate(made, "here.example", ["r", "e"])
    return made, zone


def test_dmarc_has_its_way_as_configured(tmp_path: Path) -> None:
    zone = Zone.parse(ZONE)
    assert disposition(arrive(config(tmp_path), zone)) == (Disposition.CONTINUE, "")
    assert disposition(arrive(config(tmp_path), zone, "192.0.2.9")) == (Disposition.REJECT, "dmarc")
    junk = config(tmp_path, '[stage.dmarc]\nreject = "junk"\n')
    assert disposition(arrive(junk, zone, "192.0.2.9")) == (Disposition.QUARANTINE, "dmarc")
    off = config(tmp_path, "[stage.dmarc]\nenabled = false\n")
    assert disposition(arrive(off, zone, "192.0.2.9")) == (Disposition.CONTINUE, "")


def test_behind_another_server_dmarc_rejects_nothing(tmp_path: Path) -> None:
    made, zone = config(tmp_path), Zone.parse(ZONE)
    known = arrive(made, zone, "192.0.2.9", Profile.LMTP)
    assert disposition(known) == (Disposition.QUARANTINE, "dmarc")
    unknown = arrive(made, zone, "192.0.2.9", Profile.LMTP, trusted=False)
    assert disposition(unknown) == (Disposition.CONTINUE, "")
    assert unknown.verdicts["dmarc"].result == "none"


def test_block_lists_and_greylist_are_off_until_asked_for(tmp_path: Path) -> None:
    zone = Zone.parse(ZONE)
    assert {"dnsbl", "greylist"}.isdisjoint(arrive(config(tmp_path), zone).verdicts)
    listed = config(
        tmp_path, '[stage.dnsbl]\nlists = ["zen.example=2"]\nreject_at = 2\n[stage.dmarc]\nreject = "note"\n'
    )
    assert disposition(arrive(listed, zone, "192.0.2.9")) == (Disposition.REJECT, "dnsbl")
    grey = config(tmp_path, "[stage.greylist]\nenabled = true\n")
    assert disposition(arrive(grey, zone)) == (Disposition.TEMPFAIL, "greylist")
    assert (tmp_path / "greylist.db").exists()


def test_observations_are_kept_when_reports_are_wanted(tmp_path: Path) -> None:
    arrive(config(tmp_path), Zone.parse(ZONE))
    assert not (tmp_path / "reports.db").exists()
    made = config(tmp_path, "[stage.dmarc.reports]\nsend = true\n")
    runner = assembly.incoming(made, context(Zone(), made))
    assert next(stage for stage in runner.stages if stage.name == "dmarc")._observe is not None  # type: ignore[attr-defined]


def dkim(message: bytes, zone: Zone) -> list[str]:
    block = scan(message)
    verification = Verification(block, TestClock().now)
    for name in verification.wanted():
        verification.give(name, zone.lookup(name, "TXT"))
    if verification.needs_body():
        verification.feed(message[block.body_start :])
    return [f"{one.domain} {one.algorithm} {one.result}" for one in verification.results()]


def arc(message: bytes, zone: Zone) -> tuple[str, int]:
    block = scan(message)
    chain = ArcVerification(block, TestClock().now)
    for name in chain.wanted():
        chain.give(name, zone.lookup(name, "TXT"))
    if chain.needs_body():
        chain.feed(message[block.body_start :])
    found = chain.result()
    return found.result, len(found.sets)


def test_mail_of_our_own_is_signed_with_all_keys(keyed: tuple[Config, Zone]) -> None:
    made, zone = keyed
    own = MAIL.replace(b"away.example>", b"here.example>")
    signed = departure(made, zone).sign(own, "here.example") + own
    assert dkim(signed, zone) == ["here.example rsa-sha256 pass", "here.example ed25519-sha256 pass"]
    assert departure(made, zone).sign(MAIL, "away.example") == b""


def test_forwarded_mail_is_sealed_and_privacy_happens_before(keyed: tuple[Config, Zone]) -> None:
    made, zone = keyed
    work = arrive(made, zone)
    leaving = departure(made, zone)
    forward = leaving.outgoing(
        work, work.message, to="x@y.example", kind="forward", key=b"k", params={}, passed="ann@here.example"
    )
    redirect = leaving.redirected(
        work, work.message, Send("x@y.example", "far@away.example"), b"k", "ann@here.example"
    )
    for outgoing in (forward, redirect):
        assert b"X-Mailer" not in outgoing.data
        assert outgoing.data.startswith(b"ARC-Seal: i=1;")
        assert arc(outgoing.data, zone) == ("pass", 1)
        (said,) = scan(outgoing.data).get_all(b"arc-authentication-results")
        assert said.startswith(b"i=1; mx.here.example; spf=pass")
        assert b"dmarc=pass" in said
    submission = leaving.outgoing(
        work, Message(MAIL), to="x@y.example", kind="submission", key=b"k", params={}, passed=""
    )
    assert b"ARC-Seal" not in submission.data


def test_a_submission_is_signed_once_for_all_recipients(keyed: tuple[Config, Zone]) -> None:
    made, zone = keyed
    base = Message(MAIL.replace(b"away.example>", b"here.example>"))
    envelope = Envelope("ann@here.example", (), Client(auth="ann@here.example"), Profile.SUBMISSION)
    work = Transaction(base, envelope, "trace", TestClock().now)
    leaving = departure(made, zone)

    def leave(message: Message, to: str) -> bytes:
        return leaving.outgoing(
            work, message, to=to, kind="submission", key=to.encode(), params={}, passed=""
        ).data

    first = leave(base, "x@y.example")
    assert dkim(first, zone) == ["here.example rsa-sha256 pass", "here.example ed25519-sha256 pass"]
    assert leave(base, "z@y.example") is first
    other = leave(Message(base.data + b"more\r\n"), "z@y.example")
    assert other.endswith(b"more\r\n") and dkim(other, zone) == dkim(first, zone)


def test_a_seal_is_put_on_a_chain_that_we_verified(keyed: tuple[Config, Zone]) -> None:
    made, zone = keyed
    work = arrive(made, zone)
    leaving = departure(made, zone)
    assert leaving.seal is not None
    for count in (1, 2, 3):
        data = leaving.seal(work, work.message.data, "ann@here.example") + work.message.data
        assert arc(data, zone) == ("pass", count)
        work = Transaction(Message(data), work.envelope, "trace", TestClock().now + 25)
        runner = assembly.incoming(made, context(zone, made))
        asyncio.run(runner.run(Phase.EOM, work))
    del work.state["arc"]  # as when the stage is switched off
    assert leaving.seal(work, work.message.data, "ann@here.example") == b""


def test_no_seal_without_a_key_or_when_it_is_not_wanted(tmp_path: Path, keyed: tuple[Config, Zone]) -> None:
    _, zone = keyed
    assert departure(config(tmp_path / "other"), zone).seal is None
    unwanted = config(tmp_path, '[pipeline]\noutgoing = ["privacy", "dkim-sign", "queue"]\n')
    assert departure(unwanted, zone).seal is None


def test_keys_of_the_configuration_come_first_then_the_tables(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(generate("ed25519").pem())
    (tmp_path / "KeyTable").write_text(f"all  %:sel:{tmp_path / 'key.pem'}\n")
    (tmp_path / "SigningTable").write_text("*@sub.example all\n*@here.example all\n")
    tables = f'[dkim]\nkey_table = "{tmp_path}/KeyTable"\nsigning_table = "{tmp_path}/SigningTable"\n'
    ring = signing.keyring(config(tmp_path, tables))
    assert [(key.domain, key.selector) for key in ring.keys_for("x@sub.example")] == [("sub.example", "sel")]
    assert [key.selector for key in ring.keys_for("x@here.example")] == ["sel"]
    named = f'dkim = {{ selector = "own", key = "{tmp_path}/key.pem" }}\n'
    ring = signing.keyring(config(tmp_path, named + tables))
    assert [key.selector for key in ring.keys_for("x@here.example")] == ["own"]
    (tmp_path / "SigningTable").write_text("*@here.example other\n")
    with pytest.raises(SigningProblem, match="line 1"):
        signing.keyring(config(tmp_path, tables))


def test_what_the_key_folder_refuses(tmp_path: Path) -> None:
    made = config(tmp_path)
    for selector in ("../x", "a/b", "", ".", "a..b", "x" * 64):
        with pytest.raises(SigningProblem):
            signing.make(made, "here.example", selector, "ed25519", 0)
    signing.make(made, "here.example", "S1", "ed25519", 0)
    with pytest.raises(SigningProblem, match="already"):
        signing.make(made, "here.example", "s1", "ed25519", 0)
    with pytest.raises(SigningProblem):
        signing.activate(made, "here.example", ["s2"])
    with pytest.raises(SigningProblem):
        signing.make(made, "here.example", "s3", "rsa", 512)


def test_whose_mail_is_rewritten_tagged_and_stripped(tmp_path: Path) -> None:
    more = 'privacy = false\n[srs]\nexempt = ["Friend.example"]\n[batv]\nenabled = true\n'
    made = config(tmp_path, more)
    clock = TestClock()
    srs, tags = assembly.srs_of(made, clock), assembly.batv_of(made, clock)
    assert srs is not None and tags is not None
    assert isinstance(srs.forward("a@friend.EXAMPLE"), Unchanged)
    assert isinstance(srs.forward("a@away.example"), Rewritten)
    assert (
        tags.sign("ann@here.example").startswith("prvs=")
        and tags.sign("a@friend.example") == "a@friend.example"
    )
    again = assembly.batv_of(made, clock)  # the secret is made once
    assert again is not None and again.sign("ann@here.example") == tags.sign("ann@here.example")
    leaving = departure(made, Zone())
    assert not leaving.private("ann@here.example") and leaving.private("ann@other.example")
    assert assembly.batv_of(config(tmp_path), clock) is None


def test_answers_of_a_zone_without_a_ttl_are_kept_as_long_as_configured(tmp_path: Path) -> None:
    for more, kept in (("", True), ('[dns]\nleast_ttl = "0s"\n', False)):
        resolver = assembly.dns(config(tmp_path, more), TestClock(), TestIds())
        assert isinstance(resolver, DnsResolver)
        resolver.cache.put(("away.example", "TXT"), DnsAnswer(DnsStatus.OK, ("x",), ttl=0))
        assert (resolver.cached("away.example", "TXT") is not None) is kept
