"""The aliases of one domain: names and patterns of the configuration, and alias files of other mail servers.

Order: names of the configuration; then each file in the order listed (Postfix looks up virtual aliases before people, too);
then, where there is no such account, patterns of the configuration (``*-sales``, ``/expression/``); at the very end what a
file says for ``@domain``, before ``catch_all``. A file is looked at anew when it or what it includes changes.

Invariant: a file that cannot be read, or has a line that nobody understands, makes nobody unknown. Its last good state holds; While
one was never read ``ready`` is False and the answer for the whole domain is "later"; where the only state has such lines, or
a long file is being read again (``filterd.accounts.aside``), ``whole`` is False, and who is not found is asked to come later.
Safe to use from several threads.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filterd.accounts import aliasfile
from filterd.accounts.aliasfile import Entry, Fault, Rule, Table
from filterd.accounts.aside import Aside
from filterd.accounts.outlets import Permits
from rules.regexes import Pattern

MAX_FILE = 16 << 20  # octets
CONFIGURED = "filterd.toml"

log = logging.getLogger("filterd.accounts")

Stamp = tuple[int, int, int]


class Aliases:
    def __init__(
        self,
        domain: str,
        configured: Mapping[str, tuple[str, ...]],
        files: Sequence[str] = (),
        includes: bool = False,
        permits: Permits = aliasfile.NOTHING_ALLOWED,
    ) -> None:
        self._domain = domain
        self._names = {name: targets for name, targets in configured.items() if not is_pattern(name)}
        self._patterns = [_rule(name, targets) for name, targets in configured.items() if is_pattern(name)]
        self._files = [_File(*kind_of(file), domain, includes, permits) for file in files]

    @property
    def ready(self) -> bool:
        """Was every file read at least once?"""
        return all([file.table() is not None for file in self._files])

    @property
    def whole(self) -> bool:
        """Is everything that the files say now understood?"""
        return all([file.whole() for file in self._files])

    @property
    def state(self) -> tuple[int, ...]:
        """Changes with the files."""
        return tuple(file.version for file in self._files if file.table() is not None)

    def find(self, local: str, written: str = "") -> Entry | None:
        """What stands before an account of that name. ``local`` is folded, ``written`` is not."""
        targets = self._names.get(local)
        if targets is not None:
            return Entry(targets, CONFIGURED)
        for file in self._files:
            table = file.table()
            entry = table.find(local, self._domain, written) if table is not None else None
            if entry is not None:
                return _resolved(entry, local)
        return None

    def pattern(self, local: str) -> Entry | None:
        """What stands behind: for names that nobody has."""
        return next((entry for rule in self._patterns if (entry := rule.match(local)) is not None), None)

    def everybody(self, local: str) -> Entry | None:
        """What a file says for ``@domain``."""
        for file in self._files:
            table = file.table()
            entry = table.names.get(f"@{self._domain}") if table is not None else None
            if entry is not None:
                return _resolved(entry, local)
        return None

    def names(self) -> list[str]:
        """Every name that is written out."""
        found = dict.fromkeys(self._names)
        for file in self._files:
            table = file.table()
            for key in table.names if table is not None else ():
                local, at, domain = key.rpartition("@")
                if not at or (domain == self._domain and local):
                    found[local if at else key] = None
        return list(found)


def _resolved(entry: Entry, local: str) -> Entry:
    """``@other``: the same name there."""
    if not any(target.startswith("@") for target in entry.targets):
        return entry
    targets = tuple(f"{local}{target}" if target.startswith("@") else target for target in entry.targets)
    return replace(entry, targets=targets)


# -- patterns of the configuration ---------------------------------------------------------------------------------------------


def is_pattern(name: str) -> bool:
    return "*" in name or (len(name) > 2 and name[0] == name[-1] == "/")


def check_pattern(name: str, targets: Sequence[str]) -> str:
    """What is wrong with it, or ""."""
    try:
        groups = _compiled(name)[1]
    except ValueError as error:
        return str(error)
    high = max(
        (
            int(ch)
            for target in targets
            for at, ch in enumerate(target)
            if at and target[at - 1] == "\\" and ch.isdigit()
        ),
        default=0,
    )
    return f"\\{high}: there is no such part" if high > groups else ""


def _rule(name: str, targets: Sequence[str]) -> Rule:
    pattern, _ = _compiled(name)
    templates = tuple(_template(target) for target in targets)
    return Rule(pattern, True, templates, f"{CONFIGURED}: {name}")


def _template(target: str) -> str:
    """``\\1`` of the configuration as the ``${1}`` of tables."""
    out, at = "", 0
    while at < len(target):
        ch = target[at]
        if ch == "\\" and target[at + 1 : at + 2].isdigit():
            out += f"${{{target[at + 1]}}}"
            at += 1
        else:
            out += "$$" if ch == "$" else ch
        at += 1
    return out


def _compiled(name: str) -> tuple[Pattern, int]:
    """(pattern over local parts, how many parts it has). Raises ValueError."""
    if name[0] == name[-1] == "/" and len(name) > 2:
        pattern = aliasfile.compiled(name[1:-1], fold=True)
        return pattern, _groups(name[1:-1])
    pieces = name.split("*")
    source = "(.*)".join(
        "".join(f"\\{ch}" if ch.isascii() and not ch.isalnum() else ch for ch in piece) for piece in pieces
    )
    return aliasfile.compiled(f"^{source}$", fold=True), len(pieces) - 1


def _groups(source: str) -> int:
    """How many groups that keep something: asked of re2 itself, by an alternative that always matches."""
    found = aliasfile.compiled(f"(?:{source})|", fold=True).search("")
    return len(found.groups("")) if found is not None else 0


# -- files ---------------------------------------------------------------------------------------------


def kind_of(text: str) -> tuple[str, str]:
    """("hash", "/etc/postfix/virtual"). Raises ValueError."""
    kind, colon, path = text.partition(":")
    if not colon or kind not in aliasfile.KINDS or not path:
        raise ValueError(f"write KIND:PATH, with one of {', '.join(aliasfile.KINDS)}")
    return kind, path


def faults(
    file: str, domain: str, includes: bool, permits: Permits = aliasfile.NOTHING_ALLOWED
) -> list[Fault]:
    """What config check has to say about a file. Raises OSError."""
    return _File(*kind_of(file), domain, includes, permits).load().faults


@dataclass(slots=True)
class _Loaded:
    table: Table
    stamps: dict[str, Stamp]


class _File:
    def __init__(self, kind: str, path: str, domain: str, includes: bool, permits: Permits) -> None:
        self._kind, self._path, self._domain, self._includes = kind, path, domain, includes
        self._permits = permits
        self._aside = Aside(f"aliases of {domain}", self._changed, self._again)
        self._loaded: _Loaded | None = None
        self._told = ""
        self._seen: dict[str, Stamp] = {}
        self.version = 0

    def table(self) -> Table | None:
        """None when it was never read."""
        self._aside.fresh(wait=self._loaded is None)
        return self._loaded.table if self._loaded is not None else None

    def whole(self) -> bool:
        fresh = self._aside.fresh(wait=self._loaded is None)
        return fresh and self._loaded is not None and self._loaded.table.whole

    def _changed(self) -> bool:
        if self._loaded is None:
            return True
        try:
            changed = any(_stamp(path) != stamp for path, stamp in self._loaded.stamps.items())
        except OSError as error:
            self._complain(error)
            return False
        if not changed:
            self._told = ""
        return changed

    def _again(self) -> None:
        try:
            self._take(self.load())
            self._told = ""
        except (OSError, ValueError) as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if self._told != str(error):
            log.error("aliases of %s: %s cannot be used: %s", self._domain, self._path, error)
        self._told = str(error)

    def _take(self, table: Table) -> None:
        for fault in table.faults:
            log.warning("%s:%s: %s", self._path, fault.place, fault.text)
        if self._loaded is not None and self._loaded.table.whole and not table.whole:
            log.error("%s has lines that cannot be understood: its last good state holds", self._path)
            table = self._loaded.table
        self._loaded = _Loaded(table, self._seen)
        self.version += 1

    def load(self) -> Table:
        """Raises OSError."""
        self._seen = {}
        text = self._text(self._path)
        include = self._include if self._includes else None
        return aliasfile.read(self._kind, text, self._path, self._domain, include, self._permits)

    def _include(self, path: str) -> str:
        if not os.path.isabs(path):
            raise ValueError(f":include:{path}: write the whole path")
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f":include:{path} is no file")
        if found.st_mode & 0o022:
            raise ValueError(
                f":include:{path} can be written by others: nobody knows who decides where mail goes"
            )
        return self._text(path)

    def _text(self, path: str) -> str:
        self._seen[path] = _stamp(path)
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise OSError(f"{path} has more than {MAX_FILE >> 20} MiB")
        return data.decode("utf-8", "surrogateescape")


def _stamp(path: str) -> Stamp:
    found = os.stat(path)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
