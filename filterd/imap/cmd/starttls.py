"""STARTTLS. Specification: RFC 9051 6.2.1. Complete. Input read with it is dropped (command injection, RELIABILITY 3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad
from filterd.imap.parse import Parser
from filterd.imap.state import BEFORE

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()
    if session.tls or not session.config.tls:
        raise Bad("TLS is active already" if session.tls else "No TLS here")

    def run(call: Call) -> None:
        session.start_tls(call.tag)

    return run


STARTTLS = Spec(b"STARTTLS", BEFORE, parse, store=False)
