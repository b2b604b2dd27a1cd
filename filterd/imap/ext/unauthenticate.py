"""UNAUTHENTICATE: a new login on the same connection. Specification: RFC 8437. Complete. Not under COMPRESS (its section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> str:
        if session.compressed:
            raise Bad("Not while compressed")
        session.unauthenticate()
        return "Logged out; log in again"

    return run


UNAUTHENTICATE = Extension(
    8437,
    (b"UNAUTHENTICATE",),
    (Spec(b"UNAUTHENTICATE", AFTER, parse, store=False),),
    when=lambda session: not session.compressed,
)
