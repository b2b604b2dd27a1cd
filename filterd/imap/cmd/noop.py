"""NOOP and CHECK: hear what changed. Specification: RFC 9051 6.1.2, RFC 3501 6.4.1. Complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Run, Spec
from filterd.imap.parse import Parser
from filterd.imap.state import ANY, SELECTED

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()
    return lambda call: "Completed"


NOOP = Spec(b"NOOP", ANY, parse, look=False, quick=True)
CHECK = Spec(b"CHECK", SELECTED, parse, look=False, quick=True)
