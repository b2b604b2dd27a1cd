"""The fence round pyspf: misses, faults, hostile records."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.pyspf import RECORD_LIMIT, SpfQuestion, SpfResult, check, check_cached, printable
from pipeline.ports import DnsAnswer
from pipeline.zone import Zone, ZoneResolver
from tests.cost import cpu


class Clock:
    def time(self) -> float:
        return 1_000_000_000.0

    def monotonic(self) -> float:
        return 0.0


def ask(
    zone: str | Zone, mail_from: str = "ann@example.org", ip: str = "192.0.2.1", helo: str = ""
) -> SpfResult:
    data = Zone.parse(zone) if isinstance(zone, str) else zone
    return asyncio.run(check(ZoneResolver(data), Clock(), SpfQuestion(ip, mail_from, helo)))


def record(text: str) -> Zone:
    zone = Zone()
    zone.add("example.org", "TXT", '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return zone


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("v=spf1 ip4:192.0.2.0/24 -all", "pass"),
        ("v=spf1 -all", "fail"),
        ("v=spf1 ~all", "softfail"),
        ("v=spf1 ?all", "neutral"),
        ("v=spf1", "neutral"),
        ("v=spf10 -all", "none"),
        ("v=spf1 moo -all", "permerror"),
        ("v=spf1 include:nowhere.example -all", "permerror"),
        ("v=spf1 ip4:192.0.2.300 -all", "permerror"),
        ("v=spf1 include:example.org -all", "permerror"),
    ],
)
def test_results(text: str, result: str) -> None:
    assert ask(record(text)).result == result


def test_null_reverse_path_is_postmaster_at_helo() -> None:
    got = ask(
        'mx.example.org TXT "v=spf1 exists:%{l}.is.example -all"\npostmaster.is.example A 127.0.0.2',
        "",
        helo="mx.example.org",
    )
    assert (got.result, got.identity, got.domain) == ("pass", "helo", "mx.example.org")


def test_mapped_ipv4_is_ipv4() -> None:
    assert ask(record("v=spf1 ip4:192.0.2.1 -all"), ip="::ffff:192.0.2.1").result == "pass"
    assert ask(record("v=spf1 ip6:2001:db8::/32 -all"), ip="2001:db8::7%eth0").result == "pass"


def test_u_labels_are_looked_up_as_a_labels() -> None:
    zone = Zone.parse('xn--bcher-kva.example TXT "v=spf1 ip4:192.0.2.1 -all"')
    assert ask(zone, "ann@bücher.example").result == "pass"
    assert ask(zone, "ännchen@bücher.example").result == "pass"


@pytest.mark.parametrize("fault", ["TIMEOUT", "SERVFAIL"])
def test_faults_are_temporary(fault: str) -> None:
    assert ask(f"example.org TXT {fault}").result == "temperror"
    zone = record("v=spf1 a:slow.example -all")
    zone.add("slow.example", fault)
    got = ask(zone)
    assert (got.result, fault.lower() in got.problem) == ("temperror", True)


def test_the_deadline_holds() -> None:
    class Never(ZoneResolver):
        async def query(self, name: str, rdtype: str) -> DnsAnswer:
            await asyncio.Event().wait()
            raise AssertionError

    got = asyncio.run(check(Never(Zone()), Clock(), SpfQuestion("192.0.2.1", "a@example.org", ""), 0.01))
    assert (got.result, got.problem) == ("temperror", "time limit")


def test_the_explanation_is_fetched_for_a_fail_only_and_is_safe() -> None:
    zone = record("v=spf1 ip4:192.0.2.1 -all exp=why.example.org")
    zone.add("why.example.org", "TXT", '"%{i} may not, says %{d}\x1b[31m"')
    resolver = ZoneResolver(zone)
    question = SpfQuestion("192.0.2.1", "ann@example.org", "")
    assert asyncio.run(check(resolver, Clock(), question)).result == "pass"
    assert resolver.asked == [("example.org", "txt".upper())]
    got = ask(zone, ip="192.0.2.2")
    assert (got.result, got.explanation) == ("fail", "192.0.2.2 may not, says example.org?[31m")


@pytest.mark.parametrize(
    "macro", ["%{d0}", "%{d00r}", "%{d", "%{zz", "%{q}", "%{d2r!}", "%(d)", "%", "%{}", "%{d-r}", "%{d1234}"]
)
def test_a_broken_macro_is_a_broken_record_and_no_explanation(macro: str) -> None:
    """RFC 7208 7.1, 7.3 (a number of labels is not zero), 4.6 (an error anywhere), 6.2 (exp)."""
    assert ask(record(f"v=spf1 exists:{macro}.example ip4:192.0.2.1 -all")).result == "permerror"
    assert ask(record(f"v=spf1 ip4:192.0.2.1 unknown={macro} -all")).result == "permerror"
    zone = record("v=spf1 -all exp=why.example.org")
    zone.add("why.example.org", "TXT", f'"see {macro} here"')
    got = ask(zone)
    assert (got.result, got.explanation) == ("fail", "")


@pytest.mark.parametrize("macro", ["%{d1}", "%{d01r}", "%{D10}", "%{lr-+.=}", "%%%_%-", "%{p}", "%{i128r}"])
def test_macros_that_are_right(macro: str) -> None:
    assert ask(record(f"v=spf1 exists:{macro}.x.example -all")).result == "fail"


def test_each_name_is_asked_once_and_mx_hosts_together() -> None:
    zone = record("v=spf1 mx a:m1.example.org -all")
    for at in range(10):
        zone.add("example.org", "MX", f"{at} m{at}.example.org")
        zone.add(f"m{at}.example.org", "A", f"198.51.100.{at}")
    resolver = ZoneResolver(zone)
    got = asyncio.run(check(resolver, Clock(), SpfQuestion("198.51.100.9", "ann@example.org", "")))
    assert (got.result, got.mechanism) == ("pass", "mx")
    assert len(resolver.asked) == len(set(resolver.asked)) == 12
    assert check_cached(resolver, Clock(), SpfQuestion("198.51.100.9", "ann@example.org", "")) == got


def test_limits_of_rfc_7208() -> None:
    chain = Zone()
    chain.add("example.org", "TXT", "v=spf1 include:i1.example -all")
    for at in range(1, 30):
        chain.add(f"i{at}.example", "TXT", f"v=spf1 include:i{at + 1}.example -all")
    assert ask(chain).result == "permerror"  # 4.6.4: ten terms
    assert (
        ask(record("v=spf1 a:v1.example a:v2.example a:v3.example -all")).result == "permerror"
    )  # two void look-ups
    many = record("v=spf1 mx -all")
    for at in range(11):
        many.add("example.org", "MX", f"{at} m{at}.example.org")
        many.add(f"m{at}.example.org", "A", "198.51.100.1")
    assert ask(many).result == "permerror"


@pytest.mark.parametrize("name", ["redirect", "Redirect", "REDIRECT"])
def test_names_of_modifiers_have_no_case(name: str) -> None:
    assert ask(f'example.org TXT "v=spf1 {name}=b.example"\nb.example TXT "v=spf1 -all"').result == "fail"
    assert ask(record(f"v=spf1 redirect=b.example {name}=b.example")).result == "permerror"
    why = 'example.org TXT "v=spf1 -all Exp=why.example"\nwhy.example TXT "because %{i}"'
    assert ask(why).explanation == "because 192.0.2.1"
    assert ask(record("v=spf1 exp=why.example EXP=why.example -all")).result == "permerror"


def test_modifiers_that_nobody_knows_are_ignored_however_often_they_appear() -> None:
    assert ask(record("v=spf1 a= x=y ip4:192.0.2.1 a= x=%{d} -all")).result == "pass"
    assert ask(record("v=spf1 x=y x=%{q} ip4:192.0.2.1 -all")).result == "permerror"


def test_void_look_ups_are_counted_by_terms() -> None:
    """RFC 7208 4.6.4: not each host of an mx that has no address of the client's kind, nor what %{p} and exp= ask."""
    zone = record("v=spf1 a mx ip6:2001:db8::/32 -all exp=why.example.org")
    zone.add("why.example.org", "TXT", '"no %{p}"')
    for at in range(4):
        zone.add("example.org", "MX", f"{at} m{at}.example.org")
        zone.add(f"m{at}.example.org", "A", f"198.51.100.{at}")
    assert ask(zone, ip="2001:db8::1").result == "pass"
    assert ask(zone, ip="2001:db9::1").explanation == "no unknown"
    assert ask(zone, ip="198.51.100.3").mechanism == "mx"
    names = record("v=spf1 a:v1.example a:v2.example ptr:x.example -all")
    for at in range(4):
        names.add("1.2.0.192.in-addr.arpa", "PTR", f"p{at}.x.example")
    assert ask(names).result == "fail"
    assert ask(record("v=spf1 a:v1.example a:v2.example mx:v3.example -all")).result == "permerror"


