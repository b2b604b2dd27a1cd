"""From actions to plans: every recipient has an end, nothing is refused after it was kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.plan import Answer, Bounce, Drop, Execute, Refuse, Send, Store
from pipeline.planner import (
    PlanSettings,
    plan_from,
    quarantine_plan,
    reject_reply,
)
from pipeline.reply import Reply
from pipeline.verdict import Disposition, Verdict
from rules.actions import (
    Action,
    Discard,
    Fcc,
    FileInto,
    Keep,
    ListStore,
    Notify,
    Pipe,
    Place,
    Quarantine,
    Redirect,
    Reject,
    Remember,
    Report,
    RunResult,
    SetScore,
    Vacation,
)

ANN = Recipient("Ann@example.org", {"NOTIFY": "NEVER"}, account="ann@example.org")
AT = Place("main", 4)


def envelope(profile: Profile = Profile.MX, path: str = "bob@example.net", **params: str) -> Envelope:
    return Envelope(path, (ANN,), Client(), profile, params)


def plan(*actions: Action, where: Envelope | None = None, **settings: object):  # type: ignore[no-untyped-def]  # short here
    return plan_from(RunResult(list(actions)), ANN, where or envelope(), PlanSettings(**settings))  # type: ignore[arg-type]


VACATION = Vacation(
    "bob@example.net", "ann@example.org", "Away", "", b"reply", b"key", 86400, Fcc("Sent", ("\\Seen",))
)


def test_implicit_keep() -> None:
    made = plan(Keep(implicit=True))
    assert made.steps == (Store("INBOX"),) and made.outcome == "stored"
    assert made.decision == "INBOX because no rule said otherwise."


def test_fileinto_names_the_line() -> None:
    made = plan(FileInto("Junk", ("\\Seen",), create=True, place=AT))
    assert made.steps == (Store("Junk", ("\\Seen",), True, place=AT),)
    assert made.decision == 'Junk because line 4 of your script "main" filed it there.'


def test_the_same_mailbox_once_with_the_flags_of_both() -> None:
    made = plan(
        Keep(("a", "b")), FileInto("inbox", ("b", "c"), create=True), FileInto("Lists"), FileInto("Lists")
    )
    assert made.steps == (Store("INBOX", ("a", "b", "c"), create=True), Store("Lists"))


def test_another_text_is_another_message() -> None:
    made = plan(FileInto("A"), FileInto("A", message=b"edited"))
    assert made.steps == (Store("A"), Store("A", data=b"edited"))


def test_redirect_keeps_the_reverse_path_and_goes_once() -> None:
    made = plan(
        Redirect("x@Example.COM", notify="NEVER", place=AT),
        Redirect("x@example.com"),
        Redirect("X@example.com"),
    )
    assert [step.to for step in made.steps] == ["x@Example.COM", "X@example.com"]  # local parts have case
    assert made.steps[0] == Send("x@Example.COM", "bob@example.net", notify="NEVER", place=AT)
    assert made.outcome == "redirected" and "line 4" in made.decision


def test_redirect_to_oneself_is_keep() -> None:
    for address in ("ANN@EXAMPLE.ORG", "ann@example.org"):
        made = plan(Redirect(address, place=AT))
        assert made.steps == (Store("INBOX", place=AT),) and made.notes


def test_discard() -> None:
    made = plan(Discard(AT))
    assert isinstance(made.steps[0], Drop) and made.outcome == "discarded" and "line 4" in made.decision
    assert plan(Discard(AT), FileInto("A")).steps == (Store("A"),)


def test_vacation_goes_with_its_memory_and_its_copy() -> None:
    made = plan(Keep(implicit=True), VACATION)
    assert made.steps == (
        Store("INBOX"),
        Store("Sent", ("\\Seen",), data=b"reply", generated=True),
        Answer(("bob@example.net",), b"reply", "vacation"),
    )
    assert made.remember == {b"key": 86400} and made.outcome == "stored"


def test_a_copy_by_mailbox_id() -> None:
    action = replace(VACATION, fcc=Fcc("Sent", mailbox_id="F123"))
    copy = plan(Keep(implicit=True), action).steps[1]
    assert isinstance(copy, Store) and copy.mailbox_id == "F123" and copy.generated


def test_the_null_path_is_never_answered() -> None:
    made = plan(Keep(implicit=True), VACATION, where=envelope(path=""))
    assert made.steps == (Store("INBOX"),) and made.remember == {} and made.notes


def test_notify_and_report() -> None:
    mailto = Notify("mailto:x@y", ("x@y",), message=b"note")
    report = Report("abuse", "text", "abuse@example.com")
    made = plan(Keep(implicit=True), mailto, Notify("xmpp:x"), report)
    assert made.steps == (Store("INBOX"), Answer(("x@y",), b"note", "notify")) and len(made.notes) == 2
    made = plan(Keep(implicit=True), report, report=lambda action: action.message_text.encode())
    assert made.steps[1] == Answer(("abuse@example.com",), b"text", "report")


def test_what_is_remembered_and_listed() -> None:
    entry = ListStore("friends", "x@y")
    made = plan(
        Keep(implicit=True), Remember(b"a", 5), Remember(b"a", 9), Remember(b"b", 1), entry, SetScore(3)
    )
    assert made.remember == {b"a": 9, b"b": 1} and made.lists == (entry,)


def test_pipe_falls_back_to_the_mailbox() -> None:
    assert plan(Pipe("prog", ("x",))).steps == (Execute("prog", ("x",)),)


@pytest.mark.parametrize("profile", [Profile.MX, Profile.SUBMISSION, Profile.MILTER])
def test_reject_is_an_smtp_refusal_where_the_sender_waits(profile: Profile) -> None:
    made = plan(Reject("Go away\r\nplease", place=AT), where=envelope(profile))
    assert made.steps == (Refuse(Reply(550, "5.7.1", "Go away\nplease"), AT),)
    assert made.refusal is not None and made.refusal.render() == b"550-5.7.1 Go away\r\n550 5.7.1 please\r\n"
    assert made.outcome == "rejected"


def test_nothing_else_comes_of_a_rejected_message() -> None:
    made = plan(Reject("no"), VACATION, Remember(b"x", 1))
    assert len(made.steps) == 1 and made.remember == {} and "vacation" in made.notes[0]


@pytest.mark.parametrize("profile", [Profile.LMTP, Profile.DELIVER])
def test_behind_another_mta_a_reject_is_held(profile: Profile) -> None:
    made = plan(Reject("no", place=AT), where=envelope(profile))
    assert made.steps == (Store("Junk", create=True, special_use="\\Junk", quarantine=True, place=AT),)
    assert made.outcome == "quarantined"
    refused = plan(Reject("no"), where=envelope(profile), behind_mta="refuse")
    assert isinstance(refused.steps[0], Refuse)


def test_a_late_reject_bounces_only_to_a_verified_sender() -> None:
    late = plan(Reject("no"), can_refuse=False)
    assert isinstance(late.steps[0], Store) and late.steps[0].quarantine
    verified = plan(Reject("no"), can_refuse=False, sender_verified=True)
    assert verified.steps == (Bounce("bob@example.net", Reply(550, "5.7.1", "no")),)
    null = plan(Reject("no"), where=envelope(path=""), can_refuse=False, sender_verified=True)
    assert isinstance(null.steps[0], Store)


def test_a_reject_beside_a_kept_copy_is_not_carried_out() -> None:
    made = plan(FileInto("A"), Reject("no"))
    assert made.steps == (Store("A"),) and "reject left out" in made.notes[0]


def test_a_failed_script_keeps_and_says_so() -> None:
    made = plan_from(RunResult([Keep(implicit=True)], error="line 3: too many redirects"), ANN, envelope())
    assert made.steps == (Store("INBOX"),)
    assert made.decision == "INBOX because your script failed: line 3: too many redirects"


@pytest.mark.parametrize(
    ("reason", "smtputf8", "text"),
    [
        ("no", False, "no"),
        ("", False, "The recipient does not accept this message"),
        ("grüß", False, "The recipient does not accept this message"),
        ("grüß", True, "grüß"),
        ("a\n\n b \0\x07c", False, "a\nb   c"),
        ("x" * 900, False, "x" * 400),
        ("\n".join("abcdefghijklmnopqrstuvwxyz"), False, "\n".join("abcdefghijklmnopqrst")),
    ],
)
def test_the_reason_fits_into_a_reply(reason: str, smtputf8: bool, text: str) -> None:
    assert reject_reply(reason, smtputf8) == Reply(550, "5.7.1", text)


def test_a_message_level_quarantine() -> None:
    held = quarantine_plan(ANN, Verdict("clamav", Disposition.QUARANTINE, "found", "Eicar"))
    assert held.steps == (Store("Junk", create=True, special_use="\\Junk", quarantine=True),)
    assert held.decision == "Junk because clamav held it: Eicar." and held.outcome == "quarantined"


def test_a_script_that_holds_a_message() -> None:
    made = plan(Quarantine("odd", AT), Quarantine("again"))
    assert made.steps == (Store("Junk", create=True, special_use="\\Junk", place=AT, quarantine=True),)
    assert (made.outcome, made.held_by) == ("quarantined", "sieve")
    assert made.decision == 'Junk because line 4 of your script "main" held it: odd.'
    both = plan(Redirect("x@y.example"), Quarantine("odd", AT), quarantine="Quarantine", quarantine_use=None)
    assert [type(step) for step in both.steps] == [Store, Send] and both.held_by == "sieve"
    assert both.steps[0] == Store("Quarantine", create=True, place=AT, quarantine=True)


boxes = st.sampled_from(["INBOX", "inbox", "A", "B"])
texts = st.none() | st.just(b"edited")
actions = st.one_of(
    st.builds(Keep, implicit=st.booleans(), message=texts),
    st.builds(FileInto, boxes, message=texts, create=st.booleans()),
    st.builds(Redirect, st.sampled_from(["x@y.example", "ann@example.org"]), message=texts),
    st.builds(Reject, st.text(max_size=5)),
    st.just(Discard()),
    st.just(VACATION),
    st.builds(Notify, st.just("m"), message=texts),
    st.builds(Remember, st.binary(max_size=2), st.integers(1, 9)),
    st.just(Pipe("p")),
    st.just(SetScore(1)),
    st.just(Quarantine("q")),
)
ENDS = (Store, Send, Refuse, Bounce, Drop, Execute)


@settings(deadline=None)
@given(
    st.lists(actions, max_size=7),
    st.sampled_from(Profile),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "bob@example.net"]),
)
def test_every_recipient_has_an_end(
    chosen: list[Action], profile: Profile, can_refuse: bool, verified: bool, path: str
) -> None:
    made = plan(*chosen, where=envelope(profile, path), can_refuse=can_refuse, sender_verified=verified)
    ends = [step for step in made.steps if isinstance(step, ENDS) and not getattr(step, "generated", False)]
    assert ends and made.outcome and made.decision
    # what was to be kept or sent is kept or sent, each place once
    for action in chosen:
        match action:
            case Keep():
                assert any(isinstance(step, Store) and step.mailbox == "INBOX" for step in ends)
            case FileInto():
                name = "INBOX" if action.mailbox == "inbox" else action.mailbox
                assert any(
                    isinstance(step, Store) and (step.mailbox, step.data) == (name, action.message)
                    for step in ends
                )
            case Redirect(address="x@y.example"):
                assert any(isinstance(step, Send) and step.data == action.message for step in ends)
    places = [(step.mailbox, step.data) for step in ends if isinstance(step, Store)]
    assert len(set(places)) == len(places)
    # never refused and kept
    if any(isinstance(step, Refuse | Bounce) for step in made.steps):
        assert len(made.steps) == 1
    # dropped only when nothing else
    if any(isinstance(step, Drop) for step in ends):
        assert len(ends) == 1 and any(isinstance(action, Discard) for action in chosen)
    if not path:
        assert not any(isinstance(step, Answer) and step.why == "vacation" for step in made.steps)
