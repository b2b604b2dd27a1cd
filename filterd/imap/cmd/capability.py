"""CAPABILITY. Specification: RFC 9051 6.1.1. Complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.parse import Parser
from filterd.imap.state import ANY

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> str:
        call.write(b"* CAPABILITY %b\r\n" % session.capabilities())
        return "CAPABILITY completed"

    return run


CAPABILITY = Spec(b"CAPABILITY", ANY, parse, store=False)