def test_a_failure_for_a_ptr_is_no_match() -> None:
    """RFC 7208 5.5; 7.3: and the macro says unknown."""
    zone = record("v=spf1 ptr:x.example exists:%{p}.is.example -all")
    zone.add("1.2.0.192.in-addr.arpa", "SERVFAIL")
    assert ask(zone).result == "fail"
    zone.add("unknown.is.example", "A", "127.0.0.2")
    assert ask(zone).result == "pass"
    half = record("v=spf1 ptr:x.example -all")
    half.add("1.2.0.192.in-addr.arpa", "PTR", "slow.x.example")
    half.add("1.2.0.192.in-addr.arpa", "PTR", "good.x.example")
    half.add("slow.x.example", "TIMEOUT")
    half.add("good.x.example", "A", "192.0.2.1")
    assert ask(half).result == "pass"


def test_the_validated_name_is_that_of_the_domain_that_is_looked_at() -> None:
    zone = record("v=spf1 exists:%{p}.none.example include:sub.example -all")
    zone.add("1.2.0.192.in-addr.arpa", "PTR", "h.example.org")
    zone.add("1.2.0.192.in-addr.arpa", "PTR", "h.sub.example")
    zone.add("h.example.org", "A", "192.0.2.1")
    zone.add("h.sub.example", "A", "192.0.2.1")
    zone.add("sub.example", "TXT", "v=spf1 exists:%{p}.is.example -all")
    zone.add("h.sub.example.is.example", "A", "127.0.0.2")
    assert ask(zone).result == "pass"


