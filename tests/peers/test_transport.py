"""TLS with other mail hosts over real connections: DANE, MTA-STS, secure; and everything that an attacker or a careless host does.

Loopback only. Each case says whether the mail goes, over TLS or in clear text, and what a report would say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from filterd.queue.dialogue import Mail
from filterd.queue.link import Link
from filterd.queue.mtasts import StsCache
from filterd.queue.outbound import Dialer
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop
from filterd.queue.tlsdemand import Session, TlsResult
from filterd.queue.tlspolicy import TlsPolicies, Wish
from pipeline.zone import Zone, ZoneResolver
from tests.queuelab import HandClock
from tests.tlslab import NOW, Cert, MailHost, running

pytestmark = pytest.mark.slow

ROOT = Cert("root", ca=True)
GOOD = Cert("mx.x.example", ROOT, names=("mx.x.example",))
WRONG = Cert("elsewhere.example", ROOT, names=("elsewhere.example",))
OLD = Cert("mx.x.example", ROOT, names=("mx.x.example",), start=-30, days=-1)
OWN = Cert("mx.x.example", names=("mx.x.example",))
TEXT = b"Subject: x\r\n\r\nbody\r\n"


@dataclass
class Lab:
    """The domain x.example with hosts mx.x.example and b.x.example. ``policy``: its MTA-STS policy."""

    folder: Path
    zone: Zone = field(default_factory=Zone)
    policy: str = ""
    word: str = "dane"
    wishes: dict[str, Wish] = field(default_factory=dict)
    authentic: bool = True
    ca: str = ""
    clock: HandClock = field(default_factory=lambda: HandClock(NOW))
    told: list[Session] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)

    def fetch(self, domain: str, addresses: Sequence[str]) -> str:
        return self.policy

    def policies(self) -> TlsPolicies:
        self.zone.authentic = self.authentic
        resolver = ZoneResolver(self.zone)
        sts = StsCache(self.folder / "mtasts.db", resolver, self.clock, self.fetch)
        return TlsPolicies(resolver, self.word, self.wishes, sts)

    def sts(self, *lines: str) -> None:
        self.authentic = False
        self.zone.add("_mta-sts.x.example", "TXT", '"v=STSv1; id=1;"')
        self.zone.add("mta-sts.x.example", "A", "192.0.2.1")
        self.policy = "\n".join(("version: STSv1", "max_age: 86400", *lines))

    async def send(self, *hosts: MailHost) -> Link | RemoteReply:
        """Find the demands, connect, send one message."""
        names = ("mx.x.example", "b.x.example")
        for name in names[: len(hosts)]:
            self.zone.add("x.example", "MX", f"10 {name}")
            self.zone.add(name, "A", "127.0.0.1")
        hops = [Hop(name, "127.0.0.1", host.port) for name, host in zip(names, hosts, strict=False)]
        guarded = await self.policies().guard("x.example", hops)
        dialer = Dialer("us.example", ca_file=self.ca, clock=self.clock, heard=self.told.append)
        link = await dialer.first(guarded)
        if isinstance(link, Link):
            mail = Mail("ann@us.example", ["bob@x.example"], TEXT, [self.params])
            await link.attempt(mail)
            await link.close()
            if not mail.results["bob@x.example"].good:
                return mail.results["bob@x.example"]
        return link

    def tlsa(self, host: MailHost, *records: str, name: str = "mx.x.example") -> None:
        for text in records:
            self.zone.add(f"_{host.port}._tcp.{name}", "TLSA", text)

    @property
    def results(self) -> list[str]:
        return [one.result.value for one in self.told]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def real(cert: Cert, issuer: Cert | None = None) -> Cert:
    """The same, valid by the real clock, which is what the handshake itself goes by."""
    return replace(cert, now=time.time(), issuer=issuer)


DANE_CASES = {
    "ee": (GOOD, GOOD.tlsa(3, 1, 1), {}, True),
    "ee-whole": (GOOD, GOOD.tlsa(3, 0, 0), {}, True),
    "ee-wrong-name": (WRONG, WRONG.tlsa(3, 1, 1), {}, True),
    "ee-expired": (OLD, OLD.tlsa(3, 1, 2), {}, True),
    "ta": (GOOD, ROOT.tlsa(2, 0, 1), {}, True),
    "ta-key": (GOOD, ROOT.tlsa(2, 1, 2), {}, True),
    "ta-wrong-name": (WRONG, ROOT.tlsa(2, 0, 1), {}, False),
    "ta-expired": (OLD, ROOT.tlsa(2, 0, 1), {}, False),
    "other-certificate": (OWN, GOOD.tlsa(3, 0, 1), {}, False),
    "self-signed-ta": (OWN, ROOT.tlsa(2, 0, 1), {}, False),
    "stripped": (GOOD, GOOD.tlsa(3, 1, 1), {"stripped": True}, False),
    "refused": (GOOD, GOOD.tlsa(3, 1, 1), {"refuses": True}, False),
    "garbage": (GOOD, GOOD.tlsa(3, 1, 1), {"garbage": True}, False),
    "unusable": (WRONG, GOOD.tlsa(1, 1, 1), {}, True),
    "unusable-stripped": (WRONG, GOOD.tlsa(1, 1, 1), {"stripped": True}, False),
}


@pytest.mark.parametrize("case", DANE_CASES)
def test_dane(lab: Lab, tmp_path: Path, case: str) -> None:
    cert, record, moods, goes = DANE_CASES[case]
    host = MailHost(cert.context(tmp_path, ROOT), **moods)  # type: ignore[arg-type]  # its flags

    async def go() -> Link | RemoteReply:
        async with running(host):
            lab.tlsa(host, record)
            return await lab.send(host)

    found = asyncio.run(go())
    assert isinstance(found, Link) == goes, found
    assert [secure for secure, _, _ in host.taken] == ([True] if goes else [])
    if isinstance(found, RemoteReply):
        assert found.code == 451 and found.lines[0].startswith("4.7.5 "), found
    assert len(lab.told) == 1 and lab.told[0].policy.kind == "tlsa"
    assert (lab.told[0].result is TlsResult.OK) == (goes and "unusable" not in case)


def test_a_bad_host_is_left_for_a_good_one(lab: Lab, tmp_path: Path) -> None:
    first, second = MailHost(OWN.context(tmp_path)), MailHost(GOOD.context(tmp_path, ROOT))

    async def go() -> Link | RemoteReply:
        async with running(first, second):
            lab.tlsa(first, GOOD.tlsa(3, 0, 1))
            lab.tlsa(second, GOOD.tlsa(3, 1, 1), name="b.x.example")
            return await lab.send(first, second)

    found = asyncio.run(go())
    assert isinstance(found, Link)
    said = found.take_transcript()
    assert (len(first.taken), len(second.taken)) == (0, 1)
    assert "matches no TLSA record" in said and "DANE: the certificate is the one of TLSA 3 1 1" in said, said
    assert lab.results == ["validation-failure", "ok"]


def test_a_failed_tlsa_look_up_stops_the_mail(lab: Lab, tmp_path: Path) -> None:
    host = MailHost(GOOD.context(tmp_path, ROOT))

    async def go() -> Link | RemoteReply:
        async with running(host):
            lab.zone.add(f"_{host.port}._tcp.mx.x.example", "TLSA", "SERVFAIL")
            return await lab.send(host)

    found = asyncio.run(go())
    assert isinstance(found, RemoteReply) and not found.permanent and "cannot be looked up" in found.text
    assert host.sessions == 0 and lab.results == ["dnssec-invalid"]


def test_without_dnssec_records_say_nothing(lab: Lab, tmp_path: Path) -> None:
    host = MailHost(OWN.context(tmp_path))
    lab.authentic = False

    async def go() -> Link | RemoteReply:
        async with running(host):
            lab.tlsa(host, GOOD.tlsa(3, 1, 1))
            return await lab.send(host)

    assert isinstance(asyncio.run(go()), Link)
    assert [secure for secure, _, _ in host.taken] == [True] and lab.results == ["ok"]


STS_CASES = {
    "good": ("good", ("mode: enforce", "mx: mx.x.example"), {}, True, "ok"),
    "pattern": ("good", ("mode: enforce", "mx: *.x.example"), {}, True, "ok"),
    "wrong-name": ("wrong", ("mode: enforce", "mx: mx.x.example"), {}, False, "certificate-host-mismatch"),
    "expired": ("old", ("mode: enforce", "mx: mx.x.example"), {}, False, "certificate-expired"),
    "self-signed": ("own", ("mode: enforce", "mx: mx.x.example"), {}, False, "certificate-not-trusted"),
    "stripped": ("good", ("mode: enforce", "mx: mx.x.example"), {"stripped": True}, False, "starttls-not-supported"),
    "refused": ("good", ("mode: enforce", "mx: mx.x.example"), {"refuses": True}, False, "starttls-not-supported"),
    "garbage": ("good", ("mode: enforce", "mx: mx.x.example"), {"garbage": True}, False, "validation-failure"),
    "other-mx": ("good", ("mode: enforce", "mx: *.y.example"), {}, False, "validation-failure"),
    "testing": ("good", ("mode: testing", "mx: mx.x.example"), {}, True, "ok"),
    "testing-own": ("own", ("mode: testing", "mx: mx.x.example"), {}, True, "certificate-not-trusted"),
    "testing-stripped": ("good", ("mode: testing", "mx: mx.x.example"), {"stripped": True}, True, "starttls-not-supported"),
    "testing-other-mx": ("good", ("mode: testing", "mx: *.y.example"), {}, True, "validation-failure"),
    "none": ("own", ("mode: none",), {"stripped": True}, True, "starttls-not-supported"),
    "broken-policy": ("own", ("mode: perhaps",), {}, True, "sts-policy-invalid"),
}  # fmt: skip


@pytest.mark.parametrize("case", STS_CASES)
def test_mta_sts(lab: Lab, tmp_path: Path, case: str) -> None:
    which, policy, moods, goes, result = STS_CASES[case]
    root = real(ROOT)
    certs = {
        "good": real(GOOD, root),
        "wrong": real(WRONG, root),
        "old": real(OLD, root),
        "own": real(OWN),
    }
    host = MailHost(certs[which].context(tmp_path), **moods)  # type: ignore[arg-type]  # its flags
    lab.ca = str(root.files(tmp_path)[0])
    lab.sts(*policy)

    async def go() -> Link | RemoteReply:
        async with running(host):
            return await lab.send(host)

    found = asyncio.run(go())
    assert isinstance(found, Link) == goes, found
    clear = "stripped" in moods
    assert [secure for secure, _, _ in host.taken] == ([not clear] if goes else [])
    assert lab.results == [result]
    if not goes:
        assert isinstance(found, RemoteReply) and found.code == 451 and "4.7.5" in found.text


def test_dane_is_not_overruled_by_mta_sts(lab: Lab, tmp_path: Path) -> None:
    """RFC 8461 2: the certificate would do for MTA-STS."""
    root = real(ROOT)
    host = MailHost(real(GOOD, root).context(tmp_path))
    lab.ca = str(root.files(tmp_path)[0])
    lab.sts("mode: enforce", "mx: mx.x.example")
    lab.authentic = True

    async def go() -> Link | RemoteReply:
        async with running(host):
            lab.tlsa(host, OWN.tlsa(3, 0, 1))
            return await lab.send(host)

    assert isinstance(asyncio.run(go()), RemoteReply)
    assert not host.taken and lab.told[0].policy.kind == "tlsa"


SECURE_CASES = {
    "another-host-is-not-vouched-for": ((), ("mx.y.example",), False, False),
    "below-the-domain": ((), ("mx.x.example",), False, True),
    "the-domain-itself": ((), ("x.example",), False, True),
    "the-host-with-dnssec": ((), ("mx.x.example",), True, True),
    "names": ((".z.example",), ("out.z.example",), False, True),
    "other-names": (("z.example",), ("out.z.example",), False, False),
}


@pytest.mark.parametrize("case", SECURE_CASES)
def test_secure(lab: Lab, tmp_path: Path, case: str) -> None:
    """Who can forge the DNS can forge the host's name: only a name that is known otherwise counts."""
    names, presented, authentic, goes = SECURE_CASES[case]
    root = real(ROOT)
    host = MailHost(real(replace(GOOD, names=presented), root).context(tmp_path))
    lab.ca = str(root.files(tmp_path)[0])
    lab.authentic = authentic
    lab.wishes["x.example"] = Wish("secure", names)

    async def go() -> Link | RemoteReply:
        async with running(host):
            return await lab.send(host)

    found = asyncio.run(go())
    assert isinstance(found, Link) == goes, found
    assert bool(host.taken) == goes


