"""ENABLE: CONDSTORE, QRESYNC, UTF8=ACCEPT, IMAP4rev2, UIDONLY.

Specification: RFC 5161, RFC 9051 6.3.1, RFC 6855 3, RFC 7162 3.2.3, RFC 9586. Complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session

_MAX = 32


def parse(p: Parser, session: Session, uid: bool) -> Run:
    wanted: list[bytes] = []
    while p.more() and len(wanted) < _MAX:
        wanted.append(p.atom().upper())
    if not wanted:
        p.sp()
    p.end()

    def run(call: Call) -> str:
        done = [word for word in wanted if _enable(session, word)]
        session.fetch_memo = None  # the same words may ask for something else now
        call.write(b"* ENABLED%b\r\n" % b"".join(b" " + word for word in done))
        return "ENABLE completed"

    return run


def _enable(session: Session, word: bytes) -> bool:
    match word:
        case b"CONDSTORE":
            session.condstore = True
        case b"QRESYNC":
            session.qresync = session.condstore = True  # RFC 7162 3.2.3
        case b"UTF8=ACCEPT":
            session.utf8 = True
        case b"IMAP4REV2":
            session.rev2 = True
        case b"UIDONLY":
            session.uidonly = True
        case _:
            return False
    return True


ENABLE = Extension(5161, (b"ENABLE",), (Spec(b"ENABLE", AFTER, parse, store=False),), early=True)
