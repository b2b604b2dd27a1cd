"""Organisational domains by the Public Suffix List, from ``publicsuffixlist`` (its only importer).

The list comes with the package (MPL data); it is read once, at the first question (about 60 ms).
"""

from __future__ import annotations

from functools import lru_cache

from publicsuffixlist import PublicSuffixList


@lru_cache(maxsize=1)
def _load() -> PublicSuffixList:
    return PublicSuffixList()


@lru_cache(maxsize=4096)
def organisational(domain: str) -> str:
    """The registrable part of a lower-case ASCII domain; the domain itself when it is a public suffix."""
    found = _load().privatesuffix(domain)
    return str(found) if found else domain


@lru_cache(maxsize=4096)
def is_suffix(domain: str) -> bool:
    """Is this a domain under which anyone may register (com, co.uk)?"""
    return bool(_load().publicsuffix(domain) == domain)
