"""From what a script decided to a plan (pipeline/plan.py states the promises that hold for every plan).

Specification: RFC 5228 2.10.1-2.10.6 and 4, RFC 5429 2 (reject, ereject), RFC 5230 4.2/5 (vacation), RFC 8580 (:fcc).

Refusals. A script's reject becomes an SMTP refusal where the client that waits for our reply is the sender's own (mx,
submission, milter) and no other recipient was accepted. Behind another MTA, or too late for that, it is a *late
reject* (HOUSE items 5 and 6): the message is held in quarantine; only a verified sender (SPF or aligned DKIM passed)
gets a bounce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.envelope import Envelope, Profile, Recipient
from pipeline.plan import INBOX, Answer, Bounce, Drop, Execute, Plan, Refuse, Send, Step, Store
from pipeline.reply import Reply
from pipeline.verdict import Verdict
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
    Vacation,
)

REASON_LINES = 20  # of a reject's reason that go into the SMTP reply
REASON_LINE = 400  # octets a line: RFC 5321 4.5.3.1.5 allows 512 with the codes and CRLF
UNSAYABLE = "The recipient does not accept this message"
JUNK_USE = "\\Junk"
BEHIND_MTA = frozenset({Profile.LMTP, Profile.DELIVER})


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """``default_mailbox``: of keep. ``quarantine``: the mailbox of what is held back, made when missing.

    ``behind_mta``: what a script's reject becomes for profiles lmtp and deliver: "late" or "refuse".
    ``can_refuse``: no recipient of this message was accepted before. ``sender_verified``: SPF or aligned DKIM passed.
    ``report``: composes an abuse report (RFC 5965) from the action; None when reports are not sent from here.
    """

    default_mailbox: str = INBOX
    quarantine: str = "Junk"
    quarantine_use: str | None = JUNK_USE
    behind_mta: str = "late"
    can_refuse: bool = True
    sender_verified: bool = False
    report: Callable[[Report], bytes] | None = None


@dataclass(slots=True)
class _Draft:
    """What was collected of a run's actions, by kind, in their order."""

    stores: list[Store] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    executes: list[Execute] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    copies: list[Store] = field(default_factory=list)  # :fcc
    reject: Reject | None = None
    discard: Discard | None = None
    held: Quarantine | None = None
    keep: Keep | None = None
    remember: dict[bytes, int] = field(default_factory=dict)
    lists: list[ListStore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_from(
    result: RunResult, recipient: Recipient, envelope: Envelope, settings: PlanSettings = PlanSettings()
) -> Plan:
    """The plan for one recipient whose scripts left ``result``."""
    draft = _Draft()
    for action in result.actions:
        _collect(draft, action, recipient, envelope, settings)
    if result.error is not None:
        draft.notes.append(f"script failed: {result.error}")
    ends: list[Step] = [*draft.stores, *draft.sends, *draft.executes]
    if draft.reject is not None:
        if not ends:
            return _rejected(draft, draft.reject, recipient, envelope, settings)
        draft.notes.append("reject left out: the message was also kept, filed or sent on")
    if not ends and draft.discard is not None:
        ends.append(Drop(_by("discarded", draft.discard.place), draft.discard.place))
    if not ends:  # RFC 5228 2.10.2: nothing cancelled the implicit keep
        draft.keep = Keep(implicit=True)
        ends.append(Store(settings.default_mailbox))
    return Plan(
        recipient=recipient,
        steps=(*ends, *draft.copies, *draft.answers),
        outcome=_outcome(ends),
        decision=_decision(ends[0], draft, result),
        remember=draft.remember,
        lists=tuple(draft.lists),
        notes=tuple(draft.notes),
        held_by="sieve" if draft.held is not None else "",
    )


def quarantine_plan(recipient: Recipient, verdict: Verdict, settings: PlanSettings = PlanSettings()) -> Plan:
    """A message-level QUARANTINE: no script runs, the message is held."""
    why = verdict.summary or verdict.result or "a check asked for it"
    store = _held(settings)
    return Plan(
        recipient,
        (store,),
        "quarantined",
        f"{store.mailbox} because {verdict.stage} held it: {why}.",
        held_by=verdict.stage,
    )


def _collect(
    draft: _Draft, action: Action, recipient: Recipient, envelope: Envelope, settings: PlanSettings
) -> None:
    match action:
        case Keep():
            draft.keep = draft.keep or action
            _store(
                draft, Store(settings.default_mailbox, action.flags, data=action.message, place=action.place)
            )
        case FileInto():
            _store(draft, _filed(action))
        case Redirect():
            _redirect(draft, action, recipient, envelope, settings)
        case Reject():
            draft.reject = draft.reject or action
        case Discard():
            draft.discard = draft.discard or action
        case Vacation():
            _vacation(draft, action, envelope)
        case Notify():
            _notify(draft, action)
        case Remember():
            draft.remember[action.key] = max(action.seconds, draft.remember.get(action.key, 0))
        case Pipe():
            draft.executes.append(
                Execute(
                    action.program,
                    action.arguments,
                    action.attempt,
                    settings.default_mailbox,
                    action.place,
                    action.message,
                )
            )
        case Report():
            if settings.report is None:
                draft.notes.append("report left out: abuse reports are not sent from here")
            else:
                draft.answers.append(Answer((action.to,), settings.report(action), "report", action.place))
        case ListStore():
            draft.lists.append(action)
        case Quarantine():  # a run that the milter door did not make (milter_sieve.py answers those): held here all the same
            draft.held = draft.held or action
            _store(draft, replace(_held(settings), place=action.place))
        case _:  # SetScore: evidence only
            pass


def _filed(action: FileInto) -> Store:
    return Store(
        mailbox=action.mailbox,
        flags=action.flags,
        create=action.create,
        data=action.message,
        special_use=action.special_use,
        mailbox_id=action.mailbox_id,
        place=action.place,
    )


def _box(name: str) -> str:
    return INBOX if name.upper() == INBOX else name  # RFC 3501 5.1: INBOX in any case


def _store(draft: _Draft, store: Store) -> None:
    """RFC 5228 2.10.3: the same text into the same mailbox is stored once, with the flags of both."""
    store = replace(store, mailbox=_box(store.mailbox))
    for at, known in enumerate(draft.stores):
        if _target(known) == _target(store) and known.data == store.data:
            flags = (*known.flags, *(flag for flag in store.flags if flag not in known.flags))
            draft.stores[at] = replace(known, flags=flags, create=known.create or store.create)
            return
    draft.stores.append(store)


def _target(store: Store) -> tuple[str, str | None, str | None]:
    return store.mailbox, store.special_use, store.mailbox_id


def _address_key(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


def _redirect(
    draft: _Draft, action: Redirect, recipient: Recipient, envelope: Envelope, settings: PlanSettings
) -> None:
    key = _address_key(action.address)
    own = {_address_key(recipient.address), _address_key(recipient.account)}
    if key.lower() in {one.lower() for one in own}:  # sent to oneself it would come back here for ever
        draft.notes.append("redirect to the recipient's own address: kept instead")
        draft.keep = draft.keep or Keep(place=action.place)
        _store(draft, Store(settings.default_mailbox, data=action.message, place=action.place))
        return
    if any(_address_key(known.to) == key and known.data == action.message for known in draft.sends):
        return
    draft.sends.append(
        Send(
            to=action.address,
            reverse_path=envelope.reverse_path,
            data=action.message,
            notify=action.notify,
            ret=action.ret,
            by_time=action.by_time,
            by_mode=action.by_mode,
            by_trace=action.by_trace,
            place=action.place,
        )
    )


def _vacation(draft: _Draft, action: Vacation, envelope: Envelope) -> None:
    if (
        not envelope.reverse_path
    ):  # RFC 5230 4.6, RFC 3834 2: never answer the null path, whatever the script says
        draft.notes.append("vacation left out: the reverse-path is null")
        return
    draft.answers.append(Answer((action.to,), action.message, "vacation", action.place))
    draft.remember[action.memory_key] = max(action.memory_seconds, draft.remember.get(action.memory_key, 0))
    _copy(draft, action.fcc, action.message, action.place)


def _notify(draft: _Draft, action: Notify) -> None:
    if action.message is None or not action.recipients:
        draft.notes.append(f"notify left out: nothing here sends by {action.method!r}")
        return
    draft.answers.append(Answer(action.recipients, action.message, "notify", action.place))
    _copy(draft, action.fcc, action.message, action.place)


def _copy(draft: _Draft, fcc: Fcc | None, message: bytes, place: Place | None) -> None:
    if fcc is not None:
        draft.copies.append(
            Store(
                _box(fcc.mailbox),
                fcc.flags,
                fcc.create,
                message,
                fcc.special_use,
                fcc.mailbox_id,
                generated=True,
                place=place,
            )
        )


# -- refusals -----------------------------------------------------------------------------------------------------


def _rejected(
    draft: _Draft, action: Reject, recipient: Recipient, envelope: Envelope, settings: PlanSettings
) -> Plan:
    """Nothing else may come of a rejected message; what is remembered only counts when a delivery commits."""
    reply = reject_reply(action.reason, smtputf8="SMTPUTF8" in envelope.mail_params)
    dropped = [answer.why for answer in draft.answers]
    if dropped:
        draft.notes.append(f"left out beside a reject: {', '.join(dropped)}")
    behind = envelope.profile in BEHIND_MTA and settings.behind_mta != "refuse"
    step: Step
    if settings.can_refuse and not behind:
        step, outcome, verb = Refuse(reply, action.place), "rejected", "Refused"
    elif settings.sender_verified and envelope.reverse_path:
        step, outcome, verb = (
            Bounce(envelope.reverse_path, reply, action.place),
            "rejected",
            "Returned to its sender",
        )
        draft.notes.append("late reject: returned, the sender is verified")
    else:
        step = replace(_held(settings), place=action.place)
        outcome, verb = "quarantined", step.mailbox
        draft.notes.append("late reject: held back instead, a bounce could go to a forged sender")
    return Plan(
        recipient,
        (step,),
        outcome,
        f"{verb} because {_place(action.place)} rejected it.",
        notes=tuple(draft.notes),
        held_by="sieve" if outcome == "quarantined" else "",
    )


def _held(settings: PlanSettings) -> Store:
    return Store(settings.quarantine, create=True, special_use=settings.quarantine_use, quarantine=True)


def reject_reply(reason: str, smtputf8: bool = False) -> Reply:
    """550 5.7.1 with the script's reason, cut to what an SMTP reply may hold.

    RFC 5429 2.1.1: text that is not ASCII can only be said to a client that asked for SMTPUTF8 (RFC 6531 3.5).
    """
    text = "".join(
        char if char.isprintable() or char == "\n" else " " for char in reason.replace("\r\n", "\n")
    )
    lines = [_cut(line.strip()) for line in text.split("\n")]
    lines = [line for line in lines if line][:REASON_LINES]
    if not lines or not (smtputf8 or all(line.isascii() for line in lines)):
        return Reply(550, "5.7.1", UNSAYABLE)
    return Reply(550, "5.7.1", "\n".join(lines))


def _cut(line: str) -> str:
    return line.encode("utf-8", "replace")[:REASON_LINE].decode("utf-8", "ignore")


# -- words --------------------------------------------------------------------------------------------------------


def _outcome(ends: list[Step]) -> str:
    match ends[0]:
        case Store(quarantine=True):
            return "quarantined"
        case Store():
            return "stored"
        case Send():
            return "redirected"
        case Drop():
            return "discarded"
        case _:
            return "executed"


def _place(place: Place | None) -> str:
    return f'line {place.line} of your script "{place.script}"' if place is not None else "your script"


def _by(verb: str, place: Place | None) -> str:
    return f"{verb} by {_place(place)}"


def _decision(end: Step, draft: _Draft, result: RunResult) -> str:
    """One sentence: why the message is where it is."""
    keep, held = draft.keep, draft.held
    match end:
        case Store(quarantine=True) if held is not None:
            return f"{end.mailbox} because {_place(held.place)} held it: {held.reason}."
        case Store() if result.error is not None:
            return f"{end.mailbox} because your script failed: {result.error}"
        case Store() if keep is not None and keep.implicit and end.place is keep.place:
            return f"{end.mailbox} because no rule said otherwise."
        case Store():
            return f"{end.mailbox} because {_place(end.place)} filed it there."
        case Send():
            return f"Sent to {end.to} because {_place(end.place)} redirected it."
        case Drop():
            return f"Discarded because {_place(end.place)} said so."
        case Execute():
            return f"Handed to the program {end.program} because {_place(end.place)} said so."
        case _:
            return "Kept."
