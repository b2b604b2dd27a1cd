"""Who is there in a domain whose store is behind us: everybody, a list of the configuration, or a file.

The file has one name or address a line; what follows a blank on the line does not count, nor do comments (``#``), so a recipient
table of Postfix (``address  OK``) is read as it is; ``@domain`` alone means everybody. It is looked at anew when its time or
size changes. Names are compared without case, and without their subaddress when the whole is not there.

Invariant: a file that cannot be read makes nobody unknown: once it was read its last state holds, before that nobody can tell;
nor can anybody of names that are not in the last state while a long file is being read again (``filterd.accounts.aside``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from filterd.accounts.aside import Aside
from filterd.accounts.names import fold_local

ANY = "any"
FILE = "file:"
DUTY = frozenset({"postmaster", "abuse"})  # RFC 5321 4.5.1, RFC 2142: must be taken

log = logging.getLogger("filterd.accounts")


class Recipients:
    """Of one domain. Safe to use from several threads."""

    def __init__(self, domain: str, entries: Sequence[str], subaddress: str) -> None:
        self._domain = domain
        self._subaddress = subaddress
        self._everybody = not entries or ANY in entries
        self._files = [_File(Path(entry[len(FILE) :]), domain) for entry in entries if entry.startswith(FILE)]
        self._names = frozenset(
            name
            for entry in entries
            if not entry.startswith(FILE) and (name := name_of(entry, domain)) is not None
        )

    def knows(self, local: str) -> bool | None:
        """Is there somebody called ``local`` (folded)? None: that cannot be said now."""
        base = local.partition(self._subaddress)[0] if self._subaddress else local
        wanted = {local, base or local}
        if self._everybody or wanted & self._names or wanted & DUTY:
            return True
        states = [file.names() for file in self._files]
        if any(wanted & names or "" in names for names, _ in states):
            return True
        return False if all(sure for _, sure in states) else None


class _File:
    def __init__(self, path: Path, domain: str) -> None:
        self._path = path
        self._domain = domain
        self._aside = Aside(f"recipients of {domain}", self._changed, self._read)
        self._stamp: tuple[int, int, int] | None = None
        self._known: frozenset[str] | None = None

    def names(self) -> tuple[frozenset[str], bool]:
        """("" among them means everybody, False when others may be there too)."""
        fresh = self._aside.fresh(wait=self._known is None)
        known = self._known
        return (known, fresh) if known is not None else (frozenset(), False)

    def _look(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def _changed(self) -> bool:
        try:
            return self._look() != self._stamp
        except OSError as error:
            log.warning("the recipients of %s cannot be read: %s", self._domain, error)
            return False

    def _read(self) -> None:
        try:
            stamp = self._look()
            self._known = read(self._path.read_text("utf-8", "surrogateescape"), self._domain)
            self._stamp = stamp
        except OSError as error:
            log.warning("the recipients of %s cannot be read: %s", self._domain, error)


def read(text: str, domain: str) -> frozenset[str]:
    """The names of this domain in a file's text."""
    names = set()
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            name = name_of(words[0], domain)
            if name is not None:
                names.add(name)
    return frozenset(names)


def name_of(entry: str, domain: str) -> str | None:
    """The folded local part of a name or address; None when it is of another domain."""
    local, at, place = entry.rpartition("@")
    if not at:
        return fold_local(entry)
    return fold_local(local) if place.lower().rstrip(".") == domain else None
