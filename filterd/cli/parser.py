"""argparse, with "did you mean" for a misspelt action or option."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")
_OPTION = re.compile(r"unrecognized arguments: (--?[\w-]+)")


class Parser(argparse.ArgumentParser):
    """Subparsers are made of the same class."""

    def error(self, message: str) -> NoReturn:
        match = _CHOICE.search(message)
        if match:
            known = re.findall(r"[\w-]+", match[2])
            message = f'there is no "{match[1]}"' + _hint(match[1], known)
        else:
            match = _OPTION.search(message)
            if match:
                message += _hint(match[1], _options(self))
        super().error(message)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of the parser and of its actions."""
    out = list(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                out += _options(inner)
    return list(dict.fromkeys(out))


def _hint(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; there are: {', '.join(known)}"
