"""Ways by sender and recipient, and what the sending process makes of them."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.app import routes_of
from filterd.config.errors import ConfigErrors
from filterd.config.load import parse
from filterd.queue.journal import Journal
from filterd.queue.link import Broken
from filterd.queue.outbound import source
from filterd.queue.route import Hop, Relay
from filterd.queue.routing import Routes, Rule, by_hand, folded, is_route
from filterd.queue.steering import Choice
from tests.queuelab import Lab, Mood

HOST = Relay("203.0.113.9")
OTHER = Relay("203.0.113.10", 587, smtps=True)
RULES = (
    Rule(("vip@d1.example",), (), OTHER),
    Rule(("d1.example", ".below.example"), (), HOST),
    Rule((), ("ann@us.example", "<>"), HOST),
    Rule((), (".two.example",), None, ("192.0.2.7",)),
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made


def test_the_first_rule_that_holds() -> None:
    routes = Routes(RULES, frozenset({"us.example"}))
    assert routes.rule_for("x@y.example", "VIP@D1.example.") is RULES[0]
    assert routes.rule_for("x@y.example", "bob@d1.example") is RULES[1]
    assert routes.rule_for("x@y.example", "bob@a.below.example") is RULES[1]
    assert routes.rule_for("x@y.example", "bob@below.example") is None
    assert routes.rule_for("Ann@us.example", "bob@d2.example") is RULES[2]
    assert routes.rule_for("", "bob@d2.example") is RULES[2]
    assert routes.rule_for("a@x.two.example", "bob@d2.example") is RULES[3]
    assert routes.rule_for("ann@us.example", "bob@us.example") is None  # ours
    assert (
        folded("Ann@BÜCHER.example") == "ann@xn--bcher-kva.example" and folded(".X.example") == ".x.example"
    )


def test_lanes() -> None:
    routes = Routes(RULES, frozenset({"us.example"}))
    one, two = routes.lane("a@y.example", "u1@d1.example"), routes.lane("b@y.example", "u2@z.below.example")
    assert one == two and is_route(one)
    bound = routes.lane("a@x.two.example", "bob@d2.example")
    assert bound.endswith(":d2.example")
    way = routes.way(bound)
    assert way is not None and way.relay is None and way.domain == "d2.example" and way.bind == ("192.0.2.7",)
    assert routes.lane("x@y.example", "bob@d9.example") == "d9.example"
    assert Routes().way(one) is None  # another configuration's
    hand = routes.way("!smtps://mx.example")
    assert hand is not None and hand.relay == Relay("mx.example", 465, smtps=True)
    assert by_hand("smtp://user:word@mx.example") is None and by_hand("nonsense") is None


def test_mail_takes_its_route_and_only_it(lab: Lab) -> None:
    lab.settings["routes"] = RULES
    lab.settings["relay"] = Relay("203.0.113.1")
    routes = Routes(RULES, frozenset({"us.example"}))
    lab.live(1), lab.live(2)
    with contextlib.closing(Journal(lab.queue)) as journal, journal.transaction():
        journal.add(
            [
                lab.out("bob@d1.example", "zoe@y.example"),
                lab.out("vip@d1.example", "zoe@y.example"),
                lab.out("bob@d2.example"),  # of ann's
                lab.out("bob@d2.example", "zoe@y.example"),
            ],
            (),
            lab.clock.now,
            lane=routes.lane,
        )
    asyncio.run(_all_sent(lab))
    taken = sorted((address, recipient) for address, recipient, _ in lab.sink.taken)
    assert taken == [
        ("203.0.113.1", "bob@d2.example"),
        ("203.0.113.10", "vip@d1.example"),
        ("203.0.113.9", "bob@d1.example"),
        ("203.0.113.9", "bob@d2.example"),
    ]


async def _all_sent(lab: Lab) -> None:
    async with lab.sending() as sender:
        await lab.quiet(sender)


def test_what_waits_takes_the_routes_of_today(lab: Lab) -> None:
    """Queued without routes, or by those of another configuration: the sender gives lanes anew, and leaves the operator's."""
    old = Routes((Rule(("d1.example",), (), Relay("203.0.113.66")),))
    lab.live(1), lab.live(2), lab.live(3)
    with contextlib.closing(Journal(lab.queue)) as journal, journal.transaction():
        names = journal.add(
            [lab.out("a@d1.example"), lab.out("b@d2.example"), lab.out("c@d3.example")],
            (),
            lab.clock.now,
            lane=old.lane,
        ).items
        assert journal.reroute(lab.clock.now, Choice(names[2]), "smtp://203.0.113.50", old.lane) == 1
    lab.settings["routes"] = (Rule(("d2.example",), (), HOST),)
    asyncio.run(_all_sent(lab))
    assert sorted((address, recipient) for address, recipient, _ in lab.sink.taken) == [
        ("198.51.100.1", "a@d1.example"),
        ("203.0.113.50", "c@d3.example"),
        ("203.0.113.9", "b@d2.example"),
    ]


