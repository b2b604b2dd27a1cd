"""User regular expressions: the only importer of google-re2.

re2 is linear in the text whatever the pattern is, and refuses patterns that need more than the given memory;
patterns longer than the limit are refused before. POSIX classes work; backreferences and look-around do not
exist.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, cast

import re2

from rules.limits import Limits


class Found(Protocol):
    """One match."""

    def groups(self, default: str = ...) -> tuple[str, ...]:
        """The groups' texts, from 1."""
        ...

    def group(self, number: int) -> str:
        """The text of a group; 0 is the whole match."""
        ...


class Pattern(Protocol):
    """A compiled pattern."""

    def search(self, text: str) -> Found | None:
        """The leftmost match."""
        ...


def compile_pattern(source: str, limits: Limits, *, fold: bool) -> Pattern | str:
    """The pattern, or what is wrong with it. ``fold``: without regard to case."""
    if len(source.encode("utf-8", "surrogatepass")) > limits.regex_size:
        return f"a regular expression has at most {limits.regex_size} octets"
    return _compile(source, limits.regex_memory, fold)


_QUANTIFIERS = "*?{+"
_BREAKS = ".^$)"


def required_literal(source: str) -> str:
    """An ASCII text that is in whatever the expression matches (case aside); empty when none is seen easily.

    Only plain expressions are looked into: characters, escaped punctuation, ``.``, ``^``, ``$``, ``[...]`` and the quantifiers;
    with alternatives or groups nothing is found.
    """
    if "|" in source or "(" in source or not source.isascii():
        return ""
    runs: list[str] = [""]
    index, end = 0, len(source)
    while index < end:
        char = source[index]
        index += 1
        literal = ""
        if char == "\\":
            literal = source[index : index + 1]
            index += 1
            if literal.isalnum() or not literal:
                return ""  # classes and numbered characters
        elif char == "[":
            index = source.find("]", index + (2 if source[index : index + 1] == "^" else 1)) + 1
            if index <= 0 or "[" in source[index - 2 : index] or "[:" in source:
                return ""
        elif char not in _BREAKS:
            literal = char
        following = source[index : index + 1]
        if following and following in _QUANTIFIERS:
            if following == "{":
                index = source.find("}", index)
                if index < 0:
                    return ""
            index += 1
            while source[index : index + 1] in tuple("?+*"):
                index += 1
            runs.append("")
        elif literal:
            runs[-1] += literal
        else:
            runs.append("")
    return max(runs, key=len)


@lru_cache(maxsize=512)
def _compile(source: str, memory: int, fold: bool) -> Pattern | str:
    settings = re2.Options()
    settings.max_mem = memory
    settings.log_errors = False
    settings.case_sensitive = not fold
    settings.dot_nl = True
    settings.never_nl = False
    try:
        return cast(Pattern, re2.compile(source, settings))
    except re2.error as error:
        return str(error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else error)
    except UnicodeError:
        return "the regular expression is not valid text"
