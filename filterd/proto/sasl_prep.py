"""SASLprep: how user names and passwords are made comparable before SCRAM hashes them.

Specification: RFC 4013, a profile of RFC 3454 (stringprep), with the tables of Python's ``stringprep``. Complete: yes;
strings that are stored and queries are treated alike but for unassigned code points, which only queries may have.
"""

from __future__ import annotations

import stringprep
import unicodedata

# RFC 4013 2.3
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Unprepared(ValueError):
    """The string has characters that SASLprep prohibits."""


def saslprep(text: str, *, stored: bool = False) -> str:
    """The prepared string; ``stored``: unassigned code points of Unicode 3.2 are refused. Raises Unprepared."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(ch) else ch for ch in text if not stringprep.in_table_b1(ch)
    )
    done = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for ch in done:
        if any(prohibited(ch) for prohibited in _PROHIBITED):
            raise Unprepared(f"U+{ord(ch):04X} is prohibited")
        if stored and stringprep.in_table_a1(ch):
            raise Unprepared(f"U+{ord(ch):04X} is unassigned")
    # RFC 3454 6: right-to-left strings have no left-to-right letters, and begin and end right-to-left.
    if any(stringprep.in_table_d1(ch) for ch in done):
        if any(stringprep.in_table_d2(ch) for ch in done):
            raise Unprepared("directions are mixed")
        if not (stringprep.in_table_d1(done[0]) and stringprep.in_table_d1(done[-1])):
            raise Unprepared("a right-to-left string begins and ends so")
    return done
