"""COPY and MOVE, by number and by UID.

Specification: RFC 9051 6.4.7-8, RFC 4315 (COPYUID), RFC 6851 (MOVE). Complete. A copy is all or nothing; a move claims each
message in the store, so that two sessions moving the same one do not double it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import events, limit, numset
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import No
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED
from filterd.imap.work import translate
from filterd.store.base import Copied, NoSuchMailbox

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse_copy(p: Parser, session: Session, uid: bool) -> Run:
    return _parse(p, move=False)


def parse_move(p: Parser, session: Session, uid: bool) -> Run:
    return _parse(p, move=True)


def _parse(p: Parser, *, move: bool) -> Run:
    p.sp()
    wanted = p.set()
    p.sp()
    mailbox = p.mailbox()
    p.end()

    def run(call: Call) -> str:
        view = call.writable() if move else call.view
        uids = numset.pick(view.uids, call.spans(wanted))
        if move:
            uids = limit.uids(call, uids)
        else:
            limit.save(call, len(uids), uids)
        try:
            target = call.store.info(mailbox)
            if move and target.id == view.mailbox_id:
                raise No("The messages are in that mailbox already", "CANNOT")
            transfer = call.store.move if move else call.store.copy
            copied = transfer(view.mailbox, uids, mailbox)
        except NoSuchMailbox as error:
            raise translate(error, create=True) from None
        if not copied.uids:
            if uids:
                raise No("The messages are gone", "EXPUNGEISSUED")
            return "Nothing to do"
        events.copied(call, view.mailbox, copied, move=move)
        code = copyuid(copied)
        if not move:
            return f"[{code}] Copied"
        # RFC 6851 4.3: COPYUID comes before the EXPUNGE responses, in an untagged OK.
        call.write(b"* OK [%b] Moved\r\n" % code.encode("ascii"))
        for line in view.refresh(call.store, expunge=True, style=call.session.style(call.uid)):
            call.write(line)
        return f"[HIGHESTMODSEQ {view.snapshot.modseq}] Moved" if call.session.qresync else "Moved"

    return run


def copyuid(copied: Copied) -> str:
    sources = numset.render(copied.source_uids).decode("ascii")
    uids = numset.render(copied.uids).decode("ascii")
    return f"COPYUID {copied.destination.uidvalidity} {sources} {uids}"


COPY = Spec(b"COPY", SELECTED, parse_copy, uid=True)
MOVE = Spec(b"MOVE", SELECTED, parse_move, uid=True, own=True)
