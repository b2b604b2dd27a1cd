"""Tag lists: the ``name=value; name=value`` form of signatures and key records.

Specification: RFC 6376 3.2, RFC 8616 (UTF-8 in values). Complete: yes.
Invariants: linear; never raises; a list that breaks the grammar has ``error`` set and must not be used further.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FIELD_LIMIT: Final = 16_384  # octets of a tag list
TAG_LIMIT: Final = 64
BLANKS: Final = b" \t\r\n"

_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_]*+")
# NUL and other controls; CR and LF only as a fold
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n[ \t])|(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class TagList:
    """``values`` by name, blanks around them removed; ``spans``: where each raw value (blanks included) lies."""

    values: Mapping[bytes, bytes]
    spans: Mapping[bytes, tuple[int, int]]
    first: bytes = b""
    error: str = ""

    def get(self, name: bytes, default: bytes = b"") -> bytes:
        return self.values.get(name, default)

    def __contains__(self, name: bytes) -> bool:
        return name in self.values


def parse(data: bytes) -> TagList:
    """Read a tag list, without the final line end."""
    if len(data) > FIELD_LIMIT:
        return _broken(f"longer than {FIELD_LIMIT} octets")
    if _FORBIDDEN.search(data):
        return _broken("control character")
    values: dict[bytes, bytes] = {}
    spans: dict[bytes, tuple[int, int]] = {}
    first = b""
    at = 0
    for spec in data.split(b";"):
        start, at = at, at + len(spec) + 1
        head, equals, value = spec.partition(b"=")
        if not equals:
            if spec.strip(BLANKS) or at <= len(data):  # only after the last semicolon may nothing stand
                return _broken("a tag without =")
            continue
        name = head.strip(BLANKS)
        if not _NAME.fullmatch(name):
            return _broken("a tag with a bad name")
        if name in values:
            return _broken(f"{name.decode()}= twice")
        if len(values) >= TAG_LIMIT:
            return _broken(f"more than {TAG_LIMIT} tags")
        first = first or name
        values[name] = value.strip(BLANKS)
        spans[name] = (start + len(head) + 1, start + len(spec))
    if not values:
        return _broken("empty")
    return TagList(values, spans, first)


def _broken(error: str) -> TagList:
    return TagList({}, {}, error=error)


def without_blanks(value: bytes) -> bytes:
    """A base64 value with its folding removed."""
    return value.translate(None, BLANKS)
