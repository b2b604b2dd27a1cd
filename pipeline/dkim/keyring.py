"""Which keys sign for which author, and signing with all of them.

Reads OpenDKIM's two tables (opendkim.conf(5), KeyTable and SigningTable, plain and ``refile:`` form), so that a site can
move its keys as they are. No disk here: the caller gives the texts, and a function that reads a key.

    KeyTable       name  domain:selector:/path/to/key      (domain may be %: that of the author)
    SigningTable   pattern  name[,name...]                 (a user, a domain, @domain, .domain; or * wild cards)
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.adapters.crypto import KeyProblem, PrivateKey
from pipeline.adapters.dkimpy import SigningError, sign
from pipeline.dmarc import author_domains
from rules.mail.message import Message

ReadKey = Callable[[str], PrivateKey]


class TableError(ValueError):
    """A line of a table that cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key in use. ``domain`` as an A-label; ``%`` stands for the author's domain."""

    domain: str
    selector: str
    key: PrivateKey


@dataclass(frozen=True, slots=True)
class Rule:
    """Authors whom the ``keys`` sign for. ``pattern`` as in OpenDKIM's SigningTable."""

    pattern: str
    keys: tuple[SigningKey, ...]
    wild: bool = False

    def matches(self, address: str, domain: str) -> bool:
        """``address`` lower case, with its domain as A-labels."""
        pattern = self.pattern.lower()
        if self.wild:
            return fnmatch.fnmatchcase(address, pattern)
        if pattern.startswith("."):
            return domain.endswith(pattern)
        return pattern.removeprefix("@") == domain or pattern == address


class KeyRing:
    """The rules in order. The first that matches decides (``every`` False), or all of them sign."""

    def __init__(self, rules: Iterable[Rule] = (), every: bool = False) -> None:
        self.rules = tuple(rules)
        self._every = every

    def keys_for(self, address: str) -> list[SigningKey]:
        """The keys that sign for an author address, each once."""
        address = address.lower()
        domain = address.rpartition("@")[2]
        found: list[SigningKey] = []
        for rule in self.rules:
            if not rule.matches(address, domain):
                continue
            for key in rule.keys:
                own = SigningKey(domain, key.selector, key.key) if key.domain == "%" else key
                if own not in found:
                    found.append(own)
            if not self._every:
                break
        return found

    def sign(self, message: bytes) -> bytes:
        """The DKIM-Signature fields to put in front of a message; b"" when no key of ours is for its author.

        The author is the one address of From. Raises SigningError when a key exists but cannot sign.
        """
        return b"".join(sign(message, key.domain, key.selector, key.key) for key in self.keys_of(message))

    def keys_of(self, message: bytes) -> list[SigningKey]:
        """The keys for the author of a message."""
        if not self.rules:
            return []
        parsed = Message(message)
        domains, problem = author_domains(parsed)
        if problem or len(domains) != 1:
            return []
        mailbox = parsed.from_addresses()[0]
        return self.keys_for(f"{mailbox.local}@{domains[0]}")


def own_domains(keys: Iterable[SigningKey]) -> KeyRing:
    """A ring in which every domain signs for its own authors, with all its keys (Ed25519 beside RSA)."""
    by_domain: dict[str, list[SigningKey]] = {}
    for key in keys:
        by_domain.setdefault(key.domain, []).append(key)
    return KeyRing(Rule(domain, tuple(found)) for domain, found in by_domain.items())


def opendkim_tables(key_table: str, signing_table: str, read_key: ReadKey, refile: bool = False) -> KeyRing:
    """A ring from OpenDKIM's tables. ``refile``: the signing table's patterns have ``*``. Raises TableError."""
    keys: dict[str, SigningKey] = {}
    for number, name, value in _lines(key_table, "KeyTable"):
        domain, _, rest = value.partition(":")
        selector, colon, path = rest.partition(":")
        if not (domain and selector and colon and path):
            raise TableError(f"KeyTable line {number}: not domain:selector:path")
        try:
            keys[name] = SigningKey(domain.lower(), selector, read_key(path.strip()))
        except (OSError, KeyProblem) as error:
            raise TableError(f"KeyTable line {number}: {path}: {error}") from error
    rules = []
    for number, pattern, value in _lines(signing_table, "SigningTable"):
        names = [name for name in re.split(r"[,\s]+", value) if name]
        missing = [name for name in names if name not in keys]
        if missing or not names:
            raise TableError(f"SigningTable line {number}: no key is called {', '.join(missing) or 'so'}")
        rules.append(Rule(pattern, tuple(keys[name] for name in names), wild=refile))
    return KeyRing(rules)


def _lines(text: str, table: str) -> Sequence[tuple[int, str, str]]:
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        words = line.split(None, 1)
        if len(words) != 2:
            raise TableError(f"{table} line {number}: two columns are needed")
        out.append((number, words[0], words[1].strip()))
    return out


__all__ = ["KeyRing", "Rule", "SigningError", "SigningKey", "TableError", "opendkim_tables", "own_domains"]
