"""NAMESPACE: one personal namespace. Specification: RFC 2342. Complete."""

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

    def run(call: Call) -> str:
        call.write(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
        return "NAMESPACE completed"

    return run


NAMESPACE = Extension(2342, (b"NAMESPACE",), (Spec(b"NAMESPACE", AFTER, parse, store=False),))
