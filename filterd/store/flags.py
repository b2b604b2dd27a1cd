"""Flags as bit masks, and how Maildir spells them.

System flags are bits 0-4 (``base.SEEN`` and so on), the mailbox's keywords follow from bit 5 in the order in which they were
first used. In a file name (``:2,`` and letters in ASCII order) system flags are ``DFRST`` and the first 26 keywords ``a-z``,
as Dovecot writes them; letters that we do not know (``P`` of other programs) are kept as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from filterd.store.base import (
    ANSWERED,
    DELETED,
    DRAFT,
    FIRST_KEYWORD_BIT,
    FLAGGED,
    MAX_KEYWORDS,
    SEEN,
    SYSTEM_FLAGS,
    LimitReached,
)

MARK = ":2,"
LETTERS = {"D": DRAFT, "F": FLAGGED, "R": ANSWERED, "S": SEEN, "T": DELETED}
LETTER_KEYWORDS = 26
NAMED_MASK = (1 << (FIRST_KEYWORD_BIT + LETTER_KEYWORDS)) - 1  # what a file name can say
SYSTEM_MASK = (1 << FIRST_KEYWORD_BIT) - 1
MAX_KEYWORD_OCTETS = 100
_SYSTEM = {name.lower(): 1 << bit for bit, name in enumerate(SYSTEM_FLAGS)}


def mask_of(
    flags: Iterable[str], keywords: tuple[str, ...], create: bool = True
) -> tuple[int, tuple[str, ...]]:
    """The mask of IMAP flag names and the keyword list, longer when new keywords came.

    Names are compared without case (RFC 9051 2.3.2); unknown ``\\`` flags and ``\\Recent`` mean nothing here.
    Raises LimitReached over MAX_KEYWORDS.
    """
    mask = 0
    for flag in flags:
        low = flag.lower()
        if low.startswith("\\"):
            mask |= _SYSTEM.get(low, 0)
            continue
        at = next((at for at, known in enumerate(keywords) if known.lower() == low), -1)
        if at < 0:
            if not create:
                continue
            if len(keywords) >= MAX_KEYWORDS or len(flag) > MAX_KEYWORD_OCTETS or not flag:
                raise LimitReached("no further keyword in this mailbox")
            at = len(keywords)
            keywords = (*keywords, flag)
        mask |= 1 << (FIRST_KEYWORD_BIT + at)
    return mask, keywords


def names_of(mask: int, keywords: tuple[str, ...]) -> tuple[str, ...]:
    """IMAP names of a mask, system flags first."""
    system = [name for bit, name in enumerate(SYSTEM_FLAGS) if mask >> bit & 1]
    return (*system, *(word for at, word in enumerate(keywords) if mask >> (FIRST_KEYWORD_BIT + at) & 1))


def translate(mask: int, source: tuple[str, ...], target: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """A mask of one mailbox in the terms of another, whose keyword list may grow."""
    if mask < 1 << FIRST_KEYWORD_BIT:
        return mask, target
    return mask_of(names_of(mask, source), target)


def info_of(mask: int, unknown: str = "") -> str:
    """The end of a file name in ``cur``: ``:2,`` and the letters in ASCII order."""
    letters = [letter for letter, bit in LETTERS.items() if mask & bit]
    rest = mask >> FIRST_KEYWORD_BIT
    if rest:
        letters += [chr(97 + at) for at in range(LETTER_KEYWORDS) if rest >> at & 1]
    if unknown:
        letters = sorted({*letters, *unknown})
    return MARK + "".join(letters)


def split_name(name: str) -> tuple[str, str]:
    """(base, letters) of a file name; a name without ``:2,`` has no letters."""
    at = name.rfind(MARK)
    return (name, "") if at < 0 else (name[:at], name[at + len(MARK) :])


def mask_of_letters(letters: str, keywords: int = LETTER_KEYWORDS) -> tuple[int, str]:
    """(mask, letters that mean nothing to us) where the mailbox has so many keywords."""
    mask = 0
    unknown = ""
    for letter in letters:
        if bit := LETTERS.get(letter, 0):
            mask |= bit
        elif "a" <= letter <= "z" and ord(letter) - 97 < keywords:
            mask |= 1 << (FIRST_KEYWORD_BIT + ord(letter) - 97)
        elif letter.isascii() and letter.isalnum():
            unknown += letter
    return mask, unknown


def merged(flags: int, before: int, after: int) -> int:
    """A row's flags when its file's name, which said ``before``, says ``after``: what the name changed, changes.

    File names are the truth of what they can say; the index of the rest (HOUSE item 12) and of what its names do not say yet.
    """
    named = flags & NAMED_MASK & ~(before & ~after) | after & ~before
    return named | flags & ~NAMED_MASK


def clean(letters: str) -> str:
    """What a file name may keep behind ``:2,`` (others' flags too)."""
    return "".join(letter for letter in letters if letter.isascii() and letter.isalnum())
