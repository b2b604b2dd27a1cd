"""NOTIFY: which changes are told without asking. Specification: RFC 5465 3 and 8. Complete as ``filterd.imap.notify`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import acl, boxes, fetch_items
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad, No
from filterd.imap.ext.base import Extension
from filterd.imap.fetch import Plan
from filterd.imap.notify import (
    FLAG_CHANGE,
    MAILBOX_METADATA,
    MAILBOX_NAME,
    MESSAGE_EXPUNGE,
    MESSAGE_NEW,
    OVERFLOW,
    SERVER_METADATA,
    SUBSCRIPTION,
    Group,
    Notify,
    Selected,
)
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER
from filterd.store.base import NoSuchMailbox

if TYPE_CHECKING:
    from filterd.imap.session import Session

_MAX_GROUPS = 100
_MESSAGE = frozenset((MESSAGE_NEW, MESSAGE_EXPUNGE, FLAG_CHANGE))
_KNOWN = _MESSAGE | {MAILBOX_NAME, SUBSCRIPTION, MAILBOX_METADATA, SERVER_METADATA}
_OFFERED = "MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange MailboxMetadataChange ServerMetadataChange"
_SELECTED = {b"SELECTED": False, b"SELECTED-DELAYED": True}


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    word = p.word()
    if word == b"NONE":
        p.end()
        return lambda call: _none(call)
    if word != b"SET":
        raise Bad("Expected SET or NONE")
    status = p.take(b" STATUS ")
    if not status:
        p.sp()
    groups: list[Group] = []
    selected: Selected | None = None
    while True:
        found = _group(p, acl.others(session))
        if isinstance(found, Group):
            groups.append(found)
        elif selected is not None:
            raise Bad("One SELECTED at most")
        else:
            selected = found
        if len(groups) > _MAX_GROUPS:
            raise Bad("Too many groups")
        if not p.more():
            break
    p.end()
    return lambda call: _set(call, Notify(tuple(groups), selected), status)


def _none(call: Call) -> str:
    call.session.set_notify(Notify((), None))
    return "NOTIFY completed"


def _set(call: Call, notify: Notify, tell: bool) -> Steps:
    session = call.session
    found = notify.begin(call.store, session.config.limits.notify_mailboxes)
    if found is None:
        # RFC 5465 5.8: as after NOTIFY NONE.
        call.write(OVERFLOW)
        return _none(call)
    for info in found:
        try:
            for line in notify.note(
                session, call.store, info, tell and not _is_selected(session, notify, info.id)
            ):
                call.write(line)
        except NoSuchMailbox:
            pass
        yield
    session.set_notify(notify)
    return "NOTIFY completed"


def _is_selected(session: Session, notify: Notify, mid: str) -> bool:
    return notify.selected is not None and session.view is not None and session.view.mailbox_id == mid


def _group(p: Parser, others: tuple[str, ...]) -> Group | Selected:
    p.open()
    for word, delayed in sorted(_SELECTED.items(), reverse=True):
        if p.take(word + b" "):
            events, plan = _events(p)
            if not events <= _MESSAGE:
                raise Bad("Only events of messages with SELECTED")
            _close(p)
            return Selected(delayed, events, plan)
    where = boxes.parse(p, boxes.ALL_KINDS, others)
    p.sp()
    events, plan = _events(p)
    if plan is not None:
        raise Bad("Items only with SELECTED")
    _close(p)
    return Group(where, events)


def _close(p: Parser) -> None:
    if not p.close():
        raise Bad("Expected )")


def _events(p: Parser) -> tuple[frozenset[bytes], Plan | None]:
    if p.peek() != b"(":
        p.expect(b"NONE")
        return frozenset(), None
    found: set[bytes] = set()
    plan: Plan | None = None
    p.open()
    while True:
        event = p.atom().upper()
        if event not in _KNOWN:
            raise No("Unknown event", f"BADEVENT ({_OFFERED})")
        found.add(event)
        if p.take(b" ("):
            if event != MESSAGE_NEW:
                raise Bad("Items only with MessageNew")
            p.at -= 1
            plan = fetch_items.parse(p)
            plan.seen = False  # the client has not looked at it
        if p.close():
            break
        p.sp()
    # RFC 5465 5: news of messages come together, for flags they must be known.
    if (MESSAGE_NEW in found) != (MESSAGE_EXPUNGE in found) or (
        FLAG_CHANGE in found and MESSAGE_NEW not in found
    ):
        raise Bad("MessageNew and MessageExpunge go together, FlagChange needs both")
    return frozenset(found), plan


NOTIFY = Extension(5465, (b"NOTIFY",), (Spec(b"NOTIFY", AFTER, parse),))
