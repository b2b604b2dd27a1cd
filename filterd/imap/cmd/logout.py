"""LOGOUT. Specification: RFC 9051 6.1.3. Complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.parse import Parser
from filterd.imap.state import ANY, State

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> str:
        call.write(b"* BYE Logging out\r\n")
        session.move(State.LOGOUT)
        return "LOGOUT completed"

    return run


LOGOUT = Spec(b"LOGOUT", ANY, parse, store=False)
