"""FILTER and UID FILTER: run a Sieve script over messages that are here.

Specification: Pigeonhole's draft of FILTER=SIEVE, as its plugin does it. Complete. ``FILTER SIEVE`` DELIVERY | PERSONAL name |
GLOBAL name | SCRIPT text, then search keys. A message that a script did something with is told with OK, one that it failed for with
ERRORS; one that is not kept is marked ``\\Deleted``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.imap import acl, names
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad, No
from filterd.imap.ext.base import Extension
from filterd.imap.filtering import Filter, Filtered
from filterd.imap.parse import Parser
from filterd.imap.search import Searcher
from filterd.imap.search_keys import decode, parse_keys
from filterd.imap.state import SELECTED
from filterd.imap.work import Work

if TYPE_CHECKING:
    from filterd.imap.session import Session

_KINDS = (b"DELIVERY", b"PERSONAL", b"GLOBAL", b"SCRIPT")


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    p.expect(b"SIEVE")
    p.sp()
    kind = p.word()
    if kind not in _KINDS:
        raise Bad("DELIVERY, PERSONAL, GLOBAL or SCRIPT")
    p.sp()
    text = ""
    if kind != b"DELIVERY":
        raw = p.string() if kind == b"SCRIPT" else p.astring()
        text = decode(raw, "utf-8") if kind == b"SCRIPT" else p.name(raw)
        p.sp()
    keys, key = parse_keys(p)
    if not _possible(session):
        raise No("Not possible here")  # the answer, FILTERED, begins with a message number

    def run(call: Call) -> Steps:
        session.condstore |= keys.modseq
        view, account = call.writable(), session.account
        if acl.foreign(session, view.mailbox):
            raise No("Scripts run on one's own mailboxes", "CANNOT")
        places: Sequence[int] = range(len(view))
        found = yield from Searcher(call, session.clock.time()).run(key, places)
        uids = tuple(view.uids[place] for place in found)
        assert account is not None
        call.later = True
        session.filter(
            Filter(call.tag, call.uid, account.id, call.view.mailbox, uids, kind.decode("ascii"), text)
        )
        return ""

    return run


def told(session: Session, request: Filter, result: Filtered) -> Work:
    """The rest of the command, when the script has run."""

    def run(call: Call) -> str:
        tag = names.astring(request.tag)
        if result.missing:
            raise No("There is no such script", "NONEXISTENT")
        if result.fault:
            call.write(b"* FILTER (TAG %b) ERRORS %b\r\n" % (tag, names.literal(_crlf(result.fault))))
            raise No("The script does not compile")
        view = call.view
        for uid, fault in result.messages:
            number = view.number_of(uid)
            if number:
                what = b"ERRORS " + names.literal(_crlf(fault)) if fault else b"OK"
                call.write(b"* %d FILTERED (TAG %b) UID %d %b\r\n" % (number, tag, uid, what))
        return "Filter completed"

    return Work(Call(session, request.tag, request.uid), run, _REST)


def _crlf(text: str) -> bytes:
    return "\r\n".join(text.splitlines()).encode("utf-8", "replace")


def _possible(session: Session) -> bool:
    return session.config.filters is not None and not session.uidonly


_REST = Spec(b"FILTER", SELECTED, parse, expunge=False, look=False)
FILTER = Extension(
    5228,
    (b"FILTER=SIEVE",),
    (Spec(b"FILTER", SELECTED, parse, expunge=False, uid=True),),
    when=_possible,
)
