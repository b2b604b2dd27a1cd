"""Comparators: when two strings are equal, which is greater.

Specification: RFC 4790 (i;octet, i;ascii-casemap, i;ascii-numeric), RFC 5051 (i;unicode-casemap). Strings are
``str``; the order of code points is the order of UTF-8 octets, so i;octet needs no encoding. Both casemaps
fold to upper (title) case.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_UPPER = {lower: lower - 32 for lower in range(ord("a"), ord("z") + 1)}
_DIGITS = re.compile(r"[0-9]+")


def octet(text: str) -> str:
    """i;octet: as it is."""
    return text


def ascii_casemap(text: str) -> str:
    """i;ascii-casemap: a to z become A to Z, nothing else changes."""
    return text.upper() if text.isascii() else text.translate(_UPPER)


def numeric_order(text: str) -> tuple[int, int]:
    """i;ascii-numeric: a sort key; what does not begin with a digit is infinite, and equal to all such."""
    found = _DIGITS.match(text)
    if found is None:
        return (1, 0)
    digits = found[0].lstrip("0")
    # As (length, digits) would do, but bounded: int() of 4,300 digits and more is refused by Python, and slow below.
    return (0, int(digits or "0")) if len(digits) <= 4000 else (0, 10**4000 + len(digits))


def numeric_normal(text: str) -> str:
    """i;ascii-numeric: equal numbers become equal strings."""
    found = _DIGITS.match(text)
    return "" if found is None else found[0].lstrip("0") or "0"


@lru_cache(maxsize=4096)
def _title(char: str) -> str:
    """RFC 5051 2: simple titlecase mapping (a full mapping of several characters is none), then decomposition."""
    title = char.title()
    return unicodedata.normalize("NFKD", title if len(title) == 1 else char)


def search_form(text: str) -> str:
    """What is looked for and looked in when case and form do not matter: whatever i;unicode-casemap calls equal becomes the same
    text, and ``ß`` is ``ss`` besides (full case folding). For finding only: its order is not the comparator's."""
    if text.isascii():
        return text.lower()
    # U+0131 has no case folding, but I as its titlecase.
    return unicodedata.normalize("NFKD", text).casefold().replace("\u0131", "i")


def unicode_casemap(text: str) -> str:
    """i;unicode-casemap: titlecase, then compatibility decomposition."""
    if text.isascii():
        return text.upper()
    return unicodedata.normalize("NFKD", "".join(map(_title, text)))
