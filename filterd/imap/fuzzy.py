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
from filterd.imap.render import CACHED_FIELDS, NOT_CACHED, field_values, header_lines
from filterd.imap.search_keys import And, Header, Key, Or, Text, fold
from rules.mail import words as encoded
from rules.mail.message import Message

if TYPE_CHECKING:
    from filterd.imap.search import Searcher

AS_IT_IS, ALL_WORDS, ONE_SLIP = 100, 75, 40
_SLIP_LETTERS = 5  # a word as short as "cat" has too many neighbours
_MAX_WORDS = 16
_MAX_TEXT = 1_000_000  # characters of one message that are looked at word by word
_WORD = re.compile(r"\w+")
_BLOCK, _OCTETS = 64, 1_048_576  # messages, octets read together


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
    if len(word) < _SLIP_LETTERS:
        return replace(key, text=fold(word))
    at = len(word) // 2
    exchanged = word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
    return Or(tuple(replace(key, text=fold(piece)) for piece in (word[:at], word[at:], exchanged)))


def _near(
    call: Call, key: Header | Text, wanted: list[str], places: Sequence[int]
) -> Generator[None, None, list[int]]:
    found: list[int] = []
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        view = call.view
        at = {view.uids[place]: place for place in block}
        for uid, text in _texts(call, key, list(at)):
            there = _words(fold(text[:_MAX_TEXT]))
            if all(_has(there, word) for word in wanted):
                found.append(at[uid])
        call.progress = start + len(block), len(places)
        yield
    return found


def _has(there: list[str], word: str) -> bool:
    if len(word) < _SLIP_LETTERS:
        return any(word in other for other in there)
    return any(word in other or near(word, other) for other in there)


def near(one: str, other: str) -> bool:
    """Do they differ by one letter at most, or by two neighbours exchanged?"""
    if abs(len(one) - len(other)) > 1:
        return False
    at = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    a, b = one[at:], other[at:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _texts(call: Call, key: Header | Text, uids: list[int]) -> Iterable[tuple[int, str]]:
    """The decoded texts that ``key`` is about."""
    left = uids
    if isinstance(key, Header) and key.name in CACHED_FIELDS:
        left = []
        for row in call.store.rows(call.view.mailbox, uids, True):
            if row.headers == NOT_CACHED:
                left.append(row.uid)
            else:
                lines = header_lines(row.headers)
                yield row.uid, _joined(field_values(lines, lines.lower(), key.name))
    at = 0
    while at < len(left):
        texts = call.store.read_many(call.view.mailbox, left[at:], _OCTETS)
        for uid, data in zip(left[at:], texts, strict=False):
            if data is None:
                continue
            message = Message(data)
            if isinstance(key, Header):
                yield uid, _joined(message.header.get_all(key.name))
            else:
                yield uid, message.text_for_search() if key.header else message.body_text()
        at += max(len(texts), 1)


def _joined(values: Iterable[bytes]) -> str:
    return "\n".join([encoded.decode(value) for value in values])
