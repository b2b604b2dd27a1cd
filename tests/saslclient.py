"""The client's side of SCRAM-SHA-256, written from RFC 5802 alone, and RFC 7677's example as a server has it."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from filterd.accounts.directory import Account
from filterd.proto import sasl, sasl_keys
from filterd.proto.sasl_keys import ScramKeys
from filterd.proto.sasl_offer import Mechanisms


@dataclass
class ScramClient:
    """``gs2`` is the whole header; ``binding`` the data behind it in ``c=``."""

    login: str
    password: str
    gs2: str = "n,,"
    binding: bytes = b""
    nonce: str = "rOprNGfwEbeRWgbNEkqO"
    signature: bytes = b""

    @property
    def bare(self) -> str:
        name = self.login.replace("=", "=3D").replace(",", "=2C")
        return f"n={name},r={self.nonce}"

    def first(self) -> bytes:
        return (self.gs2 + self.bare).encode()

    def final(self, server_first: bytes) -> bytes:
        parts = dict(part.split("=", 1) for part in server_first.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), b64decode(parts["s"]), int(parts["i"]))
        channel = b64encode(self.gs2.encode() + self.binding).decode()
        without = f"c={channel},r={parts['r']}"
        message = ",".join((self.bare, server_first.decode(), without)).encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        mask = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        self.signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, mask, strict=True))
        return f"{without},p={b64encode(proof).decode()}".encode()

    def believes(self, server_final: bytes) -> bool:
        return server_final == b"v=" + b64encode(self.signature)


class Example:
    """The keys of RFC 7677's example: user "user", password "pencil"; nobody else has any."""

    def scram(self, login: str) -> ScramKeys:
        known = sasl_keys.derive("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
        return known if login == "user" else sasl_keys.made_up(b"secret", login, 4096)

    def scram_offered(self) -> bool:
        return True


def offer(options: Mapping[str, str]) -> sasl.Offer:
    """For the doors of the dialog scripts: with ``%scram`` what RFC 7677 has, its nonce too; ``clear``: also without TLS."""
    if "scram" not in options:
        return sasl.ONLY_PASSWORDS
    return Mechanisms(
        Example(),
        scram_in_clear=options["scram"] == "clear",
        nonce=lambda: b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    )


def judged(evidence: sasl.Evidence) -> Account | None:
    """What a directory with Example in it says."""
    if isinstance(evidence, sasl.Granted):
        return evidence.account
    good = isinstance(evidence, sasl.Proof) and evidence.good
    return Account("ann@example.org") if good else None
