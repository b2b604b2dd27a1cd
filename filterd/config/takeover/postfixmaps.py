"""Postfix's look-up tables as far as they are text: what a takeover reads from them (postconf's "type:path" words)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from filterd.config.takeover.draft import Draft, Line
from filterd.config.values import ALIAS_KINDS

TEXT_KINDS = ("hash", "texthash", "btree", "lmdb", "cdb", "dbm")
PATTERN_KINDS = ("regexp", "pcre")
MAX_TABLE = 8 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    file: str
    number: int
    key: str
    value: str


class NotText(Exception):
    """Why a table cannot be read: the words for the report."""


def words(text: str) -> list[str]:
    """A list parameter: blanks and commas part; braces keep together."""
    return [word.strip("{}").strip() for word in re.findall(r"\{[^}]*\}|[^\s,]+", text)]


def is_table(word: str) -> bool:
    """ "hash:/x", "mysql:/x", "static:x"; not "[::1]/128" and not a host."""
    return bool(re.match(r"[a-z_]+:", word)) and not word.startswith(("inet:", "unix:", "inet6:", "local:"))


def kind_and_path(word: str) -> tuple[str, str]:
    word = word.removeprefix("proxy:")
    kind, _, path = word.partition(":")
    return kind, path


def alias_file(word: str, kind_of_file: str) -> str | None:
    """For domain.alias_files; None for tables that are no files of this machine. ``kind_of_file``: "aliases" or "" (virtual)."""
    kind, path = kind_and_path(word)
    if kind not in ALIAS_KINDS or not path.startswith("/"):
        return None
    return f"{kind_of_file or kind}:{path}" if kind in TEXT_KINDS else f"{kind}:{path}"


def entries(word: str) -> Iterator[Entry]:
    """The lines of a text table. Raises NotText."""
    kind, path = kind_and_path(word)
    if kind == "inline":
        for pair in re.findall(r"([^\s{},=]+)\s*=\s*([^,{}]+)", path):
            yield Entry(word, 0, pair[0], pair[1].strip())
        return
    if kind not in TEXT_KINDS:
        what = "is no text file" if kind not in PATTERN_KINDS else "holds expressions"
        raise NotText(f"{word} {what}: write what it says into the configuration by hand")
    yield from _lines(path, word)


def told(draft: Draft, line: Line, value: str) -> Iterator[tuple[Line, Entry]]:
    """Each entry of the tables of a parameter with its own line; what became of the tables is told for ``line``."""
    tables = words(value)
    for word in tables:
        try:
            found = list(entries(word))
        except NotText as error:
            draft.left(line, str(error))
            continue
        for entry in found:
            yield Line(entry.file, entry.number, f"{entry.key} {entry.value}"), entry
        draft.same(line, f"{len(found)} entries of {word} are told by themselves")
    if not tables:
        draft.same(line, "no table")


def _lines(path: str, word: str) -> Iterator[Entry]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read(MAX_TABLE)
    except OSError as error:
        raise NotText(f"{word} cannot be read: {error.strerror}") from None
    found: list[Entry] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and found:
            last = found[-1]
            found[-1] = Entry(path, last.number, last.key, f"{last.value} {line.strip()}".strip())
            continue
        key, value = re.match(r"(\S+)\s*(.*)", line.strip(), re.DOTALL).groups()  # type: ignore[union-attr]  # not blank
        found.append(Entry(path, number, key, value))
    yield from found


def names(word: str) -> list[str]:
    """The keys of a table, or the lines of a plain file ("/path"). Raises NotText."""
    if word.startswith("/"):
        return [entry.key for entry in _lines(word, word)]
    return [entry.key for entry in entries(word)]


def next_hop(text: str) -> tuple[str, str] | None:
    """(next hop in our spelling, NOTE) of "smtp:[host]:587", "lmtp:unix:/x", "[host]", "host:25"; None when it has none."""
    text = text.strip()
    scheme = "smtp"
    match = re.match(r"([A-Za-z][\w-]*):(.*)", text)
    if match and not re.fullmatch(r"[\w.-]+:\d+", text):
        scheme, text = match[1], match[2]
    if scheme in ("relay", "smtp-out") or scheme.startswith("smtp"):
        scheme = "smtp"
    if scheme not in ("smtp", "lmtp") or not text:
        return None
    if scheme == "lmtp" and text.startswith("unix:"):
        path = text[5:]
        if not path.startswith("/"):
            path = os.path.join("/var/spool/postfix", path)
        return f"lmtp:unix:{path}", ""
    text = text.removeprefix("inet:")
    match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\w+))?", text)
    if match is None:
        return None
    host = match[1]
    port = {"submission": "587", "smtp": "25", "smtps": "465", "submissions": "465", "lmtp": "24"}.get(
        match[2] or "", match[2]
    )
    note = ""
    if host.startswith("["):
        host = host[1:-1].removeprefix("IPv6:").removeprefix("ipv6:")
        host = f"[{host}]" if ":" in host else host
    elif scheme == "smtp":
        note = "Postfix asked for the MX of this name; filterd goes to the host itself"
    port = port or ("25" if scheme == "smtp" else "24")
    return (f"{scheme}://{host}:{port}", note) if port.isdecimal() else None