def test_the_operator_may_want_less(lab: Lab, tmp_path: Path) -> None:
    host = MailHost(GOOD.context(tmp_path, ROOT))
    lab.word = "none"

    async def go() -> Link | RemoteReply:
        async with running(host):
            lab.tlsa(host, OWN.tlsa(3, 0, 1))
            await lab.send(host)
            lab.word = "opportunistic"
            return await lab.send(host)

    assert isinstance(asyncio.run(go()), Link)
    assert [secure for secure, _, _ in host.taken] == [False, True]


@pytest.mark.parametrize(
    ("keywords", "record", "code"),
    [
        (("REQUIRETLS",), GOOD.tlsa(3, 1, 1), 250),
        ((), GOOD.tlsa(3, 1, 1), 550),
        (("REQUIRETLS",), "", 550),  # TLS with a stranger
        (("REQUIRETLS",), GOOD.tlsa(1, 1, 1), 550),  # a record that proves nothing
        (("REQUIRETLS",), OWN.tlsa(3, 0, 1), 451),  # another one's certificate: the mail waits
    ],
    ids=[
        "good",
        "unknown there",
        "no record",
        "unusable record",
        "another certificate",
    ],  # the records are new each time
)
def test_requiretls(lab: Lab, tmp_path: Path, keywords: tuple[str, ...], record: str, code: int) -> None:
    host = MailHost(GOOD.context(tmp_path, ROOT), keywords=keywords)
    lab.params = {"REQUIRETLS": ""}

    async def go() -> Link | RemoteReply:
        async with running(host):
            lab.tlsa(host, *([record] if record else []))
            return await lab.send(host)

    found = asyncio.run(go())
    assert (found.code if isinstance(found, RemoteReply) else 250) == code, found
    assert [line for _, line, _ in host.taken] == ["MAIL FROM:<ANN@US.EXAMPLE> REQUIRETLS"] * (code == 250)
    if code == 550:
        assert isinstance(found, RemoteReply) and found.enhanced == "5.7.30"
