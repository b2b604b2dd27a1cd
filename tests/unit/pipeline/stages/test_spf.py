"""The spf stage: who is checked, what is said, what is done."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stages.spf import SpfSettings, SpfStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, HeaderEdit, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

ZONE = Zone.parse(
    """
    good.example TXT "v=spf1 ip4:192.0.2.1 -all exp=why.good.example"
    why.good.example TXT "only 192.0.2.1 for %{d}"
    mx.good.example TXT "v=spf1 a -all"
    mx.good.example A 192.0.2.1
    slow.example TIMEOUT
    broken.example TXT "v=spf1 moo"
    """
)
MESSAGE = Message(b"Received-SPF: pass (forged)\r\nFrom: a@good.example\r\n\r\n\r\n")


class Ports:
    def time(self) -> float:
        return 1e9

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


def stage(resolver: ZoneResolver | None = None, settings: SpfSettings | None = None) -> SpfStage:
    context = StageContext(Ports(), Ports(), resolver or ZoneResolver(ZONE), "mx.our.example")
    return SpfStage(settings or SpfSettings(reverse=False), context)


def transaction(
    mail_from: str = "ann@good.example",
    client: Client | None = None,
    profile: Profile = Profile.MX,
) -> Transaction:
    who = client or Client(ip="192.0.2.1", helo="mx.good.example")
    return Transaction(MESSAGE, Envelope(mail_from, (), who, profile), "trace", 0.0)


def run(one: SpfStage, what: Transaction) -> Verdict:
    return asyncio.run(one.check(what))


@pytest.mark.parametrize(
    ("client", "result", "why"),
    [
        (Client(ip="192.0.2.1", helo="x.example", auth="ann"), "skipped", "authenticated"),
        (Client(ip=None), "none", "not known"),
        (Client(ip="192.0.2.1", facts_trusted=False), "none", "hop of ours"),
    ],
)
def test_who_is_not_checked(client: Client, result: str, why: str) -> None:
    resolver = ZoneResolver(ZONE)
    one = stage(resolver)
    for verdict in (one.quick(transaction(client=client)), run(one, transaction(client=client))):
        assert verdict is not None
        assert (verdict.result, verdict.disposition, verdict.authres) == (result, Disposition.CONTINUE, ())
        assert why in verdict.summary
    assert resolver.asked == []


def test_a_pass_and_both_identities() -> None:
    what = transaction()
    verdict = run(stage(), what)
    assert verdict.result == "pass"
    assert verdict.summary == "good.example allows 192.0.2.1 (ip4:192.0.2.1)"
    assert [(one.method, one.result, one.properties) for one in verdict.authres] == [
        ("spf", "pass", (("smtp.mailfrom", "ann@good.example"),)),
        ("spf", "pass", (("smtp.helo", "mx.good.example"),)),
    ]
    assert dict(verdict.tags) == {
        "spf.result": "pass",
        "spf.domain": "good.example",
        "spf.identity": "mailfrom",
        "spf.helo": "pass",
    }
    remove, add = verdict.edits
    assert remove == HeaderEdit("remove", "received-spf")
    assert add.name == "Received-SPF"
    assert add.value == (
        "pass (mx.our.example: good.example allows 192.0.2.1) client-ip=192.0.2.1; "
        'envelope-from="ann@good.example"; helo=mx.good.example; receiver=mx.our.example; '
        "identity=mailfrom; mechanism=ip4:192.0.2.1"
    )


def test_null_reverse_path() -> None:
    verdict = run(stage(), transaction(""))
    assert [one.properties for one in verdict.authres] == [(("smtp.helo", "mx.good.example"),)]
    assert verdict.tags["spf.domain"] == "mx.good.example"


@pytest.mark.parametrize(
    ("settings", "disposition"),
    [
        (SpfSettings(), Disposition.CONTINUE),
        (SpfSettings(fail="junk"), Disposition.QUARANTINE),
        (SpfSettings(fail="reject"), Disposition.REJECT),
    ],
)
def test_what_a_fail_means(settings: SpfSettings, disposition: Disposition) -> None:
    verdict = run(stage(settings=settings), transaction(client=Client(ip="192.0.2.9", helo="h.example")))
    assert (verdict.result, verdict.disposition) == ("fail", disposition)
    assert verdict.evidence["explanation"] == "only 192.0.2.1 for good.example"
    if disposition is Disposition.REJECT:
        assert verdict.reply is not None
        assert verdict.reply.render() == (
            b"550-5.7.23 SPF: good.example does not allow mail from 192.0.2.9\r\n"
            b"550 5.7.23 The domain explains: only 192.0.2.1 for good.example\r\n"
        )


@pytest.mark.parametrize(
    ("settings", "disposition"),
    [(SpfSettings(), Disposition.CONTINUE), (SpfSettings(temperror="defer"), Disposition.TEMPFAIL)],
)
def test_a_dns_failure(settings: SpfSettings, disposition: Disposition) -> None:
    verdict = run(stage(settings=settings), transaction("ann@slow.example"))
    assert (verdict.result, verdict.disposition) == ("temperror", disposition)
    assert verdict.reply is None or verdict.reply.code == 451


def test_permerror_and_none() -> None:
    broken = run(stage(), transaction("ann@broken.example"))
    assert (broken.result, "moo" in broken.evidence["problem"]) == ("permerror", True)
    assert run(stage(), transaction("ann@nowhere.example")).result == "none"


def test_quick_answers_from_the_cache_and_prefetch_fills_it() -> None:
    async def story() -> None:
        resolver = ZoneResolver(ZONE)
        one = stage(resolver)
        what = transaction()
        assert one.quick(what) is None
        one.prefetch(what.envelope)
        slow = await one.check(what)
        asked = list(resolver.asked)
        assert one.quick(what) == slow
        assert resolver.asked == asked
        await asyncio.gather(*one._early)
        one.prefetch(what.envelope)  # all is known: no task is begun
        assert not one._early
        assert resolver.asked == asked
        await one.close()

    asyncio.run(story())


def test_hostile_names_stay_in_their_place() -> None:
    client = Client(ip="192.0.2.1", helo='x"\r\n(;\x1b[1m.example')
    verdict = run(stage(), transaction('"a\r\nb"@good.example', client))
    (value,) = [edit.value for edit in verdict.edits if edit.kind == "add"]
    assert value.isprintable()
    assert all(text.isprintable() for text in (verdict.summary, *verdict.evidence.values()))


def test_what_was_looked_up_at_mail_is_evaluated_once() -> None:
    resolver = ZoneResolver(ZONE)
    one = stage(resolver)

    async def go() -> Verdict | None:
        one.prefetch(transaction().envelope)
        await asyncio.gather(*one._early)
        resolver.zone = Zone()  # nothing is asked any more
        resolver._known.clear()
        return one.quick(transaction())

    verdict = asyncio.run(go())
    assert verdict is not None
    assert verdict.result == "pass"
    assert stage(resolver).quick(transaction()) is None


def test_the_reverse_name_is_evidence() -> None:
    zone = Zone.parse("1.2.0.192.in-addr.arpa PTR mx.good.example\nmx.good.example A 192.0.2.1")
    resolver = ZoneResolver(zone)
    one = stage(resolver, SpfSettings())
    verdict = run(one, transaction())
    assert verdict.tags["iprev.name"] == "mx.good.example"
    assert verdict.evidence["reverse name"] == "pass mx.good.example"
    assert verdict.authres[-1].method == "iprev"
    assert one.quick(transaction()) == verdict


def test_one_evaluation_is_enough_for_all_senders_of_a_domain_but_not_where_macros_name_them() -> None:
    zone = Zone.parse(
        """
        plain.example TXT "v=spf1 ip4:192.0.2.1 -all"
        each.example TXT "v=spf1 exists:%{l}.ok.example -all"
        ann.ok.example A 127.0.0.2
        """
    )
    resolver = ZoneResolver(zone)
    one = stage(resolver)
    client = Client(ip="192.0.2.1", helo="localhost")

    async def go() -> list[str]:
        results = [
            (await one.check(transaction(f"{name}@each.example", client))).result for name in ("ann", "bob")
        ]
        results.append((await one.check(transaction("ann@plain.example", client))).result)
        resolver.zone = Zone()  # nothing is asked any more
        resolver._known.clear()
        other = one.quick(transaction("bob@plain.example", client))
        elsewhere = one.quick(transaction("bob@plain.example", Client(ip="192.0.2.2", helo="localhost")))
        assert other is not None and elsewhere is None
        return [*results, other.result]

    assert asyncio.run(go()) == ["pass", "fail", "pass", "pass"]
