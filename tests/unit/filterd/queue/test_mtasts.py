"""The MTA-STS record and policy as people write them, and what is remembered of a policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.queue.mtasts import (
    FAILED_SECONDS,
    Known,
    Mode,
    PolicyError,
    StsCache,
    StsPolicy,
    parse_policy,
    parse_record,
)
from filterd.queue.tlsdemand import TlsResult
from pipeline.zone import Zone, ZoneResolver
from tests.queuelab import HandClock

GOOD = "version: STSv1\r\nmode: enforce\r\nmx: mail.x.example\r\nmx: *.x.example\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (("v=STSv1; id=20160831085700Z;",), "20160831085700Z"),
        (("v=STSv1;id=a",), "a"),
        (("v=STSv1 ; x=y; id=a1 ; z",), "a1"),
        (("v=spf1 -all", "v=STSv1; id=a;"), "a"),
        (("v=STSv1; id=a;", "v=STSv1; id=b;"), ""),
        (("v=STSv1;",), ""),
        (("v=STSv1; id=;",), ""),
        (("v=STSv1; id=a-b;",), ""),
        (("v=STSv1; id=" + "a" * 33,), ""),
        (("v=STSv10; id=a",), ""),
        ((" v=STSv1; id=a",), ""),
        (("id=a; v=STSv1",), ""),
        ((), ""),
    ],
)
def test_records(records: tuple[str, ...], found: str) -> None:
    assert parse_record(records) == found


def test_a_policy() -> None:
    assert parse_policy(GOOD) == StsPolicy(Mode.ENFORCE, ("mail.x.example", "*.x.example"), 604_800)
    assert parse_policy(GOOD.replace("\r\n", "\n")) == parse_policy(GOOD)
    none = parse_policy("version: STSv1\nmode: none\nmax_age: 1\n")
    assert (none.mode, none.mx) == (Mode.NONE, ())


def test_what_a_policy_may_have_besides() -> None:
    odd = "\n\nextra: words: and more\nversion:STSv1\n mode :\ttesting\nmode: enforce\nmx: MX.X.example.\nmax_age: 99999999\n"
    assert parse_policy(odd) == StsPolicy(Mode.TESTING, ("mx.x.example",), 31_557_600)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not found</html>",
        GOOD.replace("STSv1", "STSv2"),
        GOOD.replace("version: STSv1\r\n", ""),
        GOOD.replace("enforce", "Enforce"),
        GOOD.replace("mode: enforce\r\n", ""),
        GOOD.replace("604800", "-1"),
        GOOD.replace("604800", "1e9"),
        GOOD.replace("604800", "¹"),
        GOOD.replace("max_age: 604800\r\n", ""),
        GOOD.replace("*.x.example", "*"),
        GOOD.replace("*.x.example", "*."),
        GOOD.replace("*.x.example", "*.example"),
        GOOD.replace("*.x.example", "m*.x.example"),
        GOOD.replace("*.x.example", "a.*.example"),
        GOOD.replace("*.x.example", "bad host"),
        GOOD.replace("*.x.example", ""),
        "version: STSv1\nmode: enforce\nmax_age: 1\n",
    ],
)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        ("mx.x.example", "mx.x.example", True),
        ("mx.x.example", "mx2.x.example", False),
        ("*.x.example", "mx.x.example", True),
        ("*.x.example", "x.example", False),
        ("*.x.example", "a.mx.x.example", False),
        ("*.x.example", "mx.ax.example", False),
    ],
)
def test_patterns(pattern: str, host: str, fits: bool) -> None:
    assert StsPolicy(Mode.ENFORCE, (pattern,), 1).allows(host) == fits


@given(st.text(max_size=400))
def test_any_text_is_a_policy_or_an_error(text: str) -> None:
    try:
        parse_policy(text)
    except PolicyError:
        pass
    assert isinstance(parse_record((text, "v=STSv1;" + text)), str)


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=2, max_size=4).map(".".join)


@given(
    st.sampled_from([Mode.ENFORCE, Mode.TESTING]),
    st.lists(hosts, min_size=1, max_size=5),
    st.integers(0, 31_557_600),
)
def test_what_is_written_is_read(mode: Mode, mx: list[str], age: int) -> None:
    policy = StsPolicy(mode, tuple(mx), age)
    assert parse_policy("\r\n".join(policy.lines)) == policy
    assert all(policy.allows(host) for host in mx)


@dataclass
class Lab:
    folder: Path
    clock: HandClock = field(default_factory=HandClock)
    zone: Zone = field(default_factory=Zone)
    texts: list[str | PolicyError] = field(default_factory=list)
    fetched: int = 0

    def __post_init__(self) -> None:
        self.zone.add("mta-sts.x.example", "A", "192.0.2.1")
        self.cache = self.fresh()

    def fails(self) -> None:
        """The look-up of the record does."""
        self.id("")
        self.zone.add("_mta-sts.x.example", "TXT", "SERVFAIL")

    def fresh(self) -> StsCache:
        """As after a restart."""
        return StsCache(self.folder / "mtasts.db", ZoneResolver(self.zone), self.clock, self.fetch)

    def fetch(self, domain: str, addresses: Sequence[str]) -> str:
        self.fetched += 1
        assert (domain, list(addresses)) == ("x.example", ["192.0.2.1"])
        text = self.texts.pop(0)
        if isinstance(text, PolicyError):
            raise text
        return text

    def id(self, text: str) -> None:
        self.zone.remove("_mta-sts.x.example", "TXT")
        if text:
            self.zone.add("_mta-sts.x.example", "TXT", f'"v=STSv1; id={text};"')
        self.cache.resolver = ZoneResolver(self.zone)

    def ask(self) -> Known:
        return asyncio.run(self.cache.policy("x.example"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_no_record_no_fetch(lab: Lab) -> None:
    assert lab.ask() == Known() and lab.fetched == 0


def test_a_policy_is_fetched_once_and_survives_a_restart(lab: Lab) -> None:
    lab.id("a")
    lab.texts = [GOOD]
    first = lab.ask()
    assert first.policy is not None and first.policy.mode is Mode.ENFORCE
    lab.clock.now += 1000
    assert lab.ask().policy == first.policy
    lab.cache = lab.fresh()
    assert lab.ask().policy == first.policy and lab.fetched == 1


def test_another_id_fetches_again(lab: Lab) -> None:
    lab.id("a")
    lab.texts = [GOOD, GOOD.replace("enforce", "testing")]
    lab.ask()
    lab.id("b")
    found = lab.ask()
    assert found.policy is not None and found.policy.mode is Mode.TESTING and lab.fetched == 2


def test_what_an_attacker_takes_away_still_holds(lab: Lab) -> None:
    """RFC 8461 10.2: without the record, and when the fetch fails, until max_age is over."""
    lab.id("a")
    lab.texts = [GOOD]
    lab.ask()
    lab.id("")
    assert lab.ask().policy is not None
    lab.fails()
    assert lab.ask().policy is not None
    lab.zone = Zone({"mta-sts.x.example": [("A", "192.0.2.1")]})
    lab.id("b")
    lab.texts = [PolicyError("404", TlsResult.STS_FETCH)]
    found = lab.ask()
    assert found.policy is not None and found.result is TlsResult.STS_FETCH and found.problem == "404"
    lab.id("")
    lab.clock.now += 604_801
    assert lab.ask().policy is None


def test_a_failed_fetch_is_not_repeated_at_once(lab: Lab) -> None:
    lab.id("a")
    lab.texts = [PolicyError("404", TlsResult.STS_FETCH), GOOD]
    assert lab.ask().policy is None
    assert lab.ask().policy is None and lab.fetched == 1
    lab.clock.now += FAILED_SECONDS + 1
    assert lab.ask().policy is not None and lab.fetched == 2


def test_a_policy_is_renewed_while_it_protects(lab: Lab) -> None:
    lab.id("a")
    lab.texts = [GOOD, PolicyError("404"), GOOD]
    lab.ask()
    lab.clock.now += 302_401  # half of max_age
    assert lab.ask().policy is not None and lab.fetched == 2
    lab.clock.now += FAILED_SECONDS + 1
    assert lab.ask().policy is not None and lab.fetched == 3
    lab.clock.now += 302_399
    lab.id("")
    assert lab.ask().policy is not None


def test_a_broken_database_is_no_reason_to_stop(lab: Lab) -> None:
    (lab.folder / "mtasts.db").write_bytes(b"this is no database" * 100)
    lab.id("a")
    lab.texts = [GOOD]
    assert lab.ask().policy is not None
    assert lab.ask().policy is not None and lab.fetched == 1


def test_many_at_once_fetch_once(lab: Lab) -> None:
    lab.id("a")
    lab.texts = [GOOD]

    async def go() -> list[Known]:
        return await asyncio.gather(*(lab.cache.policy("x.example") for _ in range(10)))

    assert len({found.policy for found in asyncio.run(go())}) == 1 and lab.fetched == 1
