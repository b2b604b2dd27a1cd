"""From RCPT to the reply: filterd/reception.py, filterd/delivery.py, filterd/outgoing.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from filterd.local_delivery import LocalDelivery
from pipeline.envelope import Profile
from pipeline.reply import Reply
from pipeline.verdict import AuthResult, Disposition, HeaderEdit, Verdict
from rules.limits import Limits
from tests.house import DOMAIN, MAIL, House

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"


def send(house: House, *recipients: str, **options: object) -> list[Reply]:
    return asyncio.run(house.send(*recipients, **options))  # type: ignore[arg-type]


def codes(replies: list[Reply]) -> list[int]:
    return [reply.code for reply in replies]


def test_a_message_is_stored_with_our_fields_on_top_and_its_octets_kept() -> None:
    house = House()
    assert codes(send(house, ANN)) == [250]
    (stored,) = house.box("ann")
    assert stored.endswith(MAIL)
    top = stored[: -len(MAIL)]
    assert top.startswith(b"Return-Path: <far@away.example>\r\nDelivered-To: ann@here.example\r\n")
    assert b"X-Filterd-Trace: " in top and b"Received: from" in top


def test_rcpt_answers() -> None:
    assert codes(send(House(), "nobody@here.example")) == [550]
    assert codes(send(House(), "someone@away.example")) == [550]
    assert codes(send(House(), "later@here.example")) == [451]
    assert codes(send(House(), "srs@here.example")) == [550]  # only bounces go there
    house = House()
    assert codes(send(house, "srs@here.example", sender="")) == [250]
    assert house.spool.outgoing[0].recipient == "far@away.example"
    assert house.spool.outgoing[0].reverse_path == ""


def test_an_alias_to_two_people_and_one_elsewhere() -> None:
    house = House()
    assert codes(send(house, "team@here.example", "away@here.example")) == [250]
    assert len(house.box("ann")) == len(house.box("bob")) == 1
    (leaving,) = house.spool.outgoing
    assert leaving.recipient == "ann@elsewhere.example"
    assert leaving.reverse_path.lower().startswith("srs0=") and leaving.reverse_path.endswith("@here.example")


def test_a_forward_that_comes_back_is_refused() -> None:
    house = House()
    data = b"Delivered-To: away@here.example\r\n" + MAIL
    assert codes(send(house, "away@here.example", data=data)) == [554]
    assert not house.spool.outgoing


def test_a_retry_after_a_lost_reply_leaves_one_copy_and_an_acknowledged_one_two() -> None:
    async def story() -> tuple[int, int]:
        house = House()
        await house.send(ANN)
        assert codes(await house.send(ANN)) == [250]  # the client never showed that it had our reply
        lost = len(house.box("ann"))
        session = await house.session()
        await house.send(ANN, session=session, data=MAIL + b"more\r\n")
        house.reception.acknowledged(session)
        await house.send(ANN, data=MAIL + b"more\r\n")
        return lost, len(house.box("ann"))

    assert asyncio.run(story()) == (1, 3)


def test_equal_messages_of_two_sessions_that_live_are_two() -> None:
    async def story() -> tuple[int, int]:
        house = House()
        house.script("bob", 'redirect "bob@elsewhere.example";')
        one, other = await house.session(), await house.session()
        for session in (one, other):
            await house.send(ANN, session=session)
            house.reception.acknowledged(session)
            await house.send(BOB, session=session)
        return len(house.box("ann")), len({leaving.key for leaving in house.spool.outgoing})

    assert asyncio.run(story()) == (2, 2)


def test_equal_messages_at_the_same_time() -> None:
    async def story() -> int:
        house = House()
        one, other = await house.session(), await house.session()
        await house.send(ANN, session=one)
        await house.send(ANN, session=other)  # the first client has not gone on yet, and still lives
        return len(house.box("ann"))

    assert asyncio.run(story()) == 2


def test_no_reply_code_acknowledges_what_was_not_promised() -> None:
    async def story() -> int:
        house = House()
        house.jobs.broken.add(BOB)
        session = await house.session()
        assert codes(await house.send(ANN, BOB, session=session)) == [451]
        house.reception.acknowledged(session)  # the client reads the 451 and goes on
        house.jobs.broken.clear()
        assert codes(await house.send(ANN, BOB)) == [250]
        return len(house.box("ann"))

    assert asyncio.run(story()) == 1


def test_lmtp_answers_each_recipient() -> None:
    house = House()
    house.jobs.broken.add(BOB)
    assert codes(send(house, ANN, BOB, profile=Profile.LMTP)) == [250, 451]
    assert len(house.box("ann")) == 1


def test_a_stage_that_rejects_leaves_nothing_behind() -> None:
    verdict = Verdict(
        "clamav", Disposition.REJECT, "found", "Eicar", Reply(550, "5.7.1", "A virus was found")
    )
    house = House(verdict)
    (reply,) = send(house, ANN)
    assert (reply.code, reply.text) == (550, "A virus was found")
    assert not house.box("ann")
    assert house.traces.all[0].outcome == "rejected"
    assert "clamav" in house.traces.all[0].recipients[0].decision


def test_behind_another_mta_a_rejection_becomes_quarantine() -> None:
    verdict = Verdict(
        "clamav", Disposition.REJECT, "found", "Eicar", Reply(550, "5.7.1", "A virus was found")
    )
    house = House(verdict)
    assert codes(send(house, ANN, profile=Profile.LMTP)) == [250]
    assert not house.box("ann") and len(house.box("ann", "Junk")) == 1


def test_verdicts_become_fields_and_forged_ones_go() -> None:
    verdict = Verdict(
        "spf",
        authres=(AuthResult("spf", "fail", properties=(("smtp.mailfrom", "far@away.example"),)),),
        edits=(HeaderEdit("add", "X-Spam-Flag", "YES"),),
    )
    house = House(verdict)
    forged = b"Authentication-Results: mx.here.example; spf=pass\r\nX-Filterd-Trace: 00000-00000.1\r\n"
    send(house, ANN, data=forged + MAIL)
    (stored,) = house.box("ann")
    assert b"spf=fail" in stored and b"spf=pass" not in stored and b"00000-00000" not in stored
    assert b"X-Spam-Flag: YES\r\n" in stored and stored.endswith(MAIL)


def test_too_many_hops() -> None:
    data = b"Received: from a by b; Mon, 23 Nov 2026 08:00:00 +0000\r\n" * 51 + MAIL
    assert codes(send(House(), ANN, data=data)) == [554]


def test_sieve_files_flags_and_explains() -> None:
    house = House()
    house.script(
        "ann",
        'require ["fileinto","imap4flags"];\nif header :is "subject" "Hi" {\n fileinto :flags "\\\\Seen" "Hi"; }',
    )
    send(house, ANN)
    assert len(house.box("ann", "Hi")) == 1 and not house.box("ann")
    (part,) = house.traces.all[0].recipients
    assert part.outcome == "stored" and "line 3" in part.decision and part.places == ["Hi uid 1"]
    assert any(step.what == "header" and step.result for step in part.steps)


def test_a_script_that_does_not_compile_keeps_the_mail_and_says_so() -> None:
    house = House()
    house.script("ann", "this is no sieve")
    assert codes(send(house, ANN)) == [250]
    kept, told = house.box("ann")
    assert kept.endswith(MAIL) and b"script" in told and b"does not compile" in told
    send(house, ANN, data=MAIL + b"another\r\n")
    assert len(house.box("ann")) == 3, "the owner is told once"
    assert any("does not compile" in span.summary for span in house.traces.all[0].recipients[0].spans)


def test_reject_is_our_reply_when_the_recipient_is_alone() -> None:
    house = House()
    house.script("ann", 'require "reject"; reject "Not here";')
    (reply,) = send(house, ANN)
    assert reply.code == 550 and "Not here" in reply.text
    assert codes(send(house, ANN, BOB)) == [452, 550]  # bob is to come in a message of his own
    assert not house.box("ann") and not house.box("bob")
    assert codes(send(house, BOB, ANN)) == [452, 250]


def test_redirect_copy_is_one_commit_of_two_effects() -> None:
    house = House()
    house.script("ann", 'require "copy"; redirect :copy "ann@elsewhere.example";')
    data = b"User-Agent: Secret/1\r\n" + MAIL
    assert codes(send(house, ANN, data=data)) == [250]
    (leaving,) = house.spool.outgoing
    assert len(house.spool.stores) == 1 and house.spool.done == ["S0"]
    assert len(house.box("ann")) == 1
    assert b"User-Agent" not in leaving.data and b"X-Filterd-Trace" not in leaving.data
    assert leaving.reverse_path.startswith("SRS0=")


def test_a_queue_that_cannot_be_written_is_temporary_and_stores_nothing() -> None:
    house = House()
    house.script("ann", 'require "copy"; redirect :copy "ann@elsewhere.example";')
    house.spool.broken = True
    assert codes(send(house, ANN)) == [451]
    assert not house.box("ann")


def test_a_store_that_fails_after_the_commit_is_left_to_the_queue() -> None:
    house = House()
    house.script("ann", 'require "copy"; redirect :copy "ann@elsewhere.example";')
    house.jobs.broken.add(ANN)
    assert codes(send(house, ANN)) == [250]  # committed: the record will be rolled forward
    assert len(house.spool.stores) == 1 and not house.spool.done


def test_null_sender_stays_null_when_redirected() -> None:
    house = House()
    house.script("ann", 'redirect "ann@elsewhere.example";')
    send(house, ANN, sender="")
    assert house.spool.outgoing[0].reverse_path == ""


def test_submission_binds_the_sender_and_hides_the_client() -> None:
    house = House()
    (reply,) = send(house, "x@away.example", sender=BOB, profile=Profile.SUBMISSION, login=ANN)
    assert reply.code == 550 and ANN in reply.text
    data = b"From: ann@here.example\r\nBcc: bob@here.example\r\nUser-Agent: Secret/1\r\n\r\nHi\r\n"
    assert codes(
        send(house, "x@away.example", BOB, sender=ANN, data=data, profile=Profile.SUBMISSION, login=ANN)
    ) == [250]
    (leaving,) = house.spool.outgoing
    assert leaving.kind == "submission" and leaving.reverse_path == ANN
    assert b"192.0.2.1" not in leaving.data and b"Secret" not in leaving.data and b"Bcc" not in leaving.data
    assert len(house.box("bob")) == 1


def test_without_a_login_nothing_is_submitted() -> None:
    assert codes(send(House(), "x@away.example", profile=Profile.SUBMISSION)) == [530]


def test_a_submission_is_completed() -> None:
    house = House()
    send(
        house,
        "x@away.example",
        sender=ANN,
        data=b"Subject: x\r\n\r\nhi\r\n",
        profile=Profile.SUBMISSION,
        login=ANN,
    )
    (out,) = house.spool.outgoing
    header = out.data.partition(b"\r\n\r\n")[0]
    for field in (f"From: <{ANN}>".encode(), b"Date: ", b"Message-ID: <"):
        assert header.count(b"\r\n" + field) == 1
    assert out.data.endswith(b"Subject: x\r\n\r\nhi\r\n")


def test_quarantine_of_a_stage_runs_no_script() -> None:
    verdict = Verdict("spamassassin", Disposition.QUARANTINE, "spam", "9.0 of 5")
    house = House(verdict)
    house.script("ann", "discard;")
    send(house, ANN)
    assert len(house.box("ann", "Junk")) == 1
    assert house.traces.all[0].recipients[0].outcome == "quarantined"


def test_duplicate_is_remembered_only_with_the_delivery() -> None:
    house = House()
    house.script("ann", 'require ["duplicate","fileinto"]; if duplicate { fileinto "Twice"; }')
    house.jobs.broken.add(ANN)
    assert codes(send(house, ANN)) == [451]
    house.jobs.broken.clear()
    send(house, ANN, data=MAIL + b"a")
    assert len(house.box("ann")) == 1
    send(house, ANN, data=MAIL + b"b")
    assert len(house.box("ann", "Twice")) == 1


def test_two_addresses_of_one_account_leave_one_copy_also_when_the_client_comes_again() -> None:
    house = House()
    for _ in range(2):  # the second time is the retry of a client that lost our reply
        assert codes(send(house, ANN, ANN, "team@here.example", "ann+x@here.example")) == [250]
        assert len(house.box("ann")) == len(house.box("bob")) == 1
    assert codes(send(house, ANN, ANN, profile=Profile.LMTP, sender="other@away.example")) == [250, 250]
    assert len(house.box("ann")) == 2


def test_two_addresses_of_one_account_share_the_failure() -> None:
    house = House()
    house.jobs.broken.add(ANN)
    assert codes(send(house, ANN, "ann+x@here.example", profile=Profile.LMTP)) == [451, 451]
    house.jobs.broken.clear()
    assert codes(send(house, ANN, "ann+x@here.example", profile=Profile.LMTP)) == [250, 250]
    assert len(house.box("ann")) == 1


def test_two_addresses_of_one_account_with_folders_of_their_own() -> None:
    house = House()
    house.script(
        "ann",
        'require ["envelope", "subaddress", "fileinto"];'
        'if envelope :detail "to" "x" { fileinto "X"; redirect "a@away.example"; } else { redirect "a@away.example"; }',
    )
    assert codes(send(house, ANN, "ann+x@here.example", ANN, profile=Profile.LMTP)) == [250, 250, 250]
    assert len(house.box("ann", "X")) == 1 and len(house.spool.outgoing) == 1


def test_a_redirect_that_comes_back_is_kept() -> None:
    house = House()
    house.script("ann", 'redirect "ann@elsewhere.example";')
    send(house, ANN)
    (leaving,) = house.spool.outgoing
    assert codes(send(house, ANN, data=leaving.data)) == [250]
    assert len(house.spool.outgoing) == len(house.box("ann")) == 1
    assert "came back" in house.traces.all[-1].recipients[0].decision
    house.script("bob", 'require "copy"; redirect :copy "bob@elsewhere.example";')
    back = leaving.data.replace(b"ann@here.example", b"bob@here.example")
    assert codes(send(house, BOB, data=back)) == [250]
    assert len(house.spool.outgoing) == len(house.box("bob")) == 1


def test_nothing_is_remembered_of_sessions_that_are_over() -> None:
    house = House(
        Verdict("spf", Disposition.CONTINUE, result="pass"),
    )
    send(house, "away@here.example", ANN, data=b"Delivered-To: away@here.example\r\n" + MAIL)
    send(house, ANN, "ann+x@here.example", "away@here.example")
    assert len(house.spool.outgoing) == 2  # a bounce of the loop, a forward
    assert not house.reception._delivery.performer._live


def test_mail_of_the_queue_for_our_own_people_is_not_remembered_either() -> None:
    house = House()
    local = LocalDelivery(house.reception, house.reception._delivery)
    assert asyncio.run(local.queued("far@away.example", ANN, MAIL)).code == 250
    assert not house.reception._delivery.performer._live and len(house.box("ann")) == 1


def test_a_folder_that_cannot_be_made_holds_both_of_two_equal_messages() -> None:
    async def story() -> int:
        house = House()
        house.script("ann", 'require "fileinto"; fileinto "a//b";')
        one, other = await house.session(), await house.session()
        await house.send(ANN, session=one)
        await house.send(ANN, session=other)
        return len(house.box("ann"))

    assert asyncio.run(story()) == 2


def test_several_copies_for_a_full_mailbox_are_not_promised() -> None:
    house = House()
    house.script(
        "ann", 'require ["fileinto", "copy"]; fileinto :copy "A"; redirect :copy "a@elsewhere.example";'
    )
    house.store._quota_of = lambda account: 10
    assert codes(send(house, ANN)) == [452]
    assert not house.spool.outgoing and not house.spool.stores


def test_a_late_reject_of_our_own_people_goes_back_to_them() -> None:
    house = House()
    house.script("bob", 'require "reject"; reject "no";')
    session = {"profile": Profile.SUBMISSION, "login": ANN, "sender": ANN}
    assert codes(send(house, ANN, BOB, **session)) == [250]
    assert [(out.recipient, out.kind) for out in house.spool.outgoing] == [(ANN, "dsn")]
    assert not house.box("bob")


def test_text_without_a_head_is_body() -> None:
    for text in (b"done\r\n", b"Dear Ann: hi\r\n\r\nmore\r\n", b"\0\r\n", b"no end"):
        house = House()
        assert codes(send(house, ANN, data=text)) == [250]
        (stored,) = house.box("ann")
        assert stored.partition(b"\r\n\r\n")[2] == text
    for text in (
        b"",
        b"Subject: x\r\n",
        b"From far Mon\r\nSubject: x\r\n\r\nhi\r\n",
        b" folded\r\nSubject: x\r\n\r\n",
    ):
        house = House()
        send(house, ANN, data=text)
        (stored,) = house.box("ann")
        assert stored.endswith(b"\r\n" + text) and b"\r\n\r\n" + text not in stored


def test_redirect_to_a_list_reaches_its_members_and_an_empty_one_keeps() -> None:
    house = House()
    house.script("ann", 'require "extlists"; redirect :list "friends";')
    send(house, ANN)
    kept, told = house.box("ann")
    assert kept.endswith(MAIL) and b"there is no list" in told and not house.spool.outgoing
    house.store.account(ANN).set_metadata(
        None, "/private/vendor/filterd/list/friends", "x@a.example\ny@b.example"
    )
    send(house, ANN, data=MAIL + b"more\r\n")
    assert {leaving.recipient for leaving in house.spool.outgoing} == {"x@a.example", "y@b.example"}
    assert len(house.box("ann")) == 2


def test_a_redirect_that_asks_for_reports_gets_them_itself() -> None:
    house = House()
    house.script("ann", 'require "redirect-dsn"; redirect :notify "failure" "x@a.example";')
    send(house, ANN)
    (leaving,) = house.spool.outgoing
    assert leaving.reverse_path == ANN and leaving.params["NOTIFY"] == "FAILURE"


def test_a_report_leaves_as_mail_and_the_message_is_kept() -> None:
    house = House()
    house.script(
        "ann", 'require "vnd.dovecot.report"; report "abuse" "Look at this." "desk@elsewhere.example";'
    )
    assert asyncio.run(house.send("ann@here.example"))[0].code == 250
    assert len(house.box("ann")) == 1
    (sent,) = house.spool.outgoing
    assert (sent.kind, sent.reverse_path, sent.recipient) == ("report", "", "desk@elsewhere.example")
    assert b"Feedback-Type: abuse\r\n" in sent.data and b"Message-ID: <1@away.example>" in sent.data
    assert b"From: <postmaster@here.example>" in sent.data or b"From: postmaster@here.example" in sent.data


LOOPING = b"Delivered-To: away@here.example\r\n" + MAIL


def test_a_forwarding_loop_is_never_dropped_in_silence() -> None:
    alone = House()
    assert codes(send(alone, "away@here.example", data=LOOPING)) == [554]
    beside = House()  # nobody vouches for the sender: the postmaster holds it
    assert codes(send(beside, "away@here.example", ANN, data=LOOPING)) == [250]
    assert len(beside.box("ann")) == 1 and not beside.spool.outgoing
    (held,) = beside.box("bob", "Junk")
    assert held.endswith(MAIL) and b"X-Original-To: away@here.example" in held
    looped = beside.traces.all[-1].recipients[0]
    assert looped.outcome == "quarantined" and "forwarded from here before" in looped.decision
    report = House()  # a delivery report in a loop is held as well
    assert codes(send(report, "away@here.example", ANN, sender="", data=LOOPING)) == [250]
    assert len(report.box("bob", "Junk")) == 1
    verified = House(Verdict("spf", Disposition.CONTINUE, result="pass"))
    assert codes(send(verified, "away@here.example", ANN, data=LOOPING)) == [250]
    assert [(one.kind, one.recipient) for one in verified.spool.outgoing] == [("dsn", "far@away.example")]
    assert verified.traces.all[-1].recipients[0].outcome == "rejected"
    each = House()  # LMTP has a reply for each
    assert codes(send(each, "away@here.example", ANN, data=LOOPING, profile=Profile.LMTP)) == [554, 250]


def test_what_a_script_says_of_a_fault_may_be_a_strangers_and_is_told_once() -> None:
    house = House()
    house.script("ann", 'require "variables"; if header :matches "subject" "*" { redirect "${1}"; }')
    for number in range(3):
        send(house, ANN, data=MAIL.replace(b"Hi", b"no address %d" % number))
    boxes = house.box("ann")
    assert len(boxes) == 4 and sum(b"Auto-Submitted: auto-generated" in text for text in boxes) == 1


def test_a_spent_budget_is_told_once_wherever_the_script_was() -> None:
    house = House()
    house.delivery._settings = replace(house.delivery._settings, limits=Limits(steps=32))
    much = "".join(f'addflag "k{number}";\n' for number in range(100))
    house.script(
        "ann",
        f'require "imap4flags";\nif header "subject" "one" {{\n{much}}}\nelse {{\n{much}}}',
    )
    reached = set()
    for subject in (b"one", b"two", b"three"):
        send(house, ANN, data=MAIL.replace(b"Hi", subject))
        reached.add(house.traces.all[-1].recipients[0].steps[-1].line)
    assert len(reached) == 2, "it was spent in two places"
    boxes = house.box("ann")
    assert len(boxes) == 4 and sum(b"Auto-Submitted: auto-generated" in text for text in boxes) == 1


def test_vacation_knows_the_address_first_asked_for_from_servers_of_ours() -> None:
    told = MAIL.replace(b"To: ann@here.example", b"X-Original-To: old@there.example\r\nTo: old@there.example")
    assert told != MAIL
    for profile, data, answers in (
        (Profile.LMTP, told, 1),
        (Profile.LMTP, told.replace(b"X-Original-To", b"X-Other"), 0),
        (Profile.MX, told, 0),
    ):
        house = House()
        house.script("ann", 'require "vacation"; vacation "Away.";')
        send(house, ANN, data=data, profile=profile)
        assert len(house.box("ann")) == 1 and len(house.spool.outgoing) == answers, (profile, data)
        assert all(b"\nFrom: ann@here.example\r\n" in b"\n" + one.data for one in house.spool.outgoing)


def test_the_address_first_asked_for_is_believed_of_servers_of_ours() -> None:
    script = 'require ["envelope", "fileinto"]; if envelope "orig_to" "old@there.example" { fileinto "Old"; }'
    told = MAIL.replace(b"To: ann", b"X-Original-To: old@there.example\r\nTo: ann")
    for profile, where in ((Profile.MX, "INBOX"), (Profile.LMTP, "Old")):
        house = House()
        house.script("ann", script)
        send(house, ANN, data=told, profile=profile)
        assert len(house.box("ann", where)) == 1, profile
