"""Body hashes of several signatures in one reading of the body.

Specification: RFC 6376 3.4.3 to 3.4.5, 3.7. A body is canonicalised once a form and hashed once a (form, l=); l= counts
octets of the canonical form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.dkim.canon import BodyCanon

if TYPE_CHECKING:
    from hashlib import _Hash

PIECE = 1 << 18  # octets that are canonicalised at once: bounds the memory


@dataclass(slots=True)
class _Sink:
    """One hash of the canonical form, or of its first ``limit`` octets."""

    limit: int | None
    hash: _Hash = field(default_factory=hashlib.sha256)
    taken: int = 0

    def feed(self, piece: bytes) -> None:
        if self.limit is not None and self.taken + len(piece) > self.limit:
            piece = piece[: max(0, self.limit - self.taken)]
        self.taken += len(piece)
        self.hash.update(piece)


@dataclass(slots=True)
class _Form:
    canon: BodyCanon
    total: int = 0
    sinks: dict[int | None, _Sink] = field(default_factory=dict)

    def feed(self, piece: bytes) -> None:
        self.total += len(piece)
        for sink in self.sinks.values():
            sink.feed(piece)


class BodyHashes:
    """``want`` each (form, l=), ``feed`` the body, ``finish``, then ask."""

    def __init__(self) -> None:
        self._forms: dict[bool, _Form] = {}

    def __bool__(self) -> bool:
        return bool(self._forms)

    def want(self, relaxed: bool, limit: int | None) -> None:
        form = self._forms.get(relaxed)
        if form is None:
            form = self._forms[relaxed] = _Form(BodyCanon(relaxed))
        if limit not in form.sinks:
            form.sinks[limit] = _Sink(limit)

    def feed(self, data: bytes) -> None:
        for form in self._forms.values():
            for piece in form.canon.pieces(data):
                form.feed(piece)

    def finish(self) -> None:
        for form in self._forms.values():
            for piece in form.canon.last_pieces():
                form.feed(piece)

    def digest(self, relaxed: bool, limit: int | None) -> bytes:
        return self._forms[relaxed].sinks[limit].hash.digest()

    def total(self, relaxed: bool) -> int:
        """Octets of the whole canonical form."""
        return self._forms[relaxed].total


def digest(data: bytes, start: int, relaxed: bool) -> bytes:
    """The body hash of a message whose body begins at ``start``, in memory that does not grow with it."""
    hashes = BodyHashes()
    hashes.want(relaxed, None)
    view = memoryview(data)
    for at in range(start, len(data), PIECE):
        hashes.feed(bytes(view[at : at + PIECE]))
    hashes.finish()
    return hashes.digest(relaxed, None)
