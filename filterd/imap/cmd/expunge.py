"""EXPUNGE and UID EXPUNGE. Specification: RFC 9051 6.4.3 and 6.4.9, RFC 4315, RFC 7162 3.2.7. Complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import limit, numset
from filterd.imap.call import Call, Run, Spec
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    wanted = None
    if uid:
        p.sp()
        wanted = p.set()
    p.end()

    def run(call: Call) -> str:
        view = call.writable()
        # Only what the client has seen may go: a message that arrived meanwhile has no number here.
        uids = (
            view.uids if wanted is None else limit.expunged(call, numset.pick(view.uids, call.spans(wanted)))
        )
        removed = call.store.expunge(view.mailbox, uids)
        if removed and session.qresync:
            for line in view.refresh(call.store, expunge=True, style=session.style(True)):
                call.write(line)
            return f"[HIGHESTMODSEQ {view.snapshot.modseq}] Expunged"
        return "Expunged"

    return run


EXPUNGE = Spec(b"EXPUNGE", SELECTED, parse, uid=True, own=True)
