"""THREAD and UID THREAD. Specification: RFC 5256 (ORDEREDSUBJECT, REFERENCES). Complete."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from filterd.imap import subject, threading
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad
from filterd.imap.ext.base import Extension
from filterd.imap.ext.sort import Cached
from filterd.imap.parse import Parser
from filterd.imap.search import Searcher
from filterd.imap.search_keys import KeyParser, parse_charset
from filterd.imap.state import SELECTED
from filterd.imap.threading import Node
from rules.comparator import unicode_casemap

if TYPE_CHECKING:
    from filterd.imap.session import Session

_ALGORITHMS = {
    b"ORDEREDSUBJECT": threading.ordered_subject,
    b"REFERENCES": threading.references,
    b"REFS": threading.refs,
}


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    algorithm = _ALGORITHMS.get(p.word())
    if algorithm is None:
        raise Bad("Unknown threading algorithm")
    p.sp()
    charset = parse_charset(p)
    p.sp()
    keys = KeyParser(p, charset)
    key = keys.keys()
    p.end()

    def run(call: Call) -> Steps:
        session.condstore |= keys.modseq
        places: Sequence[int] = range(len(call.view))
        found = yield from Searcher(call, session.clock.time()).run(key, places)
        nodes = yield from _nodes(call, found)
        shown = threading.render(algorithm(nodes))
        call.write(b"* THREAD%b\r\n" % (b" " + shown if shown else b""))
        return "THREAD completed"

    return run


def _nodes(call: Call, places: Sequence[int]) -> Generator[None, None, list[Node]]:
    nodes: list[Node] = []
    limit = call.session.config.limits.rows
    by_uid = call.uid or call.session.uidonly
    for start in range(0, len(places), limit):
        view = call.view
        uids = [view.uids[place] for place in places[start : start + limit]]
        for row in call.store.rows(view.mailbox, uids, True):
            cached = Cached(call, row)
            message = cached.message
            base, answer = subject.base(message.subject())
            parents = message.message_ids(b"references")[-1000:] or message.message_ids(b"in-reply-to")[:1]
            number = row.uid if by_uid else view.number_of(row.uid)
            nodes.append(
                Node(
                    number,
                    cached.sent(),
                    unicode_casemap(base),
                    answer,
                    threading.unquoted(message.message_id()),
                    [threading.unquoted(parent) for parent in parents],
                )
            )
        yield
    return nodes


THREAD = Extension(
    5256,
    (b"THREAD=ORDEREDSUBJECT", b"THREAD=REFERENCES", b"THREAD=REFS"),
    (Spec(b"THREAD", SELECTED, parse, expunge=False, uid=True, still=True),),
)
