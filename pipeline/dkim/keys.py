"""Key records: what a selector publishes.

Specification: RFC 6376 3.6.1, 3.6.2.2; RFC 8301 3.2; RFC 8463 3. Complete: yes.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pipeline.adapters.crypto import KeyProblem, PublicKey, load_public
from pipeline.dkim.tags import BLANKS, parse, without_blanks

RECORD_LIMIT: Final = 4096  # octets of a record: bounds the cache of parsed ones
KEY_LIMIT: Final = 2048  # characters of p=
RECORDS: Final = 4  # of several records, how many are tried (RFC 6376 3.6.2.2: results undefined)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A usable key, and what its record restricts it to. ``hashes`` None: any."""

    key: PublicKey
    hashes: frozenset[bytes] | None
    strict_identity: bool  # t=s
    testing: bool  # t=y


def parse_record(record: str) -> KeyRecord | str:
    """The key of one TXT record (latin-1 text), or why there is none."""
    if len(record) > RECORD_LIMIT:
        return "the key record is too long"
    return _parse(record)


@lru_cache(maxsize=2048)
def _parse(record: str) -> KeyRecord | str:
    tags = parse(record.encode("latin-1", "replace"))
    if tags.error:
        return f"the key record is broken: {tags.error}"
    if b"v" in tags and (tags.first != b"v" or tags.get(b"v") != b"DKIM1"):
        return "v= of the key record is not first, or not DKIM1"
    if b"p" not in tags:
        return "the key record has no p="
    services = _list(tags.get(b"s", b"*"))
    if b"*" not in services and b"email" not in services:
        return "the key is not for mail"
    kind = tags.get(b"k", b"rsa")
    if kind not in (b"rsa", b"ed25519"):
        return "a kind of key that we do not know"
    encoded = without_blanks(tags.get(b"p"))
    if not encoded:
        return "the key is revoked"
    if len(encoded) > KEY_LIMIT:
        return "the key is too long"
    try:
        key = load_public(kind.decode(), binascii.a2b_base64(encoded, strict_mode=True))
    except binascii.Error:
        return "p= is not base64"
    except KeyProblem as problem:
        return str(problem)
    flags = _list(tags.get(b"t"))
    hashes = frozenset(_list(tags.get(b"h"))) if b"h" in tags else None
    return KeyRecord(key, hashes, b"s" in flags, b"y" in flags)


def _list(value: bytes) -> list[bytes]:
    return [item.strip(BLANKS) for item in value.split(b":")]


def usable(records: tuple[str, ...]) -> tuple[list[KeyRecord], str]:
    """The keys of a TXT answer, and the reason when there are none."""
    found: list[KeyRecord] = []
    reason = "no key record"
    for record in records[:RECORDS]:
        key = parse_record(record)
        if isinstance(key, KeyRecord):
            found.append(key)
        else:
            reason = key
    return found, reason
