"""Addresses that a script wants to write to: strict, where reading is lenient.

Specification: RFC 5228 2.4.2.3 (an addr-spec, or a mailbox with display name), RFC 5322 3.4; dots may stand
anywhere in a local part, as some old systems have them. ASCII only, as the RFC says. The expressions are
linear: no branch can match the same text twice.
"""

from __future__ import annotations

import re

from rules.mail.address import quote_local

_ATEXT = r"A-Za-z0-9!#$%&'*+\-/=?^_`{|}~"
_LOCAL = rf'(?:[{_ATEXT}.]++|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*+")'
_DOMAIN = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_\-]*+)(?:\.[A-Za-z0-9_\-]++)*+|\[[!-Z^-~]*+\])"
_SPEC = re.compile(rf"[ \t]*+({_LOCAL})[ \t]*+@[ \t]*+({_DOMAIN})[ \t]*+")
_PHRASE = re.compile(rf'[ \t]*+(?:(?:[{_ATEXT}.]++|"(?:[^"\\]|\\.)*+")[ \t]*+)*+')
_QUOTED_PAIR = re.compile(r"\\(.)")
_LONGEST = 998


def out_address(text: str) -> str | None:
    """The plain address in ``user@domain`` or ``Name <user@domain>``; None when it is anything else."""
    if len(text) > _LONGEST or not text.isascii():
        display, bracket, rest = text.partition("<")
        if len(text) > _LONGEST or not bracket or not rest.isascii():
            return None
        text = "".join(char if char.isascii() else "x" for char in display) + bracket + rest
    found = _SPEC.fullmatch(text)
    if found is None and text.rstrip(" \t").endswith(">"):
        phrase = _PHRASE.match(text)
        start = phrase.end() if phrase else 0
        if text[start : start + 1] == "<":
            found = _SPEC.fullmatch(text.rstrip(" \t"), start + 1, len(text.rstrip(" \t")) - 1)
    if found is None or len(found[1]) > 64 + 2 or len(found[2]) > 255:
        return None
    return f"{_local(found[1])}@{found[2]}"


def _local(text: str) -> str:
    """RFC 5321 4.1.2: a local part is quoted only where it must be."""
    return quote_local(_QUOTED_PAIR.sub(r"\1", text[1:-1])) if text.startswith('"') else text
