"""50 MB: signed, sealed and verified in memory that does not grow with the message, and in time that grows no faster than it.

The message itself may be in memory (decision 0002); what is bounded is all that is made beside it.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable

import pytest

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.adapters.dkimpy import sign
from pipeline.dkim.arc import ArcResult
from pipeline.dkim.seal import seal
from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stages.arc import ArcSettings, ArcStage
from pipeline.stages.dkim import DkimSettings, DkimStage
from pipeline.transaction import Transaction
from pipeline.verdict import Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

pytestmark = pytest.mark.slow
MEGABYTE = 1 << 20
BESIDE = 6 * MEGABYTE  # a piece, its canonical forms, what is held back
HEAD = b"From: Shop <orders@shop.example>\r\nSubject: large\r\n\r\n"
BODIES = {
    "lines": b"The quick brown fox  jumps over the lazy dog, \t and then some more words. \r\n",
    "blanks": b" \t",
    "empty lines": b"\r\n",
    "octets": b"x",
}


class Ports:
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "7" * 2 * octets


def text(kind: str, size: int) -> bytes:
    unit = BODIES[kind]
    return HEAD + b"begin" + unit * (size // len(unit)) + b"end\r\n"


def beside(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds of CPU, and the most memory in use beside what there was."""
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    started = time.process_time()
    work()
    return time.process_time() - started, peak


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate("rsa", 2048)


@pytest.fixture(scope="module")
def context(key: PrivateKey) -> StageContext:
    zone = Zone()
    zone.add("s1._domainkey.shop.example", "TXT", key.record())
    return StageContext(Ports(), Ports(), ZoneResolver(zone), "mx.here.example")


def judged(stage: DkimStage | ArcStage, data: bytes) -> Verdict:
    envelope = Envelope("a@shop.example", (), Client(ip="192.0.2.1"), Profile.MX)
    return asyncio.run(stage.check(Transaction(Message(data), envelope, "trace", 1e9)))


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("form", ["relaxed/relaxed", "simple/simple"])
def test_signed_and_verified(key: PrivateKey, context: StageContext, kind: str, form: str) -> None:
    stage = DkimStage(DkimSettings(), context)
    seconds: list[tuple[float, float]] = []
    for size in (10, 50):
        message = text(kind, size * MEGABYTE)
        signing, peak = beside(lambda: sign(message, "shop.example", "s1", key, canonicalization=form))  # noqa: B023
        assert peak < BESIDE
        signed = sign(message, "shop.example", "s1", key, canonicalization=form) + message
        verifying, peak = beside(lambda: judged(stage, signed))  # noqa: B023
        assert peak < BESIDE
        assert judged(stage, signed).result == "pass"
        seconds.append((signing, verifying))
    for small, large in zip(*seconds, strict=True):
        assert large < 15 * small + 0.05  # five times the octets


def test_sealed_and_verified(key: PrivateKey, context: StageContext) -> None:
    message = text("lines", 50 * MEGABYTE)

    def sealing() -> bytes:
        chain = ArcResult("none")
        return seal(
            message, "shop.example", "s1", key, results="here; spf=pass", chain=chain, now=time.time()
        )

    assert beside(sealing)[1] < BESIDE
    sealed = sealing() + message
    stage = ArcStage(ArcSettings(), context)
    assert beside(lambda: judged(stage, sealed))[1] < BESIDE
    assert judged(stage, sealed).result == "pass"


def test_a_changed_octet_at_the_end_is_seen(key: PrivateKey, context: StageContext) -> None:
    message = text("lines", 50 * MEGABYTE)
    signed = sign(message, "shop.example", "s1", key) + message
    found = judged(DkimStage(DkimSettings(), context), signed[:-4] + b"D\r\n")
    assert found.result == "fail"
