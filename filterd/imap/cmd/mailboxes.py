"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE.

Specification: RFC 9051 6.3.4-8, RFC 6154 3 (CREATE ... (USE (...))), RFC 8474 4.1 (MAILBOXID). Complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import names
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad, No
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER
from filterd.store.base import SEPARATOR, NoSuchMailbox
from filterd.store.names import SPECIAL_USES

if TYPE_CHECKING:
    from filterd.imap.session import Session


def create(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mailbox = p.mailbox()
    use = _use(p) if p.more() else ""
    p.end()

    def run(call: Call) -> str:
        # RFC 9051 6.3.4: a trailing separator says that names will be created under it; it is not part of the name.
        name = mailbox.removesuffix(SEPARATOR)
        _require_acceptable(name)
        if use and any(info.special_use == use for info in call.store.mailboxes()):
            raise No("Another mailbox has that use", "USEATTR")
        info = call.store.create(name, use)
        return f"[MAILBOXID ({info.id})] Created"

    return run


def _use(p: Parser) -> str:
    p.open()
    p.expect(b"USE")
    p.sp()
    p.open()
    use = ""
    while not p.close():
        if use:
            raise No("One use at most", "USEATTR")
        p.expect(b"\\")
        found = SPECIAL_USES.get("\\" + p.atom().decode("latin-1").lower())
        if found is None:
            raise No("That use is not kept here", "USEATTR")
        use = found
    if not p.close():
        raise Bad("Expected )")
    return use


def delete(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _one(p)

    def run(call: Call) -> str:
        try:
            info = call.store.info(mailbox)
        except NoSuchMailbox:
            if any(other.name.startswith(mailbox + SEPARATOR) for other in call.store.mailboxes()):
                raise No("There are mailboxes under it", "HASCHILDREN") from None
            raise
        if session.view is not None and session.view.mailbox_id == info.id:
            session.close_view()
        call.store.delete(mailbox)
        return "Deleted"

    return run


def rename(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    old = p.mailbox()
    p.sp()
    new = p.mailbox()
    p.end()

    def run(call: Call) -> str:
        target = new.removesuffix(SEPARATOR)
        _require_acceptable(target)
        call.store.rename(old, target)
        if session.view is not None and session.view.mailbox == old and old != "INBOX":
            session.view.mailbox = target
        if session.rev2 and old != "INBOX":
            # RFC 9051 6.3.9.7: the old name is told.
            call.write(
                b'* LIST () "/" %b ("OLDNAME" (%b))\r\n'
                % (names.encode(target, True), names.encode(old, True))
            )
        return "Renamed"

    return run


def subscribe(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _one(p)

    def run(call: Call) -> str:
        _require_acceptable(mailbox)
        call.store.subscribe(mailbox, True)
        return "Subscribed"

    return run


def unsubscribe(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _one(p)

    def run(call: Call) -> str:
        _require_acceptable(mailbox)
        call.store.subscribe(mailbox, False)
        return "Unsubscribed"

    return run


def _one(p: Parser) -> str:
    p.sp()
    mailbox = p.mailbox()
    p.end()
    return mailbox


def _require_acceptable(name: str) -> None:
    if not names.acceptable(name):
        raise No("That name cannot be used", "CANNOT")


CREATE = Spec(b"CREATE", AFTER, create)
DELETE = Spec(b"DELETE", AFTER, delete)
RENAME = Spec(b"RENAME", AFTER, rename)
SUBSCRIBE = Spec(b"SUBSCRIBE", AFTER, subscribe)
UNSUBSCRIBE = Spec(b"UNSUBSCRIBE", AFTER, unsubscribe)
