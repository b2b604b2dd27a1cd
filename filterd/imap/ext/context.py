"""CONTEXT=SEARCH and CONTEXT=SORT: RETURN (UPDATE), and CANCELUPDATE. Specification: RFC 5267. Complete.

The work is in ``filterd.imap.contexts``; a window of a result (PARTIAL) is that of RFC 9394.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED

if TYPE_CHECKING:
    from filterd.imap.session import Session

_MAX = 100


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    tags = [p.quoted()]
    while p.more() and len(tags) < _MAX:
        tags.append(p.quoted())
    p.end()

    def run(call: Call) -> str:
        watching = call.view.watching
        if watching is not None:
            watching.results = [result for result in watching.results if result.tag not in tags]
        return "No further updates"

    return run


CONTEXT = Extension(
    5267, (b"CONTEXT=SEARCH", b"CONTEXT=SORT"), (Spec(b"CANCELUPDATE", SELECTED, parse, expunge=False),)
)
