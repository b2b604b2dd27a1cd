"""FETCH and UID FETCH with their modifiers.

Specification: RFC 9051 6.4.5, RFC 7162 3.1.4 (CHANGEDSINCE) and 3.2.6 (VANISHED), RFC 9394 3.4 (PARTIAL). Complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from filterd.imap import columns, fetch, fetch_items, limit, numset, one, resync
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad
from filterd.imap.fetch import Plan
from filterd.imap.numset import NumSet
from filterd.imap.parse import Parser
from filterd.imap.partial import Partial
from filterd.imap.state import SELECTED
from filterd.imap.wire import Command
from filterd.imap.work import Work

if TYPE_CHECKING:
    from filterd.imap.session import Session


_MEMO = 1_000  # octets of a command that is remembered


@dataclass(frozen=True, slots=True)
class Modifiers:
    changed_since: int | None = None
    vanished: bool = False
    partial: Partial | None = None


_NONE = Modifiers()


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    wanted = p.set()
    p.sp()
    plan, modifiers = _wanted(p, session)
    if modifiers.vanished and not (uid and session.qresync and modifiers.changed_since is not None):
        raise Bad("VANISHED needs QRESYNC, UID FETCH and CHANGEDSINCE")
    if modifiers.partial is not None and not uid:
        raise Bad("PARTIAL needs UID FETCH")

    return partial(_run, wanted, plan, modifiers)


def again(session: Session, command: Command) -> Work | None:
    """One message in the words of the last FETCH, which are not read again; None: something else."""
    memo, text = session.fetch_memo, command.parts[0]
    if memo is None or not text.endswith(memo.words) or len(command.parts) > 1:
        return None
    found = one.number_in(text, memo.words)
    if found is None or session.view is None or session.uidonly or memo.modifiers is not _NONE:
        return None
    uid, number = found
    call = Call(session, command.tag, uid)
    run = partial(_run, NumSet(((number, number),)), memo.plan.copy(), _NONE)
    whole = partial(memo.whole[uid].tell, call, number) if memo.whole is not None else None
    return Work(call, run, FETCH, whole)


def _run(wanted: NumSet, plan: Plan, modifiers: Modifiers, call: Call) -> Steps:
    session = call.session
    if modifiers.changed_since is not None:
        session.condstore = True
        plan.add(columns.MODSEQ)
    session.condstore |= columns.MODSEQ in plan.columns
    spans = _narrow(call, wanted, call.spans(wanted), modifiers)
    return fetch.run(call, plan, spans)


def _wanted(p: Parser, session: Session) -> tuple[Plan, Modifiers]:
    """Items and modifiers. Clients ask for one message after the other in the same words: the last ones are remembered."""
    words = p.rest()
    memo = session.fetch_memo
    if memo is not None and words is not None and memo.words == words:
        return memo.plan.copy(), memo.modifiers
    plan = fetch_items.parse(p)
    modifiers = _modifiers(p) if p.more() else _NONE
    p.end()
    if words is not None and len(words) <= _MEMO:
        session.fetch_memo = one.Memo.of(words, plan.copy(), modifiers)
    return plan, modifiers


def _modifiers(p: Parser) -> Modifiers:
    changed_since, vanished, partial = None, False, None
    p.open()
    while True:
        word = p.word()
        if word == b"CHANGEDSINCE":
            p.sp()
            changed_since = p.modseq()
        elif word == b"VANISHED":
            vanished = True
        elif word == b"PARTIAL":
            p.sp()
            partial = Partial.parse(p)
        else:
            raise Bad("Unknown modifier")
        if p.close():
            return Modifiers(changed_since, vanished, partial)
        p.sp()


def _narrow(call: Call, wanted: NumSet, spans: numset.Spans, modifiers: Modifiers) -> numset.Spans:
    view = call.view
    if modifiers.changed_since is not None:
        if modifiers.vanished:
            gone = resync.vanished(call, view, modifiers.changed_since, wanted)
            if gone:
                call.write(b"* VANISHED (EARLIER) %b\r\n" % gone)
        changed = resync.changed_uids(call, view, modifiers.changed_since)
        inside = set(numset.positions(spans))
        at = [view.number_of(uid) - 1 for uid in changed]
        spans = numset.merge([(place, place + 1) for place in at if place in inside])
    if modifiers.partial is not None:
        limit.window(call, modifiers.partial)
        places = modifiers.partial.cut(list(numset.positions(spans)))
        spans = numset.merge([(place, place + 1) for place in places])
    return limit.spans(call, spans)


FETCH = Spec(b"FETCH", SELECTED, parse, expunge=False, uid=True, still=True, quick=True)
