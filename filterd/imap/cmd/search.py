"""SEARCH and UID SEARCH with RETURN options.

Specification: RFC 9051 6.4.4, RFC 4731 (ESEARCH), RFC 5182 (SAVE), RFC 7162 3.1.5, RFC 5267 (UPDATE),
RFC 9394 (PARTIAL), RFC 6203 (FUZZY), RFC 9738 (MESSAGELIMIT). Complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.imap import contexts, limit, result
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.parse import Parser
from filterd.imap.search import Searcher
from filterd.imap.search_keys import parse_keys
from filterd.imap.state import SELECTED
from filterd.store.ready import NotReady

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    options = result.parse_options(p)
    with result.saving(session, options):
        keys, key = parse_keys(p)
    result.require_fuzzy(options, keys.fuzzy)
    extended = options is not None or session.rev2

    def run(call: Call) -> Steps:
        if options is not None and options.update and call.at_once:
            raise NotReady("to be kept")
        session.condstore |= keys.modseq
        places: Sequence[int] = range(len(call.view))
        searcher = Searcher(call, session.clock.time())
        whole = yield from searcher.run(key, places)
        with result.saving(session, options):
            found = limit.found(call, options, whole)
        highest = 0
        if keys.modseq:
            highest = yield from result.highest_modseq(call, options, found)
        if options is not None and options.save:
            result.save(call, options, found)
        if extended:
            result.write_esearch(
                call, options or result.Options(all=True), found, highest, b"", searcher.relevancy
            )
        else:
            result.write_list(call, b"SEARCH", found, highest)
        if options is not None and options.update:
            contexts.keep(call, key, whole)
        return "SEARCH completed"

    return run


SEARCH = Spec(b"SEARCH", SELECTED, parse, expunge=False, uid=True, still=True, quick=True)
