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
