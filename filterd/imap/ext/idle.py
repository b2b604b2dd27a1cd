"""IDLE. Specification: RFC 2177. Complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> None:
        session.start_idle(call.tag)

    return run


IDLE = Extension(2177, (b"IDLE",), (Spec(b"IDLE", AFTER, parse, store=False),), early=True)
