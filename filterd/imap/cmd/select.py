"""SELECT and EXAMINE, with the parameters CONDSTORE and QRESYNC.

Specification: RFC 9051 6.3.2-3, RFC 3501 6.3.1-2, RFC 7162 3.1.8 and 3.2.5, RFC 8474 4.2. Complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.imap import acl, names, resync
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad
from filterd.imap.numset import NumSet
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER
from filterd.imap.view import View
from filterd.store.base import SEEN

if TYPE_CHECKING:
    from filterd.imap.session import Session


@dataclass(slots=True)
class Known:
    """What the client of QRESYNC knows."""

    uidvalidity: int
    modseq: int
    uids: NumSet | None = None
    numbered: bool = False  # it told message numbers, too


def parse_select(p: Parser, session: Session, uid: bool) -> Run:
    return _parse(p, session, read_only=False)


def parse_examine(p: Parser, session: Session, uid: bool) -> Run:
    return _parse(p, session, read_only=True)


def _parse(p: Parser, session: Session, *, read_only: bool) -> Run:
    p.sp()
    mailbox = p.mailbox()
    condstore, known = _parameters(p) if p.more() else (False, None)
    p.end()
    if known is not None and not session.qresync:
        raise Bad("ENABLE QRESYNC first")
    if known is not None and known.numbered and session.uidonly:
        raise Bad("Message numbers are not used after ENABLE UIDONLY", "UIDREQUIRED")

    def run(call: Call) -> str:
        if session.view is not None:
            call.write(b"* OK [CLOSED] Previous mailbox closed\r\n")  # RFC 7162 3.2.11: whatever is enabled
            session.close_view()
        session.condstore |= condstore or known is not None
        view = View(call.store.snapshot(mailbox), read_only, acl.rights(session, mailbox))
        _describe(call, view)
        if known is not None and known.uidvalidity == view.snapshot.info.uidvalidity:
            resync.write(call, view, known.modseq, known.uids)
        session.open(view)
        return "[READ-ONLY] Opened" if view.read_only else "[READ-WRITE] Opened"

    return run


def _parameters(p: Parser) -> tuple[bool, Known | None]:
    condstore, known = False, None
    p.open()
    while True:
        word = p.word()
        if word == b"CONDSTORE":
            condstore = True
        elif word == b"QRESYNC":
            p.sp()
            known = _known(p)
        else:
            raise Bad("Unknown parameter")
        if p.close():
            return condstore, known
        p.sp()


def _known(p: Parser) -> Known:
    p.open()
    uidvalidity = p.number()
    p.sp()
    known = Known(uidvalidity, p.modseq())
    if p.more() and p.peek() != b"(":
        known.uids = p.set()
        if known.uids.saved:
            raise Bad("Not $ here")
        p.more()
    if p.peek() == b"(":  # message numbers with their UIDs: a hint that we do not need
        p.open()
        p.set()
        p.sp()
        p.set()
        known.numbered = True
        if not p.close():
            raise Bad("Expected )")
    if not p.close():
        raise Bad("Expected )")
    return known


def _describe(call: Call, view: View) -> None:
    session, snapshot = call.session, view.snapshot
    call.write(view.describe_flags())
    call.write(b"* %d EXISTS\r\n" % len(snapshot.uids))
    if not session.rev2:
        call.write(b"* 0 RECENT\r\n")
        first = next((at for at, mask in enumerate(snapshot.flags) if not mask & SEEN), -1)
        if first >= 0 and not session.uidonly:
            call.write(b"* OK [UNSEEN %d] First unseen\r\n" % (first + 1))
    call.write(b"* OK [UIDVALIDITY %d] UIDs valid\r\n" % snapshot.info.uidvalidity)
    call.write(b"* OK [UIDNEXT %d] Next UID\r\n" % snapshot.uidnext)
    call.write(b"* OK [HIGHESTMODSEQ %d] Highest\r\n" % snapshot.modseq)
    call.write(b"* OK [MAILBOXID (%b)] Mailbox\r\n" % snapshot.info.id.encode("ascii", "replace"))
    if session.rev2:
        # RFC 9051 6.3.2: the LIST response tells the name as the server spells it.
        call.write(b'* LIST () "/" %b\r\n' % names.encode(snapshot.info.name, True))


SELECT = Spec(b"SELECT", AFTER, parse_select, look=False)
EXAMINE = Spec(b"EXAMINE", AFTER, parse_examine, look=False)
