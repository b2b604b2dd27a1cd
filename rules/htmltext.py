"""The visible text of an HTML part: tags out, entities resolved, in linear time.

Not a parser of HTML: what a search for words needs. No branch of the expressions can match the same text
twice.
"""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"<(?:!--.*?(?:-->|\Z)|[^<>]*+>?)", re.DOTALL)
_OPEN = re.compile(r"<(script|style|head)(?=[\s>/])", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")
_BREAKS = ("<br", "<p", "</p", "<div", "</div", "<tr", "</tr", "<td", "<li", "<h", "</h", "<table", "</table")


def visible_text(text: str) -> str:
    """The text a reader sees, blanks run together."""
    kept = _without_hidden(text)
    plain = _TAG.sub(_gap, kept)
    return _BLANKS.sub(" ", html.unescape(plain)).strip()


def _gap(found: re.Match[str]) -> str:
    return " " if found[0].lower().startswith(_BREAKS) else ""


def _without_hidden(text: str) -> str:
    """Without script, style and head; an element that is not closed hides nothing (better a hit too many)."""
    lower = text.lower() if text.isascii() else "".join(map(_lower, text))
    out: list[str] = []
    place = 0
    missing: set[str] = set()
    while (found := _OPEN.search(text, place)) is not None:
        name = found[1].lower()
        out.append(text[place : found.start()])
        place = found.end()
        if name in missing:
            continue
        end = lower.find(f"</{name}", place)
        if end < 0:
            missing.add(name)
        else:
            place = end
    out.append(text[place:])
    return "".join(out)


def _lower(char: str) -> str:
    """Lower case of one character that stays one character, so that places keep."""
    low = char.lower()
    return low if len(low) == 1 else char
