"""The visible text of an HTML part: tags out, entities resolved, in linear time.

Not a parser of HTML: what a search for words needs. No branch of the expressions can match the same text
twice.
"""

from __future__ import annotations

import html
import re

_BREAKS = "br|/?p|/?div|/?tr|td|li|/?h|/?table"  # tags that begin so
_ONE = r"<(?:!--.*?(?:-->|\Z)|[^<>]*+>?)"
_TAGS = re.compile(  # a run without a break, or one that may have one: a step of Python for each run, not for each tag
    rf"((?:(?!<(?:{_BREAKS})){_ONE})++(?!<))|(?:{_ONE})++", re.DOTALL | re.IGNORECASE
)
_MANY = re.compile("<<+")  # all but the last are tags without anything
_ENTITIES = 10_000  # in one text that are resolved: one that names nothing costs some microseconds
_OPEN = re.compile(r"<(script|style|head)(?=[\s>/])", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")


def visible_text(text: str) -> str:
    """The text a reader sees, blanks run together."""
    kept = _MANY.sub("<", _without_hidden(text))
    *first, rest = _TAGS.sub(_gap, kept).split("&", _ENTITIES)
    plain = html.unescape("&".join([*first, rest])) if len(first) < _ENTITIES else _some_resolved(first, rest)
    return _BLANKS.sub(" ", plain).strip()


def _some_resolved(first: list[str], rest: str) -> str:
    return f"{html.unescape('&'.join(first))}&{rest}"


def _gap(found: re.Match[str]) -> str:
    return " " if found[1] is None else ""


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
