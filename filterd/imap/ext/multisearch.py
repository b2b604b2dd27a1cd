"""ESEARCH: one search in many mailboxes. Specification: RFC 7377. Complete; there are no scope options.

Answers are UIDs, one ESEARCH response for each mailbox in which something was found. The selected mailbox is searched as the
session sees it, the others as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from filterd.imap import acl, boxes, names, result
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad, No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.search import Searcher
from filterd.imap.search_keys import And, Key, Not, Numbers, Or, parse_keys
from filterd.imap.state import AFTER
from filterd.imap.view import View
from filterd.store.base import AccountStore, NoSuchMailbox

if TYPE_CHECKING:
    from filterd.imap.session import Session

_KINDS = boxes.ALL_KINDS | {b"SELECTED", b"SUBTREE-ONE"}
_MAX_FILTERS = 100


class Elsewhere(Call):
    """A call that sees another mailbox."""

    __slots__ = ("_host", "_other")

    def __init__(self, host: Call, view: View) -> None:
        super().__init__(host.session, host.tag, True)
        self._host = host
        self._other = view

    @property
    def store(self) -> AccountStore:
        return self._host.store

    @property
    def view(self) -> View:
        return self._other

    def costs(self, nanoseconds: int) -> None:
        self._host.costs(nanoseconds)

    def write(self, data: bytes) -> None:
        self._host.write(data)

    @property
    def full(self) -> bool:
        return self._host.full


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    sources = _sources(p, acl.others(session)) if p.take(b"IN ") else [boxes.Boxes(b"SELECTED")]
    options = result.parse_options(p) or result.Options(all=True)
    keys, key = parse_keys(p)
    result.require_fuzzy(options, keys.fuzzy)
    only_selected = all(source.kind == b"SELECTED" for source in sources)
    if any(source.kind == b"SELECTED" for source in sources) and session.view is None:
        raise Bad("No mailbox selected")
    if not only_selected:
        if options.save:
            raise Bad("SAVE is of the selected mailbox")
        _require_no_numbers(key)

    def run(call: Call) -> Steps:
        session.condstore |= keys.modseq
        if options.update:
            call.write(b"* NO [NOUPDATE %b] Not with ESEARCH\r\n" % names.astring(call.tag))
        for name in _chosen(call, sources):
            at = _place(call, name)
            if at is not None:
                yield from _search(at, key, options, keys.modseq)
            yield
        return "ESEARCH completed"

    return run


def _sources(p: Parser, others: tuple[str, ...]) -> list[boxes.Boxes]:
    found: list[boxes.Boxes] = []
    p.open()
    while True:
        if p.peek() == b"(":
            raise Bad("Unknown scope option")
        found.append(boxes.parse(p, _KINDS, others))
        if len(found) > _MAX_FILTERS:
            raise Bad("Too many mailbox filters")
        if p.close():
            break
        p.sp()
    p.sp()
    return found


def _require_no_numbers(key: Key) -> None:
    match key:
        case Numbers(chosen, uid):
            if chosen.saved:
                raise No("$ is of the selected mailbox")
            if not uid:
                raise Bad("Message numbers are of the selected mailbox")
        case Not(inner):
            _require_no_numbers(inner)
        case And(keys) | Or(keys):
            for inner in keys:
                _require_no_numbers(inner)


def _chosen(call: Call, sources: Sequence[boxes.Boxes]) -> list[str]:
    """Names of the mailboxes, each once."""
    view = call.session.view
    found = [view.mailbox] if view is not None and any(s.kind == b"SELECTED" for s in sources) else []
    if all(source.kind == b"SELECTED" for source in sources):
        return found
    subscribed = frozenset(call.store.subscriptions())
    for info in call.store.mailboxes():
        if any(source.has(info.name, info.name in subscribed) for source in sources):
            found.append(info.name)
    return list(dict.fromkeys(found))


def _place(call: Call, name: str) -> Call | None:
    view = call.session.view
    if view is not None and view.mailbox == name:
        return Elsewhere(call, view)
    try:
        return Elsewhere(call, View(call.store.snapshot(name), True))
    except NoSuchMailbox:
        return None  # deleted meanwhile


def _search(call: Call, key: Key, options: result.Options, modseq: bool) -> Generator[None, None, None]:
    view = call.view
    try:
        searcher = Searcher(call, call.session.clock.time())
        found = yield from searcher.run(key, range(len(view)))
        highest = 0
        if modseq:
            highest = yield from result.highest_modseq(call, options, found)
    except NoSuchMailbox:
        return
    if options.save:
        result.save(call, options, found)
    if found:
        box = names.encode(view.mailbox, call.session.utf8 or call.session.rev2)
        uidvalidity = view.snapshot.info.uidvalidity
        where = b" MAILBOX %b UIDVALIDITY %d" % (box, uidvalidity)
        result.write_esearch(call, options, found, highest, where, searcher.relevancy)


MULTISEARCH = Extension(7377, (b"MULTISEARCH",), (Spec(b"ESEARCH", AFTER, parse, expunge=False, still=True),))
