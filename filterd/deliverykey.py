"""Delivery keys: how a client that lost our reply and sends again leaves one copy (HOUSE item 11)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from pipeline.envelope import Envelope

KEY_OCTETS = 16
PIECE = 2047  # octets: hashlib lets other threads run above
PIECES = 64


def digest_of(data: bytes) -> bytes:
    """SHA-256. Texts of usual size in pieces so small that the library does not hand the interpreter to another thread."""
    if len(data) > PIECES * PIECE:
        return hashlib.sha256(data).digest()
    hashed = hashlib.sha256()
    view = memoryview(data)
    for at in range(0, len(data), PIECE):
        hashed.update(view[at : at + PIECE])
    return hashed.digest()


@dataclass(frozen=True, slots=True)
class DeliveryKeys:
    """Keys of one message. ``secret`` is the server's own; ``digest`` covers the received octets."""

    secret: bytes
    reverse_path: str
    envid: str
    digest: bytes

    @classmethod
    def of(cls, secret: bytes, envelope: Envelope, data: bytes) -> DeliveryKeys:
        """The received text is hashed once a message."""
        return cls(
            secret,
            envelope.reverse_path,
            envelope.mail_params.get("ENVID", ""),
            digest_of(data),
        )

    def key(self, account: str, place: str) -> bytes:
        """KEY_OCTETS octets for one effect: a mailbox of an account, or an address it is sent on to."""
        text = "\0".join((self.reverse_path, self.envid, account, place)).encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text + b"\0" + self.digest, "sha256").digest()[:KEY_OCTETS]
