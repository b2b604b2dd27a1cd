"""ID. Specification: RFC 2971. Complete. What the client tells is read and not used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad
from filterd.imap.ext.base import Extension
from filterd.imap.names import astring
from filterd.imap.parse import Parser
from filterd.imap.state import ANY

if TYPE_CHECKING:
    from filterd.imap.session import Session

_MAX_FIELDS = 30  # RFC 2971 3.3


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    if p.peek() == b"(":
        _fields(p)
    else:
        p.expect(b"NIL")
    p.end()

    def run(call: Call) -> str:
        told = [(b"name", session.config.name), (b"version", session.config.version)]
        shown = b" ".join(b'"%b" %b' % (key, astring(value.encode("utf-8"))) for key, value in told if value)
        call.write(b"* ID (%b)\r\n" % shown if shown else b"* ID NIL\r\n")
        return "ID completed"

    return run


def _fields(p: Parser) -> None:
    p.open()
    p.blanks()  # aioimaplib says ID ( "name" "x" )
    count = 0
    while not p.close():
        p.string()
        p.sp()
        p.nstring()
        if p.peek() != b")":
            p.sp()
            p.blanks()
        count += 1
        if count > _MAX_FIELDS:
            raise Bad("Too many fields")


ID = Extension(2971, (b"ID",), (Spec(b"ID", ANY, parse, store=False),), early=True)
