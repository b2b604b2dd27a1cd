"""CLOSE and UNSELECT. Specification: RFC 9051 6.4.1-2, RFC 3691, RFC 7162 3.2.11 (HIGHESTMODSEQ after CLOSE). Complete."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED
from filterd.store.base import NoPermission

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse_close(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> str:
        view = call.view
        removed: tuple[int, ...] = ()
        if not view.read_only:
            with suppress(NoPermission):  # RFC 4314 4: CLOSE succeeds without the right to expunge
                removed = call.store.expunge(view.mailbox)
        session.close_view()
        if removed and session.qresync:
            return f"[HIGHESTMODSEQ {call.store.snapshot(view.mailbox).modseq}] Closed"
        return "Closed"

    return run


def parse_unselect(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> str:
        session.close_view()
        return "Unselected"

    return run


CLOSE = Spec(b"CLOSE", SELECTED, parse_close, look=False)
UNSELECT = Spec(b"UNSELECT", SELECTED, parse_unselect, look=False, store=False)