def test_a_route_that_is_down_keeps_only_its_mail(lab: Lab) -> None:
    lab.settings["routes"] = RULES
    lab.sink.moods["203.0.113.9"] = Mood(dead=True)
    lab.live(2)
    lab.put(lab.out("bob@d2.example", "zoe@y.example"), lab.out("bob@d2.example", "ann@us.example"))

    asyncio.run(_all_sent(lab))
    assert [recipient for _, recipient, _ in lab.sink.taken] == ["bob@d2.example"]
    waiting = [item for item in lab.items() if item.state == "queued"]
    assert [(item.reverse_path, item.recipient) for item in waiting] == [("ann@us.example", "bob@d2.example")]


def test_source_addresses() -> None:
    both = ("192.0.2.7", "2001:db8::7")
    assert source(Hop("x", "198.51.100.1")) is None
    assert source(Hop("x", "198.51.100.1", bind=both)) == ("192.0.2.7", 0)
    assert source(Hop("x", "2001:db8::1", bind=both)) == ("2001:db8::7", 0)
    with pytest.raises(Broken, match="IPv6"):
        source(Hop("x", "2001:db8::1", bind=both[:1]))


HEAD = '[server]\nhostname = "m.us.example"\n[[domain]]\nname = "us.example"\n'


def test_configuration() -> None:
    config = parse(
        HEAD
        + """[queue]
bind = ["192.0.2.1"]
[[queue.route]]
recipients = ["Example.NET", ".example.net", "Ann@example.com"]
via = "smtps://u:p@relay.example"
[[queue.route]]
senders = ["<>"]
bind = ["192.0.2.2", "2001:db8::2"]
"""
    )
    routes = routes_of(config)
    rule = routes.rule_for("x@y.example", "ann@EXAMPLE.com")
    assert rule is not None and rule.relay == Relay("relay.example", 465, ("u", "p"), smtps=True)
    assert rule.bind == ("192.0.2.1",)
    second = routes.rule_for("", "ann@example.org")
    assert second is not None and second.relay is None and second.bind == ("192.0.2.2", "2001:db8::2")


@pytest.mark.parametrize(
    "text",
    [
        'recipients = ["example.net"]',
        'via = "smtp://x.example"',
        'recipients = ["us.example"]\nvia = "smtp://x.example"',
        'recipients = ["a b"]\nvia = "smtp://x.example"',
        'recipients = ["example.net"]\nbind = ["192.0.2.1", "192.0.2.2"]',
        'recipients = ["example.net"]\nbind = ["eth0"]',
        'recipients = ["example.net"]\nvia = "lmtps://x"',
    ],
)
def test_config_check(text: str) -> None:
    with pytest.raises(ConfigErrors):
        parse(f"{HEAD}[[queue.route]]\n{text}\n")
