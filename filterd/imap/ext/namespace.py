"""NAMESPACE: the personal one, other people's, and the public one (``filterd.imap.sharing``). Specification: RFC 2342. Complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import names
from filterd.imap.call import Call, Run, Spec
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.end()

    def run(call: Call) -> str:
        others = public = b"NIL"
        if session.shared is not None:
            spaces = [
                b"((%b))" % b" ".join((names.astring(p.encode()), b'"/"')) for p in session.shared.prefixes
            ]
            others, public = [*spaces, b"NIL"][:2]
        call.write(b'* NAMESPACE (("" "/")) %b %b\r\n' % (others, public))
        return "NAMESPACE completed"

    return run


NAMESPACE = Extension(2342, (b"NAMESPACE",), (Spec(b"NAMESPACE", AFTER, parse, store=False),))
