"""FUZZY: what somebody looks for who does not know how it was written, best matches first.

Specification: RFC 6203. Complete. Texts match loosely in three degrees; other keys match as ever:

    100  the text as it is
     75  all its words, in any order and as parts of words
     40  all its words; those of five letters and more with one letter too many, too few, other or two exchanged

The index proposes for each degree: a word with one slip still has one of its halves, or has the two letters in the middle
exchanged. Only what it proposes for the last degree is decoded and looked at word by word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from filterd.imap.call import AT_ONCE, Call
from filterd.imap.render import CACHED_FIELDS, NOT_CACHED, packed_values
from filterd.imap.search_keys import And, Header, Key, Or, Text, fold
from rules.mail import words as encoded
from rules.mail.message import Message

if TYPE_CHECKING:
    from filterd.imap.search import Searcher

AS_IT_IS, ALL_WORDS, ONE_SLIP = 100, 75, 40
_SLIP_LETTERS = 5  # a word as short as "cat" has too many neighbours
_MAX_WORDS = 16
_MAX_TEXT = 250_000  # characters of one message that are looked at word by word
_WORD = re.compile(r"\w+")
_BLOCK, _OCTETS = 16, 1_048_576  # messages, octets read together


def run(
    searcher: Searcher, call: Call, key: Header | Text, places: Sequence[int]
) -> Generator[None, None, list[int]]:
    """The positions of ``places`` that match ``key`` loosely; their scores are noted in ``searcher``."""
    call.costs(AT_ONCE + 1)  # never on the loop
    found: dict[int, int] = {}

    def take(hits: Iterable[int], score: int) -> list[int]:
        found.update(dict.fromkeys(hits, score))
        return [place for place in places if place not in found]

    rest = take((yield from searcher.run(key, places)), AS_IT_IS)
    wanted = _words(key.text)[:_MAX_WORDS]
    if wanted and rest:
        if len(wanted) > 1:
            every = And(tuple(replace(key, text=fold(word)) for word in wanted))
            rest = take((yield from searcher.run(every, rest)), ALL_WORDS)
        if any(len(word) >= _SLIP_LETTERS for word in wanted):
            proposed = yield from searcher.run(And(tuple(_seeds(key, word) for word in wanted)), rest)
            take((yield from _near(call, key, wanted, proposed)), ONE_SLIP)
    for place, score in found.items():
        searcher.scores.setdefault(place, []).append(score)
    return sorted(found)


def _words(text: str) -> list[str]:
    """Composed: a letter with its marks is one letter."""
    return list(dict.fromkeys(_WORD.findall(unicodedata.normalize("NFC", text))))


def _seeds(key: Header | Text, word: str) -> Key:
    """What a text must contain that has ``word`` with at most one slip."""
    pieces = [replace(key, text=fold(piece)) for piece in Slip(word).pieces()]
    return Or(tuple(pieces)) if len(pieces) > 1 else pieces[0]


def _near(
    call: Call, key: Header | Text, wanted: list[str], places: Sequence[int]
) -> Generator[None, None, list[int]]:
    """Those of ``places`` whose texts have every word, as it is or with one slip."""
    found: list[int] = []
    slips = [Slip(word) for word in wanted]
    left = [call.view.uids[place] for place in places]
    count = len(left)
    while left:
        looked_at = 0
        for text in _texts(call, key, left):
            text = unicodedata.normalize("NFC", fold(text[:_MAX_TEXT]))
            there: list[str] = []
            if all(slip.inside(text, there) for slip in slips):
                found.append(call.view.number_of(left[looked_at]) - 1)
            looked_at += 1
        left = left[looked_at:]
        call.progress = count - len(left), count
        yield
    return sorted(found)


class Slip:
    """A word, and what it may look like."""

    __slots__ = ("_end", "_exchanged", "_start", "_word")

    def __init__(self, word: str) -> None:
        self._word = word
        at = len(word) // 2
        self._start, self._end = word[:at], word[at:]
        self._exchanged = word[: at - 1] + word[at : at + 1] + word[at - 1 : at] + word[at + 1 :]

    def inside(self, text: str, words: list[str]) -> bool:
        """``words``: those of ``text``, filled when somebody needs them."""
        word = self._word
        if word in text:
            return True
        if len(word) < _SLIP_LETTERS:
            return False
        if not words:
            words += dict.fromkeys(_WORD.findall(text))
        start, end, exchanged = self._start, self._end, self._exchanged
        # One slip leaves one of the halves as it is, or is the exchange in the middle: few words are looked at closely.
        close = [one for one in words if one.startswith(start) or one.endswith(end) or one == exchanged]
        return any(near(word, one) for one in close)

    def pieces(self) -> tuple[str, ...]:
        """One of them is in every text that has the word with at most one slip."""
        if len(self._word) < _SLIP_LETTERS:
            return (self._word,)
        return self._start, self._end, self._exchanged


def near(one: str, other: str) -> bool:
    """Do they differ by one letter at most, or by two neighbours exchanged?"""
    if abs(len(one) - len(other)) > 1:
        return False
    at = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    a, b = one[at:], other[at:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _texts(call: Call, key: Header | Text, uids: list[int]) -> list[str]:
    """The decoded texts that ``key`` is about, of some of the first ``uids``; "" of what is gone."""
    if isinstance(key, Header) and key.name in CACHED_FIELDS:
        block = uids[: call.session.config.limits.rows]
        rows = {row.uid: row.headers for row in call.store.rows(call.view.mailbox, block, True)}
        return [_field(call, key, uid, rows.get(uid, NOT_CACHED)) for uid in block]
    texts = call.store.read_many(call.view.mailbox, uids[:_BLOCK], _OCTETS)
    return ["" if data is None else _text(key, data) for data in texts] or [""]


def _field(call: Call, key: Header, uid: int, headers: bytes) -> str:
    if headers == NOT_CACHED:
        return _text(key, call.store.read(call.view.mailbox, uid) or b"")
    return _joined(packed_values(headers, key.name))


def _text(key: Header | Text, data: bytes) -> str:
    message = Message(data)
    if isinstance(key, Header):
        return _joined(message.header.get_all(key.name))
    return message.text_for_search() if key.header else message.body_text()


def _joined(values: Iterable[bytes]) -> str:
    return "\n".join([encoded.decode(value) for value in values])
