"""SORT and UID SORT, with the extended forms.

Specification: RFC 5256 (SORT), RFC 5267 2 and 3 (ESORT), RFC 5957 (SORT=DISPLAY), RFC 6203 5 (RELEVANCY). Complete.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from filterd.imap import contexts, names, result, subject
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.render import NOT_CACHED, header_lines
from filterd.imap.search import Searcher
from filterd.imap.search_keys import KeyParser, parse_charset
from filterd.imap.state import SELECTED
from filterd.store.base import Row
from rules.comparator import unicode_casemap
from rules.mail import address, words
from rules.mail.message import Message

if TYPE_CHECKING:
    from filterd.imap.session import Session

Value = int | str
_NO_SCORES: Mapping[int, int] = MappingProxyType({})
_MAX_CRITERIA = 32
_RELEVANCY = b"RELEVANCY"


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    options = result.parse_options(p)
    criteria = _criteria(p)
    p.sp()
    with result.saving(session, options):
        charset = parse_charset(p)
    p.sp()
    keys = KeyParser(p, charset)
    key = keys.keys()
    p.end()
    result.require_fuzzy(options, keys.fuzzy)
    scored = any(name == _RELEVANCY for name, _ in criteria)
    if scored and not keys.fuzzy:
        raise Bad("RELEVANCY needs a FUZZY key")

    def run(call: Call) -> Steps:
        session.condstore |= keys.modseq
        places: Sequence[int] = range(len(call.view))
        searcher = Searcher(call, session.clock.time())
        found = yield from searcher.run(key, places)
        found = yield from _sort(call, criteria, found, searcher.relevancy)
        highest = 0
        if keys.modseq:
            highest = yield from result.highest_modseq(call, options, found)
        if options is not None and options.save:
            result.save(call, options, found)
        if options is not None:
            result.write_esearch(call, options, found, highest, b"", searcher.relevancy)
        else:
            result.write_list(call, b"SORT", list(found), highest)
        if options is not None and options.update and scored:  # what comes later has no score beside these
            call.write(b"* NO [NOUPDATE %b] Not by relevancy\r\n" % names.astring(call.tag))
        elif options is not None and options.update:
            contexts.keep_sorted(
                call,
                key,
                found,
                lambda call, places: _values(call, criteria, places),
                lambda uids, values: _order(criteria, uids, values),
            )
        return "SORT completed"

    return run


def _criteria(p: Parser) -> list[tuple[bytes, bool]]:
    found: list[tuple[bytes, bool]] = []
    p.open()
    reverse = False
    first = True
    while first or reverse or not p.close():
        if not first:
            p.sp()
        first = False
        word = p.word()
        if word == b"REVERSE" and not reverse:
            reverse = True
            continue
        if word not in _VALUES:
            raise Bad("Unknown sort criterion")
        found.append((word, reverse))
        reverse = False
        if len(found) > _MAX_CRITERIA:
            raise Bad("Too many sort criteria")
    return found


class Cached:
    """A row's header fields, decoded as sorting needs them."""

    __slots__ = ("message", "row", "score")

    def __init__(self, call: Call, row: Row, score: int = 0) -> None:
        self.row = row
        self.score = score
        data = row.headers
        if data == NOT_CACHED:
            data = call.store.read(call.view.mailbox, row.uid) or b""
        elif data:
            data = header_lines(data)
        self.message = Message(data)

    def sent(self) -> int:
        """RFC 5256 2.2: the Date field, else INTERNALDATE, in UTC."""
        moment = self.message.date()
        if moment is None:
            return self.row.date
        try:
            return int(moment.timestamp())
        except (OverflowError, ValueError):
            return int(datetime.min.replace(tzinfo=UTC).timestamp())

    def first(self, name: bytes) -> address.Mailbox | address.Group | None:
        """The first address as ENVELOPE has it: a group counts with its name."""
        for value in self.message.header.get_all(name):
            items = address.parse_list(value).items
            if items:
                return items[0]
        return None

    def mailbox(self, name: bytes) -> str:
        """The local part of the first address (RFC 5256 3)."""
        match self.first(name):
            case None:
                return ""
            case address.Group() as group:
                return unicode_casemap(group.name)
            case mailbox:
                return unicode_casemap(mailbox.local)

    def display(self, name: bytes) -> str:
        """RFC 5957 3: the display name, else the address."""
        match self.first(name):
            case None:
                return ""
            case address.Group() as group:
                return unicode_casemap(group.name)
            case mailbox:
                shown = mailbox.name
                if "=?" in shown:
                    shown = words.decode(shown.encode("utf-8", "replace"))
                return unicode_casemap(shown or f"{mailbox.local}@{mailbox.domain}")


_VALUES: dict[bytes, Callable[[Cached], Value]] = {
    b"ARRIVAL": lambda c: c.row.date,
    b"SIZE": lambda c: c.row.size,
    _RELEVANCY: lambda c: -c.score,  # the best first
    b"DATE": Cached.sent,
    b"SUBJECT": lambda c: unicode_casemap(subject.base(c.message.subject())[0]),
    b"FROM": lambda c: c.mailbox(b"from"),
    b"TO": lambda c: c.mailbox(b"to"),
    b"CC": lambda c: c.mailbox(b"cc"),
    b"DISPLAYFROM": lambda c: c.display(b"from"),
    b"DISPLAYTO": lambda c: c.display(b"to"),
}


def _sort(
    call: Call, criteria: list[tuple[bytes, bool]], places: Sequence[int], relevancy: Callable[[int], int]
) -> Generator[None, None, list[int]]:
    """The positions (ascending) of messages that are there, in order."""
    uids = call.view.uids
    scored = any(name == _RELEVANCY for name, _ in criteria)
    scores = {uids[place]: relevancy(place) for place in places} if scored else {}
    values = yield from _values(call, criteria, places, scores)
    at = {uids[place]: place for place in places}
    return [at[uid] for uid in _order(criteria, [uid for uid in at if uid in values], values)]


def _values(
    call: Call,
    criteria: list[tuple[bytes, bool]],
    places: Sequence[int],
    scores: Mapping[int, int] = _NO_SCORES,
) -> Generator[None, None, dict[int, list[Value]]]:
    """What they are sorted by, by UID."""
    cold = any(name not in (b"ARRIVAL", b"SIZE", _RELEVANCY) for name, _ in criteria)
    values: dict[int, list[Value]] = {}
    limit = call.session.config.limits.rows
    for start in range(0, len(places), limit):
        view = call.view
        uids = [view.uids[place] for place in places[start : start + limit]]
        for row in call.store.rows(view.mailbox, uids, cold):
            cached = Cached(call, row, scores.get(row.uid, 0))
            values[row.uid] = [_VALUES[name](cached) for name, _ in criteria]
        yield
    return values


def _order(
    criteria: list[tuple[bytes, bool]], uids: Sequence[int], values: dict[int, list[Value]]
) -> list[int]:
    """Stable sorts from the last criterion to the first; equal messages stay in the order of the mailbox."""
    found = [uid for uid in uids if uid in values]
    for index in range(len(criteria) - 1, -1, -1):
        column = {uid: values[uid][index] for uid in found}
        found.sort(key=column.__getitem__, reverse=criteria[index][1])
    return found


SORT = Extension(
    5256,
    (b"SORT", b"SORT=DISPLAY", b"ESORT"),
    (Spec(b"SORT", SELECTED, parse, expunge=False, uid=True, still=True),),
)
