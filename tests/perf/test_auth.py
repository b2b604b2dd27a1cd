"""Budgets of sender authentication (issue 5): CPU of one message with its DNS in the cache.

Bars on the reference machine (two cores, CPython 3.11): 5 KB with one RSA-2048 signature, SPF and DMARC 1 ms; 1 MB relaxed
15 ms; a body line of 1 MB of blanks 50 ms. Each is the best of several rounds, measured in process time, so that a busy
machine costs patience, not the test.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.adapters.dkimpy import sign
from pipeline.dkim.verify import Verification
from pipeline.envelope import Client, Envelope, Profile
from pipeline.ports import DnsAnswer, Resolver
from pipeline.registry import StageContext, build
from pipeline.runner import Runner
from pipeline.stage import Phase
from pipeline.stages import STAGES
from pipeline.stages.spf import SpfSettings
from pipeline.transaction import Transaction
from pipeline.zone import Zone
from rules.mail.header import scan
from rules.mail.message import Message

pytestmark = pytest.mark.perf
ROUNDS, TIMES = 7, 60
LINE = b"The quick brown fox jumps over the lazy dog, and  then some more words.\r\n"


class Ports:
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def token(self, octets: int) -> str:
        return "7" * 2 * octets


class Cached(Resolver):
    """A resolver whose cache has everything, as DnsCache answers: a dictionary."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._known: dict[tuple[str, str], DnsAnswer] = {}

    def cached(self, name: str, rdtype: str) -> DnsAnswer:
        found = self._known.get((name, rdtype))
        if found is None:
            found = self._known[name, rdtype] = self._zone.lookup(name, rdtype)
        return found

    async def query(self, name: str, rdtype: str) -> DnsAnswer:
        return self.cached(name, rdtype)


def best(work: Callable[[], None], times: int = TIMES, rounds: int = ROUNDS) -> float:
    """Milliseconds of CPU for one call, the best of several rounds."""
    work()
    out = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(times):
            work()
        out.append((time.process_time() - started) * 1000 / times)
    return min(out)


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate("rsa", 2048)


@pytest.fixture(scope="module")
def zone(key: PrivateKey) -> Zone:
    made = Zone.parse(
        """
        shop.example TXT "v=spf1 include:_spf.shop.example mx ip4:198.51.100.0/24 -all"
        _spf.shop.example TXT "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all"
        mx.shop.example TXT "v=spf1 a -all"
        mx.shop.example A 192.0.2.7
        7.2.0.192.in-addr.arpa PTR mx.shop.example
        _dmarc.shop.example TXT "v=DMARC1; p=reject; rua=mailto:d@shop.example"
        """
    )
    made.add("s1._domainkey.shop.example", "TXT", key.record())
    return made


def message(key: PrivateKey, size: int) -> bytes:
    head = (
        b"From: Shop <orders@shop.example>\r\nTo: Ann <ann@here.example>\r\nSubject: Your order 1042\r\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@shop.example>\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        + b"".join(
            b"Received: from a.example by b.example; Mon, 1 Jan 2024 00:00:0%d +0000\r\n" % n
            for n in range(5)
        )
        + b"\r\n"
    )
    text = head + LINE * ((size - len(head)) // len(LINE))
    return sign(text, "shop.example", "s1", key) + text


@pytest.mark.parametrize(("reverse", "bar"), [(False, 1.0), (True, 1.1)])
def test_spf_dkim_arc_dmarc_of_five_kilobytes(key: PrivateKey, zone: Zone, reverse: bool, bar: float) -> None:
    context = StageContext(Ports(), Ports(), Cached(zone), "mx.here.example")
    stages = build(STAGES, ["spf", "dkim", "arc", "dmarc"], {"spf": SpfSettings(reverse=reverse)}, context)
    runner = Runner(stages, Ports())
    data = message(key, 5000)
    client = Client(ip="192.0.2.7", helo="mx.shop.example")
    envelope = Envelope("bounce@shop.example", (), client, Profile.MX)
    loop = asyncio.new_event_loop()
    results: list[str] = []

    async def several() -> None:
        for _ in range(TIMES):
            work = Transaction(Message(data), envelope, "trace", time.monotonic() + 25)
            outcome = await runner.run(Phase.EOM, work)
            results[:] = [verdict.result for verdict in outcome.verdicts]

    found = best(lambda: loop.run_until_complete(several()), 1) / TIMES
    loop.close()
    assert results == ["pass", "pass", "none", "pass"]
    print(f"5 KB, RSA-2048, SPF, DMARC{', iprev' if reverse else ''}: {found:.2f} ms of CPU (bar {bar} ms)")
    assert found <= bar


@pytest.mark.parametrize(
    ("title", "body", "bar"),
    [
        ("1 MB relaxed", LINE * ((1 << 20) // len(LINE)), 15.0),
        ("a line of 1 MB of blanks", b"x" + b" " * (1 << 20) + b"y\r\n", 50.0),
        ("1 MB of blanks and tabs in turn", b"x" + b" \t" * (1 << 19) + b"y\r\n", 50.0),
        ("1 MB of empty lines", b"x\r\n" + b"\r\n" * (1 << 19), 50.0),
        ("1 MB of short lines", b"x  \r\n" * ((1 << 20) // 5), 50.0),
    ],
)
def test_large_bodies(key: PrivateKey, zone: Zone, title: str, body: bytes, bar: float) -> None:
    text = b"From: Shop <orders@shop.example>\r\nSubject: x\r\n\r\n" + body
    data = sign(text, "shop.example", "s1", key) + text
    results: list[str] = []

    def work() -> None:
        block = scan(data)
        verification = Verification(block, time.time())
        for name in verification.wanted():
            verification.give(name, zone.lookup(name, "TXT"))
        assert verification.needs_body()
        verification.feed(data[block.body_start :])
        results[:] = [one.result for one in verification.results()]

    found = best(work, 3, 5)
    assert results == ["pass"]
    print(f"{title}: {found:.1f} ms of CPU (bar {bar} ms)")
    assert found <= bar