@pytest.mark.parametrize(
    "text",
    [
        "v=spf1 " + "a:" + "x" * 400 + ".example -all",
        "v=spf1 " + "ip4:192.0.2.1 " * 1000,
        "v=spf1 " + "%{d}." * 200,
        "v=spf1 exists:" + "a" * 370 + "!",
        "v=spf1 " + ("exists:" + "%{dr9999999999999999999}." * 12 + "x ") * 12,
        "v=spf1 " + "moo=" + "%" * 380,
        "v=spf1 " + " " * (RECORD_LIMIT - 20) + "-all",
        "v=spf1 " + "redirect=" * 30,
        "v=spf1 ip6:" + ":" * 300,
        "v=spf1 a/" + "9" * 300,
        "v=spf1 exp=" + "%{" * 100,
    ],
)
def test_hostile_records_cost_little(text: str) -> None:
    got = ask(record(text))
    assert got.result in ("permerror", "fail", "neutral", "softfail", "none", "temperror")
    assert cpu(lambda: ask(record(text))) < 0.25


@pytest.mark.fuzz
@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("v=spf1 aixmept4:6/.%{}dslohr0129-+~?_\x00\xff"), max_size=80),
    st.text(max_size=30),
    st.text(max_size=30),
    st.text(max_size=20),
)
def test_nothing_raises(text: str, mail_from: str, helo: str, ip: str) -> None:
    got = ask(record("v=spf1 " + text.encode("latin-1", "replace").decode("latin-1")), mail_from, ip, helo)
    assert got.result in ("pass", "fail", "softfail", "neutral", "none", "temperror", "permerror")
    assert printable(got.explanation) == got.explanation


def test_runs_in_several_tasks_do_not_mix() -> None:
    async def story() -> list[SpfResult]:
        resolvers = [ZoneResolver(record(f"v=spf1 a:h{at}.example -all")) for at in range(5)]
        for at, resolver in enumerate(resolvers):
            resolver.zone.add(f"h{at}.example", "A", f"192.0.2.{at}")
        return await asyncio.gather(
            *(
                check(resolver, Clock(), SpfQuestion(f"192.0.2.{at}", "a@example.org", ""))
                for at, resolver in enumerate(resolvers)
            )
        )

    assert {got.result for got in asyncio.run(story())} == {"pass"}
