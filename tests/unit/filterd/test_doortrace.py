"""Whom a stage refused at RCPT is in the trace, whatever becomes of the transaction."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from filterd.explain.text import explain
from filterd.explain.traces import TraceReader, TraceWriter
from filterd.servers.ports import SmtpTransaction
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.stage import OnError, Phase
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from tests.house import DOMAIN, MAIL, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
WAIT = Reply(451, "4.7.1", "Greylisted, please try again in 60 seconds")


class Greylist:
    """Lets ann in and nobody else."""

    name = "greylist"
    phases = frozenset({Phase.RCPT})
    after: tuple[str, ...] = ()
    on_error = OnError.DEFER
    timeout = 5.0

    async def check(self, transaction: Transaction) -> Verdict:
        if transaction.envelope.recipients[0].address == ANN:
            return Verdict(self.name, result="pass")
        return Verdict(self.name, Disposition.TEMPFAIL, result="wait", summary="new sender", reply=WAIT)

    def abort(self, transaction: Transaction) -> None: ...


def house_with_a_greylist() -> House:
    house = House()
    house.reception._incoming = Runner([Greylist()], house.clock)
    return house


@pytest.mark.parametrize("end", ["abort", "next", "gone"])
def test_a_transaction_without_a_text(end: str) -> None:
    house = house_with_a_greylist()

    async def story() -> None:
        session = await house.session()
        transaction = SmtpTransaction("far@away.example", {})
        await house.reception.mail(session, transaction)
        assert await house.reception.rcpt(session, transaction, BOB, {}) == WAIT
        assert not house.traces.all
        if end == "abort":
            house.reception.abort(session, transaction)
        elif end == "next":
            await house.reception.mail(session, SmtpTransaction("far@away.example", {}))
        house.reception.ended(session)
        house.reception.ended(session)

    asyncio.run(story())
    (trace,) = house.traces.all
    assert (trace.outcome, trace.reverse_path, trace.size) == ("deferred", "far@away.example", 0)
    assert trace.reply == "451 4.7.1 Greylisted, please try again in 60 seconds"
    (refused,) = trace.recipients
    assert (refused.address, refused.account, refused.outcome) == (BOB, BOB, "deferred")
    assert refused.decision.startswith(f"Deferred at RCPT by greylist for {BOB}: 451 4.7.1 Greylisted")
    assert [span.stage for span in refused.spans] == ["greylist"]


def test_beside_a_recipient_who_gets_the_message() -> None:
    house = house_with_a_greylist()
    replies = asyncio.run(house.send(BOB, ANN))
    assert [reply.code for reply in replies] == [451, 250]
    (trace,) = house.traces.all
    assert [(part.address, part.outcome) for part in trace.recipients] == [
        (BOB, "deferred"),
        (ANN, "stored"),
    ]
    (stored,) = house.box("ann")
    assert stored.endswith(MAIL) and f"X-Filterd-Trace: {trace.id}.2\r\n".encode() in stored


def test_explain_tells_it(tmp_path: Path) -> None:
    house = house_with_a_greylist()
    asyncio.run(house.send(BOB))
    (trace,) = house.traces.all
    writer = TraceWriter(tmp_path / "traces.db", 1e9)
    writer.put(trace)
    writer.close()
    reader = TraceReader(tmp_path / "traces.db")
    found = reader.last_from("far@away.example", "")
    reader.close()
    assert found is not None
    text = explain(found, [], None, "", False)
    assert "greylist" in text and "Greylisted, please try again" in text and BOB in text
