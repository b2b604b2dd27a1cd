"""I18NLEVEL=1 and LANGUAGE. Specification: RFC 5255 3 and 4.2. Complete; COMPARATOR is of level 2.

SEARCH finds what i;unicode-casemap calls equal (``search_keys.fold``), SORT and THREAD compare by it. The texts of answers are
English, which is what i-default asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import ANY

if TYPE_CHECKING:
    from filterd.imap.session import Session

_OURS = (b"EN", b"I-DEFAULT")
_MAX = 32


def parse(p: Parser, session: Session, uid: bool) -> Run:
    ranges: list[bytes] = []
    while p.more() and len(ranges) < _MAX:
        ranges.append(p.astring().upper())
    p.end()

    def run(call: Call) -> str:
        if not ranges:
            call.write(b"* LANGUAGE (%b)\r\n" % b" ".join(_OURS))
            return "These are the languages"
        chosen = next(filter(None, map(_matched, ranges)), None)
        if chosen is None:
            raise No("Only English is spoken here")
        call.write(b"* LANGUAGE (%b)\r\n" % chosen)
        return "English it is"

    return run


def _matched(wanted: bytes) -> bytes | None:
    """RFC 4647 3.3.1, and DEFAULT of RFC 5255 3.2."""
    if wanted in (b"DEFAULT", b"*"):
        return _OURS[1]
    return next((tag for tag in _OURS if tag == wanted or wanted.startswith(tag + b"-")), None)


I18N = Extension(5255, (b"I18NLEVEL=1",))
LANGUAGE = Extension(5255, (b"LANGUAGE",), (Spec(b"LANGUAGE", ANY, parse, store=False),))
