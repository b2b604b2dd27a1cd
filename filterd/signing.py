"""Our DKIM keys: those of the configuration, those that `filterd dkim` made, and OpenDKIM's tables.

Which keys sign for a domain: ``dkim`` of its ``[[domain]]``; else the selectors named in ``data_dir/dkim/DOMAIN/active``
(one a line; ``filterd dkim keygen`` and ``rotate`` write it), each with its ``SELECTOR.pem`` beside it; else what
``[dkim]`` key_table and signing_table say. All keys of a domain sign (Ed25519 beside RSA).

Invariants: private keys are written with mode 0600 in a folder of mode 0700; ``active`` never names a key that is not on
disk; read once, when a process starts or reads its configuration again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filterd.config.schema import Config
from filterd.store import durable
from pipeline.adapters.crypto import KeyProblem, PrivateKey, generate, load_private
from pipeline.dkim.keyring import KeyRing, Rule, SigningKey, TableError, opendkim_tables
from pipeline.dns_name import normalise

FOLDER = "dkim"
ACTIVE = "active"
SUFFIX = ".pem"
_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?)*")


class SigningProblem(Exception):
    """A key or table that cannot be used; the text names the file."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A key in the folder. ``signs``: its selector is named in ``active``."""

    selector: str
    path: Path
    signs: bool


def folder_of(config: Config, domain: str) -> Path:
    return Path(config.server.data_dir) / FOLDER / domain


def stored(config: Config, domain: str) -> list[Stored]:
    """The keys that `filterd dkim` made for a domain, oldest first."""
    folder = folder_of(config, domain)
    active = active_selectors(folder)
    paths = sorted(folder.glob("*" + SUFFIX), key=lambda path: (path.stat().st_mtime, path.name))
    return [
        Stored(path.name.removesuffix(SUFFIX), path, path.name.removesuffix(SUFFIX) in active)
        for path in paths
    ]


def active_selectors(folder: Path) -> list[str]:
    try:
        text = (folder / ACTIVE).read_text("ascii", "replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def check_selector(selector: str) -> str:
    """Lower case; raises SigningProblem for what cannot be a DNS name and a file name."""
    lowered = selector.lower()
    if not _SELECTOR.fullmatch(lowered) or normalise(f"{lowered}._domainkey.example.org") is None:
        raise SigningProblem(f'"{selector}" is not a selector: letters, digits, - and dots between them')
    return lowered


def check_domain(text: str) -> str:
    """A domain that can sign, as its A-labels; raises SigningProblem."""
    domain = normalise(text)
    if domain is None or "." not in domain or not _SELECTOR.fullmatch(domain):
        raise SigningProblem(f'"{text}" is not a domain: letters, digits, - and dots between them')
    return domain


def make(config: Config, domain: str, selector: str, kind: str, bits: int) -> tuple[PrivateKey, Path]:
    """A new key on disk, not yet signing. Raises SigningProblem when there is one of that name."""
    selector = check_selector(selector)
    folder = folder_of(config, domain)
    path = folder / (selector + SUFFIX)
    if path.exists():
        raise SigningProblem(f"{path} is there already: choose another --selector")
    try:
        key = generate(kind, bits)
    except KeyProblem as problem:
        raise SigningProblem(str(problem)) from problem
    durable.make_dirs(durable.RealDisk(), str(folder))
    os.chmod(folder, 0o700)
    durable.write_file(path, key.pem())
    os.chmod(path, 0o600)
    return key, path


def activate(config: Config, domain: str, selectors: list[str]) -> None:
    """From the next start (or SIGHUP) on these keys sign for the domain."""
    folder = folder_of(config, domain)
    for selector in selectors:
        if not (folder / (selector + SUFFIX)).is_file():
            raise SigningProblem(f"{folder / (selector + SUFFIX)} is not there")
    durable.write_file(folder / ACTIVE, "".join(f"{one}\n" for one in selectors).encode("ascii"))


def read_key(path: Path | str) -> PrivateKey:
    """Raises SigningProblem."""
    try:
        return load_private(Path(path).read_bytes())
    except (OSError, KeyProblem) as error:
        raise SigningProblem(f"{path}: {error}") from error


def keyring(config: Config) -> KeyRing:
    """All keys of the server. Raises SigningProblem."""
    rules = [
        Rule(domain, tuple(found))
        for domain in dict.fromkeys(domain.name.lower() for domain in config.domain)
        if (found := list(_of_domain(config, domain)))
    ]
    if config.dkim.signing_table:
        rules += _tables(config).rules
    return KeyRing(rules)


def _of_domain(config: Config, domain: str) -> Iterator[SigningKey]:
    name = normalise(domain) or domain
    for section in config.domain:
        if section.name.lower() == domain and section.dkim is not None:
            yield SigningKey(name, section.dkim.selector, read_key(section.dkim.key))
            return
    folder = folder_of(config, domain)
    for selector in active_selectors(folder):
        yield SigningKey(name, selector, read_key(folder / (selector + SUFFIX)))


def _tables(config: Config) -> KeyRing:
    return read_tables(config.dkim.key_table, config.dkim.signing_table)


def read_tables(key_table: str, signing_table: str) -> KeyRing:
    """OpenDKIM's two files; each may be written with ``refile:`` or ``file:`` in front. Raises SigningProblem."""
    keys, signing = _plain(key_table), _plain(signing_table)
    try:
        text = Path(signing).read_text("utf-8")
        # "refile:" of opendkim.conf: patterns with *; the plain form has none
        return opendkim_tables(Path(keys).read_text("utf-8"), text, _table_key, refile="*" in text)
    except (OSError, UnicodeDecodeError) as error:
        raise SigningProblem(str(error)) from error
    except TableError as error:
        raise SigningProblem(f"{keys}, {signing}: {error}") from error


def table_files(config: Config) -> list[tuple[str, str, str]]:
    """(domain, selector, file) of the key table, for showing."""
    out = []
    for line in Path(config.dkim.key_table).read_text("utf-8", "replace").splitlines():
        words = line.split("#")[0].split(None, 1)
        parts = words[1].strip().split(":", 2) if len(words) == 2 else []
        if len(parts) == 3:
            out.append((parts[0], parts[1], parts[2]))
    return out


def _plain(path: str) -> str:
    return path.removeprefix("refile:").removeprefix("file:")


def _table_key(path: str) -> PrivateKey:
    return load_private(Path(path).read_bytes())


def keys_for(ring: KeyRing, address: str) -> list[SigningKey]:
    """The keys that sign for an address or, with an empty local part, for its domain."""
    local, _, domain = address.rpartition("@")
    name = normalise(domain)
    return ring.keys_for(f"{local}@{name}") if name is not None else []
