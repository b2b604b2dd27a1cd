"""`filterd config import NAME [FILE] ...`: a filterd.toml made of other programs' files, and what became of every line.

The new file goes to standard output (or -o FILE, which must not be there yet), the report to standard error. Exit code: 0 every
line found its place, 1 some are left for a person.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from filterd.cli import FOUND, OK, USAGE, CliError
from filterd.cli.options import FILE_NAME, print_json
from filterd.config.errors import render
from filterd.config.load import parse
from filterd.config.values import nearest

if TYPE_CHECKING:
    from filterd.config.takeover.draft import Draft

MAX_FILE = 8 << 20
# Whom we can read, and where Debian has the file. The readers are imported when they read, so that --help stays fast.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "postfix": "/etc/postfix/main.cf",
        "dovecot": "/etc/dovecot/dovecot.conf",
        "opendkim": "/etc/opendkim.conf",
        "opendmarc": "/etc/opendmarc.conf",
        "postsrsd": "/etc/default/postsrsd",
        "maddy": "/etc/maddy/maddy.conf",
    }
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="NAME [FILE]",
        help=f"one of {', '.join(NAMES)}, and its file: a path, or - for standard input (postconf -n); default: where Debian "
        "has it. Several are taken together, the first wins",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the new file here instead of standard output"
    )
    parser.add_argument(
        "--report", action="store_true", help="what became of every line, not only of those left out"
    )
    parser.add_argument(
        "--json", action="store_true", help="the report as JSON, on standard output, with the new file in it"
    )
    parser.add_argument(
        "--hostname", default="", help="how the server is called, when the files do not say it"
    )
    parser.add_argument(
        "--domain", action="append", default=[], help="a domain that is ours; may be repeated"
    )


def run(arguments: argparse.Namespace) -> int:
    from filterd.cli.config import unusable
    from filterd.config.takeover import take_over
    from filterd.config.takeover.draft import Fate
    from filterd.config.takeover.render import Unusable

    texts = [(name, path, _text(name, path)) for name, path in wanted(arguments.sources)]
    target = arguments.output or FILE_NAME
    try:
        text, draft = take_over(texts, target, unusable, arguments.hostname, arguments.domain)
    except Unusable as error:
        raise CliError(str(error), USAGE) from None
    left = sum(outcome.fate is Fate.LEFT for outcome in draft.outcomes)
    if arguments.json:
        rows = [
            {
                "file": one.line.file,
                "line": one.line.number,
                "text": one.line.shown,
                "fate": one.fate.name.lower(),
                "why": one.why,
            }
            for one in draft.outcomes
        ]
        print_json({"toml": text, "lines": rows, "accounts": draft.accounts})
    else:
        report(draft, arguments.report)
        remarks = parse(text, target).warnings
        if remarks:
            print(f"`filterd config check` remarks:\n{render(remarks)}", file=sys.stderr)
    if arguments.output:
        write(arguments.output, text)
        print(f"{arguments.output} is written; `filterd config check` takes it", file=sys.stderr)
    elif not arguments.json:
        print(text, end="")
    return FOUND if left else OK


def wanted(words: Sequence[str]) -> list[tuple[str, str]]:
    """(program, file) of the words of the command line. Raises CliError."""
    out: list[tuple[str, str]] = []
    for word in words:
        if word in NAMES:
            out.append((word, NAMES[word]))
        elif out and ("/" in word or "." in word or word == "-") and out[-1][1] == NAMES[out[-1][0]]:
            out[-1] = (out[-1][0], word)
        else:
            hint = nearest(word, list(NAMES)) or f"there are: {', '.join(NAMES)}"
            raise CliError(f'there is no way to import "{word}"; {hint}', USAGE)
    return out


def _text(name: str, path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    if os.path.isdir(path):
        path = os.path.join(path, os.path.basename(NAMES[name]))
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read(MAX_FILE + 1)
    except OSError as error:
        hint = f"name it: filterd config import {name} FILE" if path == NAMES[name] else "is the path right?"
        raise CliError(f"{path}: {error.strerror}; {hint}", USAGE) from None
    if len(text) > MAX_FILE:
        raise CliError(f"{path} has more than {MAX_FILE >> 20} MiB", USAGE)
    return text


def report(draft: Draft, whole: bool) -> None:
    """On standard error: counts, and the lines with their reasons."""
    from filterd.config.takeover.draft import Fate
    from filterd.config.takeover.render import told

    for fate in Fate:
        found = [one for one in draft.outcomes if one.fate is fate]
        if found and (whole or fate is Fate.LEFT):
            print(f"{fate.value}:", file=sys.stderr)
            for one in found:
                print(f"  {told(one)}", file=sys.stderr)
    counts = ", ".join(f"{sum(one.fate is fate for one in draft.outcomes)} {fate.value}" for fate in Fate)
    print(counts + ("" if whole else "   (--report names all)"), file=sys.stderr)


def write(path: str, text: str) -> None:
    """A new file, durable, for its owner only: it may hold a password. Raises CliError."""
    if os.path.lexists(path):
        raise CliError(f"{path} is there already; move it away or name another", USAGE)
    from filterd.store.durable import RealDisk, opened

    folder, name = os.path.split(os.path.abspath(path))
    disk = RealDisk()
    try:
        with opened(disk, folder) as at:
            file = disk.write_new(at, text.encode("utf-8"))
            try:
                disk.sync(file)
                disk.publish(file, name)
            except BaseException:
                disk.discard(file)
                raise
            disk.sync_dir(at)
    except OSError as error:
        raise CliError(f"{path} could not be written: {error.strerror}", 75) from None
