"""What the extensions of the door mean for a message: PRDR, XFORWARD, FUTURERELEASE, domains whose store is behind us."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_network

from filterd.queue.rows import FORWARD
from filterd.servers.ports import SmtpTransaction
from pipeline.envelope import Client, Profile
from pipeline.reply import Reply
from pipeline.verdict import Disposition, Verdict
from tests.house import BEHIND, DOMAIN, MAIL, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
CARL = f"carl@{BEHIND}"
REJECT = 'require "reject"; reject "not today";'
PRDR = {"PRDR": ""}


def send(house: House, *recipients: str, **options: object) -> list[Reply]:
    return asyncio.run(house.send(*recipients, **options))  # type: ignore[arg-type]


def codes(replies: list[Reply]) -> list[int]:
    return [reply.code for reply in replies]


# -- PRDR ------------------------------------------------------------------------------------------------------------
def test_without_prdr_a_recipient_who_may_refuse_is_asked_for_apart() -> None:
    house = House()
    house.script("bob", REJECT)
    assert codes(send(house, ANN, BOB)) == [452, 250]
    assert len(house.box("ann")) == 1 and not house.box("bob")


def test_with_prdr_each_recipient_has_a_reply_of_his_own() -> None:
    house = House()
    house.script("bob", REJECT)
    replies = send(house, ANN, BOB, params=PRDR)
    assert codes(replies) == [250, 550] and "not today" in replies[1].text
    assert len(house.box("ann")) == 1 and not house.box("bob")
    assert [part.outcome for part in house.traces.all[0].recipients] == ["stored", "rejected"]


def test_with_prdr_a_full_mailbox_does_not_hold_up_the_others() -> None:
    house = House()
    house.jobs.broken.add(BOB)
    assert codes(send(house, ANN, BOB, params=PRDR)) == [250, 451]
    house.jobs.broken.clear()
    assert codes(send(house, BOB, params=PRDR)) == [250]
    assert len(house.box("ann")) == len(house.box("bob")) == 1


def test_with_prdr_one_member_of_an_alias_cannot_refuse_for_all() -> None:
    house = House()
    house.script("bob", REJECT)
    assert codes(send(house, "team@here.example", ANN, params=PRDR)) == [250, 250]
    assert len(house.box("ann")) == 1
    assert len(house.box("bob", "Junk")) == 1  # a late reject is held, never lost


def test_with_prdr_a_refused_text_has_one_reply() -> None:
    refusal = Verdict("clamav", Disposition.REJECT, reply=Reply(554, "5.7.1", "a virus"))
    assert codes(send(House(refusal), ANN, BOB, params=PRDR)) == [554]


# -- XFORWARD --------------------------------------------------------------------------------------------------------
def forwarded(
    house: House,
    recipient: str,
    client: Client,
    profile: Profile = Profile.LMTP,
    data: bytes = MAIL,
    **params: str,
) -> list[Reply]:
    async def story() -> list[Reply]:
        session = await house.session(profile)
        session.client = replace(session.client, facts_trusted=False)
        transaction = SmtpTransaction("far@away.example", {}, client=client)
        await house.reception.mail(session, transaction)
        reply = await house.reception.rcpt(session, transaction, recipient, params)
        assert reply.positive
        transaction.recipients.append(recipient)
        transaction.rcpt_params.append(params)
        replies = list(await house.reception.message(session, transaction, data))
        house.reception.ended(session)
        return replies

    return asyncio.run(story())


FIRST = Client("203.0.113.5", 4711, "mail.away.example", "mail.away.example", told="XFORWARD by 192.0.2.1")


def test_the_trace_is_about_the_first_client_and_received_about_the_hop() -> None:
    house = House()
    assert codes(forwarded(house, ANN, FIRST)) == [250]
    (trace,) = house.traces.all
    assert trace.client_ip == "203.0.113.5" and trace.helo == "mail.away.example"
    assert "told by XFORWARD by 192.0.2.1" in trace.spans[0].summary
    (stored,) = house.box("ann")
    assert b"[192.0.2.1]" in stored and b"203.0.113.5" not in stored


def test_vacation_answers_for_the_address_that_a_hop_of_ours_tells() -> None:
    old = "rfc822;old@there.example"
    for told, by, answers in (
        ("XFORWARD", old, 1),
        ("XCLIENT", old, 1),
        ("XFORWARD", "", 0),
        ("PROXY", old, 0),
    ):
        house = House()
        house.script("ann", 'require "vacation"; vacation "Away.";')
        client = replace(FIRST, told=f"{told} by 192.0.2.1")
        params = {"ORCPT": by} if by else {}
        aside = MAIL.replace(b"To: ann@here.example", b"To: old@there.example")
        assert codes(forwarded(house, ANN, client, Profile.MX, data=aside, **params)) == [250]
        assert len(house.spool.outgoing) == answers, told


# -- domains behind us -----------------------------------------------------------------------------------------------
def test_mail_for_a_store_behind_us_leaves_as_it_came() -> None:
    house = House()
    assert codes(forwarded(house, CARL, FIRST)) == [250]
    (out,) = house.spool.outgoing
    assert (out.kind, out.recipient, out.reverse_path) == ("relay", CARL, "far@away.example")
    assert out.data.endswith(MAIL) and b"Delivered-To:" not in out.data
    assert json.loads(out.params[FORWARD]) == {
        "NAME": "mail.away.example",
        "ADDR": "203.0.113.5",
        "PORT": "4711",
        "PROTO": "ESMTP",
        "HELO": "mail.away.example",
        "IDENT": house.traces.all[0].id,
        "SOURCE": "REMOTE",
    }


def test_what_we_do_not_know_of_the_client_is_not_told() -> None:
    house = House()
    hop = Client("192.0.2.1", 25, "mta1.here.example", facts_trusted=False)
    forwarded(house, CARL, hop)
    facts = json.loads(house.spool.outgoing[0].params[FORWARD])
    assert facts["ADDR"] == facts["HELO"] == facts["NAME"] == ""


def test_quarantine_for_a_store_behind_us() -> None:
    house = House(Verdict("spamassassin", Disposition.QUARANTINE, summary="score 9.1"))
    forged = b"X-Filterd-Quarantine: no\r\n" + MAIL
    assert codes(send(house, CARL, data=forged)) == [250]
    (out,) = house.spool.outgoing
    assert out.data.startswith(b"X-Filterd-Quarantine: spamassassin: score 9.1\r\n") and not out.held
    assert out.data.count(b"X-Filterd-Quarantine") == 1
    house = House(Verdict("clamav", Disposition.QUARANTINE, summary="Eicar"))
    assert codes(send(house, CARL)) == [250]
    assert house.spool.outgoing[0].held == "quarantined by clamav: Eicar"
    assert house.traces.all[0].recipients[0].outcome == "quarantined"


def test_servers_of_ours_may_relay_and_nobody_who_speaks_through_them() -> None:
    house = House()
    settings = house.reception._settings
    house.reception._settings = replace(settings, relay_trusted=(ip_network("192.0.2.0/24"),))
    assert codes(send(house, "someone@away.example")) == [250]
    assert house.spool.outgoing[0].kind == "relay"

    async def through_xclient() -> Reply:
        session = await house.session()
        session.client = replace(session.client, ip="203.0.113.5")
        transaction = SmtpTransaction("far@away.example", {})
        await house.reception.mail(session, transaction)
        return await house.reception.rcpt(session, transaction, "someone@away.example", {})

    assert asyncio.run(through_xclient()).code == 550


# -- FUTURERELEASE ---------------------------------------------------------------------------------------------------
def test_a_message_for_later_waits_for_everybody() -> None:
    house = House()
    recipients = (BOB, "someone@away.example", CARL)
    replies = send(
        house, *recipients, sender=ANN, profile=Profile.SUBMISSION, login=ANN, params={"HOLDFOR": "3600"}
    )
    assert codes(replies) == [250]
    assert not house.box("bob")  # our own people do not have it before its time either
    until = house.clock.now + 3600
    assert [(out.recipient, out.hold_until) for out in house.spool.outgoing] == [
        (one, until) for one in recipients
    ]


def test_hold_until_and_without() -> None:
    house = House()
    options = {"sender": ANN, "profile": Profile.SUBMISSION, "login": ANN}
    send(house, "someone@away.example", params={"HOLDUNTIL": "2027-01-15T10:00:00+01:00"}, **options)
    send(house, "someone@away.example", data=MAIL + b"x\r\n", **options)
    assert [out.hold_until for out in house.spool.outgoing] == [1_800_003_600.0, 0.0]
