"""What filters change on mail at our own door: filterd/filtered.py, filterd/generation.py, filterd/reception.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from filterd.accounts.directory import Foreign, Resolution
from filterd.filtered import readdress
from filterd.generation import run_stages
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, EnvelopeEdit, HeaderEdit, Verdict
from rules.mail.message import Message
from tests.house import DOMAIN, MAIL, FixedStage, House, TestClock

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
NO = Reply(550, "5.7.1", "not you")


def send(house: House, *recipients: str, **options: object) -> list[int]:
    replies = asyncio.run(house.send(*recipients, **options))  # type: ignore[arg-type]
    return [reply.code for reply in replies]


def filtered(**what: object) -> House:
    return House(Verdict("milters", **what))  # type: ignore[arg-type]


def test_fields_exactly_as_the_filter_wrote_them() -> None:
    raw = b"DKIM-Signature: v=1;\r\n\t  odd = folds ;\r\n b=x\r\n"
    house = filtered(edits=(HeaderEdit("add", "DKIM-Signature", raw=raw, place=1),))
    assert send(house, ANN) == [250]
    (stored,) = house.box("ann")
    assert stored.endswith(raw + MAIL) and stored.index(b"Received:") < stored.index(raw)


def test_a_new_body() -> None:
    house = filtered(body=b"new body\r\n")
    assert send(house, ANN) == [250]
    (stored,) = house.box("ann")
    head = MAIL[: MAIL.index(b"\r\n\r\n") + 4]
    assert stored.endswith(head + b"new body\r\n")


def test_a_retry_is_known_by_the_octets_that_came() -> None:
    house = filtered(body=b"new body\r\n")

    async def story() -> int:
        await house.send(ANN)
        await house.send(ANN)
        return len(house.box("ann"))

    assert asyncio.run(story()) == 1


def test_recipients_taken_out_and_put_in() -> None:
    house = filtered(envelope=EnvelopeEdit(add=(BOB,), remove=(ANN.upper(),)))
    assert send(house, ANN) == [250]
    assert not house.box("ann") and len(house.box("bob")) == 1
    notes = [span.summary for span in house.traces.all[0].spans if span.result == "note"]
    assert notes == [f"{ANN} taken out by a filter", f"{BOB} put in by a filter"]


def test_parameters_that_a_filter_gives() -> None:
    """smfi_addrcpt_par, smfi_chgfrom: what Postfix takes, NOTIFY ORCPT RET ENVID, when it is right."""
    edit = EnvelopeEdit(
        add=("far@other.example",),
        reverse_path="list@other.example",
        rcpt_params=(
            ("Far@other.example", "notify=NEVER ORCPT=rfc822;a+40b.example NOTIFY=SOMETIMES X=1"),
            (ANN, "NOTIFY=DELAY"),
        ),
        mail_params="RET=HDRS ENVID=q+3D1 SIZE=5 RET",
    )
    envelope = Envelope("old@x.example", (Recipient(ANN, {"NOTIFY": "NEVER"}),), Client(), Profile.MX)

    async def elsewhere(address: str) -> Resolution:
        return Foreign(address)

    found = asyncio.run(readdress(envelope, [()], Verdict("milters", envelope=edit), elsewhere)).envelope
    assert [dict(one.params) for one in found.recipients] == [
        {"NOTIFY": "DELAY"},
        {"NOTIFY": "NEVER", "ORCPT": "rfc822;a+40b.example"},
    ]
    assert found.mail_params == {"RET": "HDRS", "ENVID": "q+3D1"}
    house = filtered(envelope=edit)
    assert send(house, ANN) == [250]
    (leaving,) = house.spool.outgoing
    assert leaving.params == {
        "NOTIFY": "NEVER",
        "ORCPT": "rfc822;a+40b.example",
        "RET": "HDRS",
        "ENVID": "q+3D1",
    }


def test_one_put_in_who_does_not_exist_does_not_make_mail_vanish() -> None:
    nobody = f"nobody@{DOMAIN}"
    house = filtered(envelope=EnvelopeEdit((nobody,), (ANN,)))
    assert send(house, ANN) == [550] and not house.box("ann")
    beside = filtered(envelope=EnvelopeEdit((nobody,)))
    assert send(beside, ANN) == [250] and len(beside.box("ann")) == 1


def test_nobody_is_left() -> None:
    house = filtered(envelope=EnvelopeEdit(remove=(ANN,)))
    assert send(house, ANN) == [250]
    assert not house.box("ann") and house.traces.all[0].outcome == "discarded"


@pytest.mark.parametrize(("profile", "codes"), [(Profile.MX, [451]), (Profile.LMTP, [451, 451])])
def test_one_put_in_who_cannot_be_looked_up_is_not_left_out(profile: Profile, codes: list[int]) -> None:
    house = filtered(envelope=EnvelopeEdit(add=(f"later@{DOMAIN}",), remove=(ANN,)))
    assert send(house, ANN, BOB, profile=profile) == codes
    assert not house.box("ann") and not house.box("bob") and house.traces.all[0].outcome == "deferred"


def test_a_recipient_elsewhere_and_another_sender() -> None:
    house = filtered(
        envelope=EnvelopeEdit(add=("x@away.example", "nobody@here.example"), reverse_path="new@here.example")
    )
    assert send(house, ANN) == [250]
    (leaving,) = house.spool.outgoing
    assert (leaving.recipient, leaving.reverse_path, leaving.kind) == (
        "x@away.example",
        "new@here.example",
        "forward",
    )
    assert house.box("ann")[0].startswith(b"Return-Path: <new@here.example>")


def test_a_refused_recipient_is_quarantined_beside_others() -> None:
    house = filtered(recipients={BOB: NO})
    assert send(house, ANN, BOB) == [250]
    assert len(house.box("ann")) == 1 and not house.box("bob") and len(house.box("bob", "Junk")) == 1
    numbers = [
        line
        for line in (house.box("ann")[0] + house.box("bob", "Junk")[0]).split(b"\r\n")
        if b"X-Filterd-Trace" in line
    ]
    assert [number[-2:] for number in numbers] == [b".1", b".2"]
    assert len(house.traces.all[0].recipients) == 2


def test_by_lmtp_it_is_refused_alone() -> None:
    house = filtered(recipients={BOB: NO})
    assert send(house, ANN, BOB, profile=Profile.LMTP) == [250, 550]
    assert len(house.box("ann")) == 1 and not house.box("bob")
    assert {part.address: part.outcome for part in house.traces.all[0].recipients}[BOB] == "rejected"
    house = filtered(recipients={ANN: NO, BOB: NO})
    assert send(house, ANN, BOB, profile=Profile.LMTP) == [550, 550]


def test_our_own_people_are_told() -> None:
    house = House()
    house.reception._departure.runner = Runner(
        [FixedStage(Verdict("milters", recipients={"x@away.example": NO}))], house.clock
    )
    data = b"From: ann@here.example\r\n\r\nHi\r\n"
    options = {"sender": ANN, "data": data, "profile": Profile.SUBMISSION, "login": ANN}
    assert send(house, "x@away.example", BOB, **options) == [550]
    assert not house.spool.outgoing and not house.box("bob")


# -- generations -----------------------------------------------------------------------------------------------------


class Scanner(FixedStage):
    def __init__(self, name: str) -> None:
        super().__init__(Verdict(name))
        self.seen: list[bytes] = []

    async def check(self, transaction: Transaction) -> Verdict:
        self.seen.append(transaction.message.data)
        found = b"virus" in transaction.message.data
        return replace(
            self._verdict, disposition=Disposition.REJECT if found else Disposition.CONTINUE, result="clean"
        )


@pytest.mark.parametrize(("body", "refused"), [(b"good\r\n", False), (b"a virus\r\n", True)])
def test_the_content_is_looked_at_again_and_the_sender_is_not(body: bytes, refused: bool) -> None:
    clock = TestClock()
    clamav, dkim = Scanner("clamav"), Scanner("dkim")
    runner = Runner([dkim, clamav, FixedStage(Verdict("milters", body=body))], clock)
    envelope = Envelope("a@b", (), Client(), Profile.MX)
    judged = asyncio.run(run_stages(runner, Transaction(Message(MAIL), envelope, "T", clock.monotonic() + 9)))
    head = MAIL[: MAIL.index(b"\r\n\r\n") + 4]
    assert clamav.seen == [MAIL, head + body] and dkim.seen == [MAIL]
    assert judged.work.message.data == head + body
    assert (judged.outcome.verdict.disposition is Disposition.REJECT) is refused
    assert judged.outcome.verdict.body == body or refused
    assert [span.stage for span in judged.spans] == ["dkim", "clamav", "milters", "clamav"]
    assert judged.spans[-1].summary.endswith("(the new body)")


def test_a_message_without_a_body_gets_one() -> None:
    clock = TestClock()
    runner = Runner([FixedStage(Verdict("milters", body=b"x\r\n"))], clock)
    for data, expected in (
        (b"A: b\r\n", b"A: b\r\n\r\nx\r\n"),
        (b"A: b\r\n\r\n", b"A: b\r\n\r\nx\r\n"),
        (b"A: b", b"A: b\r\n\r\nx\r\n"),
        (b"\r\nold", b"\r\nx\r\n"),
    ):
        work = Transaction(Message(data), Envelope("", (), Client(), Profile.MX), "T", clock.monotonic() + 9)
        assert asyncio.run(run_stages(runner, work)).work.message.data == expected
