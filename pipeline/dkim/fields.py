"""The header of one message as DKIM and ARC hash it: fields chosen from the bottom up, in canonical form.

Specification: RFC 6376 5.4.2 (selection), 3.4.1, 3.4.2 (forms), 3.7 (what is hashed).
Invariant: a name in h= beyond the fields that exist contributes nothing (over-signing), each field at most once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.dkim.canon import relaxed_header
from rules.mail.header import HeaderBlock, HeaderField

# Fields of which a message has at most one (RFC 5322 3.6) and which readers believe: a second one that the signature
# does not cover would be shown under the signer's name (RFC 6376 8.15).
SINGLE = (b"from", b"subject", b"date", b"to", b"reply-to", b"content-type", b"content-transfer-encoding")


class Fields:
    """The fields of one header; canonical forms are worked out once for all signatures."""

    def __init__(self, block: HeaderBlock) -> None:
        self.block = block
        self._relaxed: dict[int, bytes] = {}

    def canonical(self, field: HeaderField, relaxed: bool) -> bytes:
        """One field with its CRLF."""
        if not relaxed:
            return self.block.raw(field)
        found = self._relaxed.get(field.start)
        if found is None:
            value = self.block.data[field.value_start : field.end]
            found = self._relaxed[field.start] = relaxed_header(field.lname, value)
        return found

    def select(self, names: Sequence[bytes]) -> list[HeaderField]:
        """The fields that h= names, in its order; several of a name from the bottom up."""
        left: dict[bytes, int] = {}
        out: list[HeaderField] = []
        for name in names:
            fields = self.block.fields_named(name)
            at = left.get(name, len(fields)) - 1
            if at >= 0:
                out.append(fields[at])
            left[name] = max(at, 0)
        return out

    @property
    def complete(self) -> bool:
        """False when the header has fields beyond the limits of ``rules.mail``: readers may see what we do not."""
        fields = self.block.fields
        return not fields or fields[-1].end == self.block.end

    def uncovered(self, names: Sequence[bytes]) -> bytes:
        """The first name of SINGLE that is signed but has a further field which is not; b"" when there is none."""
        for name in SINGLE:
            count = len(self.block.fields_named(name))
            if count > 1 and 0 < names.count(name) < count:
                return name
        return b""

    def digest(self, names: Sequence[bytes], relaxed: bool, own: HeaderField, stripped: bytes) -> bytes:
        """SHA-256 of the chosen fields and the signature field itself, its b= emptied, without the last CRLF."""
        pieces = [self.canonical(field, relaxed) for field in self.select(names)]
        if relaxed:
            pieces.append(relaxed_header(own.lname, stripped)[:-2])
        else:
            pieces.append(self.block.data[own.start : own.value_start] + stripped)
        return hashlib.sha256(b"".join(pieces)).digest()
