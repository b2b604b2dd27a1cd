"""SEARCH at work: keys narrow a list of positions, the cheap ones first.

Specification: RFC 9051 6.4.4. Strings match without case anywhere in the decoded value (encoded words, charsets, transfer
encodings undone). An index proposes, the decoded text disposes: results equal a full scan.

Four costs: the view's arrays, hot index rows, cold index rows (cached header fields), whole messages. All row keys of one AND
are tested in one pass. Between blocks the account is let go (``yield``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from typing import assert_never

from filterd.imap import numset
from filterd.imap.call import Call
from filterd.imap.render import CACHED_FIELDS, NOT_CACHED
from filterd.imap.search_keys import (
    Age,
    All,
    And,
    Flag,
    Header,
    Key,
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
from filterd.store.base import Row
from rules.mail import date as dates
from rules.mail import header, words
from rules.mail.message import Message

Found = Generator[None, None, Sequence[int]]
_ROWS_PER_STEP = 5_000  # rows tested before the account is let go
_OCTETS_PER_STEP = 1_048_576  # of texts read and decoded


class Searcher:
    """One search over one view. ``now`` in seconds since the epoch, for YOUNGER and OLDER."""

    def __init__(self, call: Call, now: float) -> None:
        self._call = call
        self._now = int(now)

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
                return (yield from self._by_rows([key], places))
            case Text():
                return (yield from self._by_text(key, places))
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
        if isinstance(key, Numbers):
            if key.set.saved:
                spans = self._call.session.saved_spans(view)
            elif key.uid:
                spans = key.set.spans_of_uids(view.uids)
            else:
                spans = key.set.spans_of_numbers(len(view))
            return _inside(places, spans, len(view))
        bit = view.table.mask_of(key.name)
        flags = view.flags
        if len(places) == len(flags):
            if key.on:
                return [place for place, mask in enumerate(flags) if mask & bit]
            return [place for place, mask in enumerate(flags) if not mask & bit]
        return [place for place in places if bool(flags[place] & bit) is key.on]

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
        # Most rows are told apart by looking at the bare octets: valid when nothing is encoded or folded into the word.
        simple = needle.isascii() and needle.isprintable() and " " not in needle
        plain = needle.encode("ascii") if simple else b""
        begin, skip = b"\n" + name + b":", len(name) + 1

        def test(row: Row) -> bool:
            if not cached or row.headers == NOT_CACHED:
                text = self._call.store.read(self._call.view.mailbox, row.uid)
                return text is not None and header_matches(header.scan(text), name, needle)
            headers = row.headers
            lower = headers.lower()
            if plain:
                at = lower.find(begin) + 1
                if at:
                    line = lower[at + skip : lower.find(b"\n", at)]
                    if plain in line and b"=?" not in line:
                        return True
                if plain not in lower and b"=?" not in lower and lower.isascii():
                    return False
            return any(needle in decoded(value) for value in field_values(headers, lower, name))

        return test

    def _sent_test(self, key: Moment) -> Callable[[Row], bool]:
        """RFC 9051 6.4.4: the Date field as written, disregarding time and time zone."""

        def test(row: Row) -> bool:
            headers = row.headers
            if headers == NOT_CACHED:
                headers = self._call.store.read(self._call.view.mailbox, row.uid) or b""
                value = header.scan(headers).first(b"date")
            else:
                value = next(field_values(headers, headers.lower(), b"date"), None)
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
        uids = [view.uids[place] for place in places]
        candidates = self._call.store.text_candidates(view.mailbox, key.text, uids)
        if candidates is not None:
            chosen = set(candidates)
            places = [place for place, uid in zip(places, uids, strict=True) if uid in chosen]
        found: list[int] = []
        octets = 0
        for place in places:
            view = self._call.view
            data = self._call.store.read(view.mailbox, view.uids[place])
            if data is None:
                continue
            octets += len(data)
            if text_matches(Message(data), key):
                found.append(place)
            if octets > _OCTETS_PER_STEP:
                octets = 0
                yield
        return found


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
        case Text():
            return 3
        case Not(inner):
            return cost(inner)
        case And(keys) | Or(keys):
            return max(cost(inner) for inner in keys)
        case _:
            assert_never(key)


def _inside(places: Sequence[int], spans: numset.Spans, count: int) -> Sequence[int]:
    if len(places) == count:
        if len(spans) == 1:
            return range(spans[0][0], spans[0][1])
        return list(numset.positions(spans))
    wanted = set(numset.positions(spans))
    return [place for place in places if place in wanted]


def field_values(headers: bytes, lower: bytes, name: bytes) -> Iterator[bytes]:
    """The values, folded as they came, of the fields ``name`` in cached header lines; ``lower`` is their lower case.

    Found by ``find`` at the beginnings of lines, which is some ten times faster than splitting the whole block.
    """
    at = 0 if lower.startswith(name) else lower.find(b"\n" + name) + 1
    while at > 0 or lower.startswith(name):
        colon = at + len(name)
        while lower[colon : colon + 1] in (b" ", b"\t"):
            colon += 1
        end = headers.find(b"\n", colon)
        while 0 <= end < len(headers) - 1 and headers[end + 1] in b" \t":
            end = headers.find(b"\n", end + 1)
        if end < 0:
            end = len(headers)
        if lower[colon : colon + 1] == b":":
            yield headers[colon + 1 : end]
        at = lower.find(b"\n" + name, colon) + 1
        if at <= 0:
            return


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
    start = int(datetime(key.day.year, key.day.month, key.day.day, tzinfo=UTC).timestamp())
    end = start + 86_400
    saved = key.field == "saved"
    if key.relation == "before":
        return (lambda row: row.savedate < start) if saved else (lambda row: row.date < start)
    if key.relation == "since":
        return (lambda row: row.savedate >= start) if saved else (lambda row: row.date >= start)
    return (lambda row: start <= row.savedate < end) if saved else (lambda row: start <= row.date < end)
