"""The spam stage without a daemon: the builtin classifier, several recipients, who is not scored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from filterd.ports import SystemClock, SystemIds
from pipeline.dmarc import Discovery, Outcome, evaluate
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.errors import StageFault
from pipeline.registry import StageContext
from pipeline.runner import Runner
from pipeline.spam.bayes import Opinion
from pipeline.stage import Phase
from pipeline.stages.spamassassin import SpamassassinSettings, SpamassassinStage, user_name
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message
from tests import faultserver

MAIL = b"From: Ann <ann@shop.example>\r\nSubject: x\r\nX-Spam-Flag: YES\r\n\r\nbody\r\n"
NOTHING = Opinion(None, 4, 0)


class Known:
    """A classifier that knows what it is told."""

    def __init__(self, opinions: Mapping[str, float], learned: int = 20, broken: bool = False) -> None:
        self._opinions = opinions
        self._learned, self._broken = learned, broken
        self.asked: list[str] = []

    def knows(self, owner: str) -> bool:
        return owner in self._opinions

    async def ask(self, owners: Sequence[str], data: bytes) -> list[Opinion]:
        self.asked += owners
        if self._broken:
            raise StageFault("unavailable", "the table is locked")
        found = [self._opinions.get(owner) for owner in owners]
        return [
            NOTHING if one is None else Opinion(one, self._learned, 300, names=(("pills", 0.99),))
            for one in found
        ]

    async def close(self) -> None:
        """Nothing to close."""


def ask(
    known: Known | None,
    people: Sequence[str] = ("ann",),
    state: Mapping[str, object] | None = None,
    client: Client = Client(ip="192.0.2.1"),
    **settings: object,
) -> Verdict:
    clock = SystemClock()

    async def main() -> Verdict:
        chosen = SpamassassinSettings(**{"engine": "builtin", **settings})  # type: ignore[arg-type]  # free settings
        context = StageContext(clock, SystemIds(), ZoneResolver(Zone.parse("")), "mx.example.org")
        runner = Runner([SpamassassinStage(chosen, context, known)], clock)
        recipients = tuple(Recipient(f"{one}@x.example", account=one) for one in people)
        envelope = Envelope("a@shop.example", recipients, client, Profile.MX)
        one = Transaction(Message(MAIL), envelope, "T", clock.monotonic() + 25, state=dict(state or {}))
        try:
            (verdict,) = (await runner.run(Phase.EOM, one)).verdicts
            return verdict
        finally:
            await runner.close()

    return asyncio.run(main())


def added(verdict: Verdict) -> dict[str, str]:
    return {edit.name: edit.value for edit in verdict.edits if edit.kind == "add"}


def test_spam_is_marked_and_never_refused() -> None:
    verdict = ask(Known({"ann": 1.0}))
    assert verdict.result == "spam" and verdict.disposition is Disposition.CONTINUE
    assert added(verdict)["X-Spam-Flag"] == "YES" and verdict.tags["spam.flag"] == "YES"
    assert verdict.evidence["probability"] == "1.0000" and "pills 0.99" in verdict.evidence["tokens"]
    assert verdict.tags["spam.score"] == verdict.tags["spam.score.ann"] == "10.00"


def test_ham_loses_what_the_sender_wrote() -> None:
    verdict = ask(Known({"ann": 0.01}))
    assert verdict.result == "ham" and "X-Spam-Flag" not in added(verdict)
    assert any(edit.kind == "remove" and edit.name == "x-spam-flag" for edit in verdict.edits)


def test_untrained_means_no_verdict() -> None:
    verdict = ask(Known({}))
    assert (verdict.result, verdict.summary) == ("skipped", "not scored: not enough training")
    assert verdict.evidence["reason"] == "4 spam and 0 ham learned, 10 of each are needed"
    assert "spam.score" not in verdict.tags


def test_recipients_differ() -> None:
    verdict = ask(Known({"ann": 1.0, "bob": 0.0}), ("ann", "bob"))
    assert verdict.result == "ham" and "X-Spam-Flag" not in added(verdict)
    assert verdict.tags["spam.score.ann"] == "10.00" and verdict.tags["spam.score.bob"] == "-5.00"
    verdict = ask(Known({"ann": 1.0}), ("ann", "bob"))
    assert not added(verdict) and "spam.score" not in verdict.tags, (
        "bob has no opinion: nothing on the message"
    )
    assert verdict.tags["spam.score.ann"] == "10.00" and verdict.tags["spam.threshold"] == "5"
    crowd = Known({})
    ask(crowd, [f"p{n}" for n in range(11)])
    assert crowd.asked == [""], "of a crowd only the shared table is asked"


def test_in_place_of_an_absent_spamd() -> None:
    where = faultserver.refused()
    verdict = ask(Known({"ann": 1.0}), engine="spamd", socket=where)
    assert verdict.result == "spam" and verdict.evidence["engine"] == "builtin"
    for known in (Known({}), None):
        verdict = ask(known, engine="spamd", socket=where)
        assert verdict.summary == "not scored: no spamd here"
    assert (
        ask(Known({"ann": 1.0}), engine="spamd", socket=where, enabled="on").disposition
        is Disposition.CONTINUE
    )


@pytest.mark.parametrize(
    ("opinions", "learned", "sure", "result"),
    [
        ({"ann": 0.9995, "bob": 1.0}, 200, 0.999, "spam"),
        ({"ann": 0.0005, "bob": 0.0}, 200, 0.999, "ham"),
        ({"ann": 0.0005, "bob": 0.0}, 200, 0.0, ""),  # the default
        ({"ann": 0.0005, "bob": 0.0}, 199, 0.999, ""),
        ({"ann": 0.998, "bob": 1.0}, 200, 0.999, ""),
        ({"ann": 1.0, "bob": 0.0}, 200, 0.999, ""),
        ({"ann": 1.0}, 200, 0.999, ""),
    ],
)
def test_when_the_builtin_classifier_is_sure_nobody_else_is_asked(
    opinions: Mapping[str, float], learned: int, sure: float, result: str
) -> None:
    """``enabled`` on and nobody there: who is asked all the same is a fault."""
    settings = {"engine": "spamd", "socket": faultserver.refused(), "enabled": "on", "sure": sure}
    known = Known(opinions, learned)
    verdict = ask(known, ("ann", "bob"), **settings)
    assert verdict.result == (result or "error"), verdict
    if result:
        assert verdict.evidence["engine"] == "builtin" and verdict.evidence["not_asked"] == "spamd"
        assert (added(verdict).get("X-Spam-Flag") == "YES") is (result == "spam")


def test_a_table_that_cannot_be_read_leaves_it_to_the_engine() -> None:
    settings = {"engine": "spamd", "socket": faultserver.refused(), "enabled": "auto", "sure": 0.999}
    assert ask(Known({"ann": 1.0}, 500), **settings).result == "spam"
    verdict = ask(
        Known({"ann": 1.0}, 500, broken=True),
        engine="spamd",
        socket=faultserver.refused(),
        enabled="on",
        sure=0.999,
    )
    assert verdict.result == "error" and "cannot reach" in verdict.summary


def outcome(dkim: bool) -> Outcome:
    found = Discovery("shop.example", tree=False)
    made = evaluate(found, [], True)
    return type(made)(**{**{name: getattr(made, name) for name in made.__slots__}, "dkim_aligned": dkim})


@pytest.mark.parametrize(
    ("allow", "dkim", "allowed"),
    [
        ("192.0.2.0/24", False, True),
        ("198.51.100.0/24", False, False),
        ("ann@shop.example", True, True),
        ("ann@shop.example", False, False),
        ("SHOP.example", True, True),
        ("example", True, True),
        ("op.example", True, False),
    ],
)
def test_who_is_allowed(allow: str, dkim: bool, allowed: bool) -> None:
    verdict = ask(Known({"ann": 1.0}), state={"dmarc": [outcome(dkim)]}, allow=(allow,))
    assert verdict.summary.startswith("not scored: allowed") is allowed
    assert not (allowed and added(verdict))


def test_an_unknown_client_is_not_allowed_by_network() -> None:
    client = Client(ip="192.0.2.1", facts_trusted=False)
    assert ask(Known({"ann": 1.0}), client=client, allow=("192.0.2.0/24",)).result == "spam"


def test_whose_preferences() -> None:
    assert user_name("recipient", "ann@x.example") == "ann@x.example"
    assert user_name("filterd", "ann@x.example") == "filterd"
    assert user_name("recipient", "a b\r\nX: y") == "" and user_name("", "ann") == ""
