"""What the reception does for authentication: early look-ups, RCPT stages, forged results of others."""

from __future__ import annotations

import asyncio

from pipeline.envelope import Envelope, Profile
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from tests.house import DOMAIN, MAIL, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"


class Asked:
    """A stage that is asked at RCPT and looks things up at MAIL."""

    name = "asked"
    phases = frozenset({Phase.RCPT})
    after: tuple[str, ...] = ()
    on_error = OnError.ACCEPT
    timeout = 5.0

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.early: list[str] = []
        self.seen: list[tuple[str, int]] = []

    def prefetch(self, envelope: Envelope) -> None:
        self.early.append(envelope.reverse_path)

    async def check(self, transaction: Transaction) -> Verdict:
        (recipient,) = transaction.envelope.recipients
        self.seen.append((recipient.address, transaction.message.size))
        if recipient.address == self.refused:
            return Verdict(self.name, Disposition.TEMPFAIL, reply=Reply(451, "4.7.1", "wait"))
        return Verdict(self.name)

    def abort(self, transaction: Transaction) -> None: ...


def house_with(stage: Asked) -> House:
    house = House()
    reception = house.reception
    reception._incoming = Runner([stage], house.clock)
    reception._early = [stage.prefetch]
    return house


def test_each_recipient_is_asked_for_and_one_refusal_concerns_him_alone() -> None:
    stage = Asked(refused=BOB)
    house = house_with(stage)
    replies = asyncio.run(house.send(ANN, BOB))
    assert [reply.code for reply in replies] == [451, 250]
    assert stage.seen == [(ANN, 0), (BOB, 0)]
    assert stage.early == ["far@away.example"]
    assert len(house.box("ann")) == 1
    assert house.box("bob") == []


def test_our_own_people_are_not_asked() -> None:
    stage = Asked(refused=BOB)
    house = house_with(stage)
    replies = asyncio.run(house.send(BOB, sender=ANN, login=ANN, profile=Profile.SUBMISSION))
    assert [reply.code for reply in replies] == [250]
    assert stage.seen == [] == stage.early


def test_results_of_our_other_servers_are_believed_from_them_only() -> None:
    claims = (
        b"Authentication-Results: front.here.example; spf=pass\r\n"
        b'Authentication-Results: (x) "mx.here.example" 1; spf=pass\r\n'
        b"Authentication-Results: (broken; spf=pass\r\n"
        b"Authentication-Results: other.example; spf=pass\r\n"
    )
    for profile, kept in ((Profile.MX, False), (Profile.LMTP, True)):
        house = House()
        house.reception._departure.trusted_authserv = frozenset({"front.here.example"})
        asyncio.run(house.send(ANN, data=claims + MAIL, profile=profile))
        (stored,) = house.box("ann")
        assert (b"front.here.example" in stored) is kept
        assert b"other.example; spf" in stored
        assert b"broken" not in stored
        assert b'"mx.here.example"' not in stored
