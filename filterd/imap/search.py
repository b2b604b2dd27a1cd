"""SEARCH at work: keys narrow a list of positions, the cheap ones first.

Specification: RFC 9051 6.4.4. Strings match without case anywhere in the decoded value (encoded words, charsets, transfer
encodings undone). An index proposes, the decoded text disposes: results equal a full scan.

Four costs: the view's arrays, hot index rows, cold index rows (cached header fields), whole messages. All row keys of one AND
are tested in one pass. Between blocks the account is let go (``yield``).
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from itertools import compress
from typing import assert_never

from filterd.imap import fuzzy, numset
from filterd.imap.call import Call
from filterd.imap.errors import Bad
from filterd.imap.render import CACHED_FIELDS, NOT_CACHED, packed_values
from filterd.imap.search_keys import (
    Age,
    All,
    And,
    Flag,
    Header,
    Key,
    Loose,
    ModSeq,
    Moment,
    Not,
    Numbers,
    ObjectId,
    Or,
    Size,
    Text,
    fold,
)
from filterd.store.base import HeaderTexts, Row
from rules.mail import date as dates
from rules.mail import header, words
from rules.mail.message import Message

Found = Generator[None, None, Sequence[int]]
_ROWS_PER_STEP = 5_000  # rows tested before the account is let go
_OCTETS_PER_STEP = 1_048_576  # of texts read and decoded
_END = 2**63
_PLACE_COSTS, _HEADER_COSTS = 40, 30  # nanoseconds a message, about
_TEXTS = 256  # messages read together, at most


class Searcher:
    """One search over one view. ``now`` in seconds since the epoch, for YOUNGER and OLDER. ``scores``: of FUZZY, by position."""

    def __init__(self, call: Call, now: float) -> None:
        self._call = call
        self._now = int(now)
        self.scores: dict[int, list[int]] = {}

    def relevancy(self, place: int) -> int:
        """RFC 6203 4: 1 to 100."""
        several = self.scores.get(place)
        return round(sum(several) / len(several)) if several else fuzzy.AS_IT_IS

    def run(self, key: Key, places: Sequence[int]) -> Found:
        """The positions of ``places`` (ascending) that match, ascending."""
        match key:
            case All():
                return places
            case Flag() | Numbers():
                return self._by_arrays(key, places)
            case Not():
                hits = set((yield from self.run(key.key, places)))
                return [place for place in places if place not in hits]
            case And():
                return (yield from self._all(key.keys, places))
            case Or():
                return (yield from self._any(key.keys, places))
            case Size() | Age() | ModSeq() | ObjectId() | Moment() | Header():
                found = self._by_columns(key, places)
                return found if found is not None else (yield from self._by_rows([key], places))
            case Text():
                return (yield from self._by_text(key, places))
            case Loose(inner):
                return (yield from fuzzy.run(self, self._call, inner, places))
            case _:
                assert_never(key)

    def _all(self, keys: Sequence[Key], places: Sequence[int]) -> Found:
        rows: list[Key] = []
        late: list[Key] = []
        for key in keys:
            if isinstance(key, (All, Flag, Numbers)):
                places = yield from self.run(key, places)
            elif isinstance(key, (Size, Age, ModSeq, ObjectId, Moment, Header)):
                rows.append(key)
            else:
                late.append(key)
        for key in sorted(rows, key=cost):
            if not places or (found := self._by_columns(key, places)) is None:
                continue
            places = found
            rows.remove(key)
        if rows and places:
            places = yield from self._by_rows(rows, places)
        for key in sorted(late, key=cost):
            if not places:
                break
            places = yield from self.run(key, places)
        return places

    def _any(self, keys: Sequence[Key], places: Sequence[int]) -> Found:
        found: set[int] = set()
        left = places
        for key in sorted(keys, key=cost):
            if not left:
                break
            found.update((yield from self.run(key, left)))
            left = [place for place in left if place not in found]
        return sorted(found)

    # -- the view's arrays ----------------------------------------------------------------------------------------
    def _by_arrays(self, key: Flag | Numbers, places: Sequence[int]) -> Sequence[int]:
        view = self._call.view
        self._call.costs(_PLACE_COSTS * len(places))
        if isinstance(key, Numbers):
            if key.set.saved:
                spans = self._call.session.saved_spans(view)
            elif key.uid:
                spans = key.set.spans_of_uids(view.uids)
            elif self._call.session.uidonly:
                raise Bad("Message numbers are not used after ENABLE UIDONLY", "UIDREQUIRED")
            else:
                spans = key.set.spans_of_numbers(len(view))
            return _inside(places, spans, len(view))
        bit = view.table.mask_of(key.name)
        flags = view.flags
        if len(places) == len(flags):
            return list(compress(places, _having(flags, bit, key.on)))
        return [place for place in places if bool(flags[place] & bit) is key.on]

    # -- columns kept beside the view -------------------------------------------------------------------------------
    def _by_columns(self, key: Key, places: Sequence[int]) -> Sequence[int] | None:
        """None: the row must be asked."""
        view = self._call.view
        if view.uids is not view.snapshot.uids:
            return None  # some of the view are gone
        if isinstance(key, Header):
            return self._by_header(key, places)
        if not isinstance(key, (Size, Age, Moment)) or (isinstance(key, Moment) and key.field != "internal"):
            return None
        facts = self._call.store.facts(view.snapshot)
        if facts is None:
            return None
        self._call.costs(_PLACE_COSTS * len(places))
        whole = len(places) == len(view)
        column = facts.sizes if isinstance(key, Size) else facts.dates
        values: Sequence[int] = column if whole else [column[place] for place in places]
        low, high = self._bounds(key)
        if high == _END:
            chosen = [value >= low for value in values]
        elif low == -_END:
            chosen = [value < high for value in values]
        else:
            chosen = [low <= value < high for value in values]
        return list(compress(places, chosen))

    def _bounds(self, key: Size | Age | Moment) -> tuple[int, int]:
        """From, and up to but without."""
        match key:
            case Size(larger, octets):
                return (octets + 1, _END) if larger else (-_END, octets)
            case Age(younger, seconds):
                return (self._now - seconds, _END) if younger else (-_END, self._now - seconds)
            case Moment():
                start, end = _day(key)
                if key.relation == "before":
                    return -_END, start
                return (start, _END) if key.relation == "since" else (start, end)

    def _by_header(self, key: Header, places: Sequence[int]) -> Sequence[int] | None:
        if "\n" in key.text or "\0" in key.text:
            return None
        view = self._call.view
        column = self._call.store.header_texts(view.snapshot, key.name)
        self._call.costs(_HEADER_COSTS * len(view))
        if column is None:
            return None
        hits = find_fields(column, key.text.encode("utf-8", "surrogatepass"))
        if len(places) == len(view):
            return hits
        wanted = set(hits)
        return [place for place in places if place in wanted]

    # -- index rows -----------------------------------------------------------------------------------------------
    def _by_rows(self, keys: Sequence[Key], places: Sequence[int]) -> Found:
        cold = any(
            isinstance(key, Header) or (isinstance(key, Moment) and key.field == "sent") for key in keys
        )
        tests = [self._row_test(key) for key in sorted(keys, key=cost)]
        first, rest = tests[0], tests[1:]
        limit = self._call.session.config.limits.rows
        found: list[int] = []
        for start in range(0, len(places), limit):
            view = self._call.view
            block = places[start : start + limit]
            uids = [view.uids[place] for place in block]
            at = dict(zip(uids, block, strict=True))
            for row in self._call.store.rows(view.mailbox, uids, cold):
                if first(row) and all(test(row) for test in rest):
                    found.append(at[row.uid])
            if (start + limit) % _ROWS_PER_STEP < limit:
                self._call.progress = min(start + limit, len(places)), len(places)
                yield
        return found

    def _row_test(self, key: Key) -> Callable[[Row], bool]:
        match key:
            case Size(larger, octets):
                return (lambda row: row.size > octets) if larger else (lambda row: row.size < octets)
            case Age(younger, seconds):
                edge = self._now - seconds
                return (lambda row: row.date >= edge) if younger else (lambda row: row.date < edge)
            case ModSeq(least):
                return lambda row: row.modseq >= least
            case ObjectId(value, thread):
                return lambda row: not thread and row.email_id == value
            case Moment():
                return self._sent_test(key) if key.field == "sent" else _date_test(key)
            case Header():
                return self._header_test(key)
            case _:
                raise AssertionError("no row key")

    def _header_test(self, key: Header) -> Callable[[Row], bool]:
        name, needle = key.name, key.text
        cached = name in CACHED_FIELDS

        def test(row: Row) -> bool:
            if not cached or row.headers == NOT_CACHED:
                text = self._call.store.read(self._call.view.mailbox, row.uid)
                return text is not None and header_matches(header.scan(text), name, needle)
            return any(needle in decoded(value) for value in packed_values(row.headers, name))

        return test

    def _sent_test(self, key: Moment) -> Callable[[Row], bool]:
        """RFC 9051 6.4.4: the Date field as written, disregarding time and time zone."""

        def test(row: Row) -> bool:
            if row.headers != NOT_CACHED:
                value = next(iter(packed_values(row.headers, b"date")), None)
            else:
                text = self._call.store.read(self._call.view.mailbox, row.uid) or b""
                value = header.scan(text).first(b"date")
            moment = dates.parse(header.unfold(value).strip()) if value else None
            if moment is None:
                return False  # no Date field: it was sent neither before nor since (Dovecot says 1970)
            day = moment.date()
            if key.relation == "before":
                return day < key.day
            return day >= key.day if key.relation == "since" else day == key.day

        return test

    # -- texts ------------------------------------------------------------------------------------------------------
    def _by_text(self, key: Text, places: Sequence[int]) -> Found:
        if not key.text:
            return places
        view = self._call.view
        uids: Sequence[int] = view.uids
        if len(places) != len(view):
            uids = [view.uids[place] for place in places]
        hits = self._call.store.text_hits(view.mailbox, key.text, key.header, uids)
        found: list[int] = []
        unsure = list(uids)
        if hits is not None:
            found = [view.number_of(uid) - 1 for uid in hits.sure]
            unsure = list(hits.maybe)
        at = 0
        while at < len(unsure):
            view = self._call.view
            texts = self._call.store.read_many(view.mailbox, unsure[at : at + _TEXTS], _OCTETS_PER_STEP)
            for uid, data in zip(unsure[at:], texts, strict=False):
                if data is not None and text_matches(Message(data), key):
                    found.append(view.number_of(uid) - 1)
            at += len(texts)
            if at < len(unsure):
                self._call.progress = at, len(unsure)
                yield
        return sorted(found)


def cost(key: Key) -> int:
    """0 arrays, 1 hot rows, 2 cold rows, 3 texts."""
    match key:
        case All() | Flag() | Numbers():
            return 0
        case Size() | Age() | ModSeq() | ObjectId():
            return 1
        case Moment(field):
            return 2 if field == "sent" else 1
        case Header(name):
            return 2 if name in CACHED_FIELDS else 3
        case Text() | Loose():
            return 3
        case Not(inner):
            return cost(inner)
        case And(keys) | Or(keys):
            return max(cost(inner) for inner in keys)
        case _:
            assert_never(key)


def _having(flags: array[int], bit: int, on: bool) -> bytes:
    """An octet a mask, 1 where ``bit`` is set (is not set: ``on`` False)."""
    at = max(bit.bit_length() - 1, 0) // 8
    inside = bit >> 8 * at
    table = bytes(bool(octet & inside) is on for octet in range(256))
    start = at if sys.byteorder == "little" else flags.itemsize - 1 - at
    return flags.tobytes()[start :: flags.itemsize].translate(table)


def _inside(places: Sequence[int], spans: numset.Spans, count: int) -> Sequence[int]:
    if len(places) == count:
        if len(spans) == 1:
            return range(spans[0][0], spans[0][1])
        return list(numset.positions(spans))
    wanted = set(numset.positions(spans))
    return [place for place in places if place in wanted]


def find_fields(column: HeaderTexts, needle: bytes) -> list[int]:
    """Positions of the messages with a value that contains ``needle``; an empty one: that have the field."""
    text, starts = column.text, column.starts
    if not needle:
        return [at for at in range(len(starts) - 1) if starts[at] != starts[at + 1]]
    found: list[int] = []
    at = text.find(needle)
    while at >= 0:
        place = bisect_right(starts, at) - 1
        found.append(place)
        at = text.find(needle, starts[place + 1])
    return found


def decoded(value: bytes) -> str:
    """A field's value unfolded, decoded and case-folded."""
    value = header.unfold(value).strip()
    if b"=?" not in value and value.isascii():
        return value.decode("ascii").lower()
    return fold(words.decode(value))


def header_matches(block: header.HeaderBlock, name: bytes, needle: str) -> bool:
    """Does some field of that name contain ``needle`` (case-folded) in its decoded value?"""
    return any(needle in fold(words.decode(value)) for value in block.get_all(name))


def text_matches(message: Message, key: Text) -> bool:
    if key.header and key.text in fold(message.header_text()):
        return True
    return key.text in fold(message.body_text())


def _date_test(key: Moment) -> Callable[[Row], bool]:
    """INTERNALDATE and save date are told in UTC here, so days are UTC days."""
    start, end = _day(key)
    saved = key.field == "saved"
    if key.relation == "before":
        return (lambda row: row.savedate < start) if saved else (lambda row: row.date < start)
    if key.relation == "since":
        return (lambda row: row.savedate >= start) if saved else (lambda row: row.date >= start)
    return (lambda row: start <= row.savedate < end) if saved else (lambda row: start <= row.date < end)


def _day(key: Moment) -> tuple[int, int]:
    """Its first second, and that of the next."""
    start = int(datetime(key.day.year, key.day.month, key.day.day, tzinfo=UTC).timestamp())
    return start, start + 86_400
