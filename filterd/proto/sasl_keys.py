"""What a server keeps of a password for SCRAM-SHA-256: a salt and two keys, from which nobody can log in.

Specification: RFC 5802 3, RFC 7677, and RFC 5803 for the form in which they are kept:
``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>``, each of the three in base64.
Pure functions; ``filterd.accounts`` keeps the texts.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass

from filterd.proto.sasl_prep import Unprepared, saslprep

NAME = "SCRAM-SHA-256"
# RFC 7677 4 asks for 4,096 at least; a telephone needs some 10 ms for these.
ITERATIONS = 15_000
SALT_OCTETS = 16
KEY_OCTETS = 32
ITERATIONS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """``known`` False: made up for a name that cannot log in so, and no proof fits."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes
    known: bool = True

    def text(self) -> str:
        salt, stored, server = (
            b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{NAME}${self.iterations}:{salt}${stored}:{server}"

    def proves(self, proof: bytes, auth_message: bytes) -> bool:
        """RFC 5802 3: is ``proof`` ClientKey XOR HMAC(StoredKey, AuthMessage)? In the same time for known and made up."""
        if len(proof) != KEY_OCTETS:
            return False
        signature = _hmac(self.stored_key, auth_message)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), self.stored_key)
        return fits and self.known

    def server_signature(self, auth_message: bytes) -> bytes:
        return _hmac(self.server_key, auth_message)


def derive(password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramKeys:
    """The keys of a password; one that SASLprep refuses is taken as it is, as its clients do. Costs some milliseconds."""
    try:
        octets = saslprep(password).encode("utf-8", "surrogatepass")
    except Unprepared:
        octets = password.encode("utf-8", "surrogatepass")
    salted = hashlib.pbkdf2_hmac("sha256", octets, salt, iterations)
    client_key = _hmac(salted, b"Client Key")
    return ScramKeys(salt, iterations, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key"))


def parse(text: str) -> ScramKeys | None:
    """Keys as ``ScramKeys.text`` wrote them; None for anything else."""
    try:
        name, cost, keys = text.split("$")
        count, salt = cost.split(":")
        stored, server = keys.split(":")
        found = ScramKeys(_decoded(salt), int(count), _decoded(stored), _decoded(server))
    except (ValueError, binascii.Error):
        return None
    whole = len(found.stored_key) == len(found.server_key) == KEY_OCTETS and found.salt
    return found if name == NAME and whole and 0 < found.iterations <= ITERATIONS_MAX else None


def made_up(secret: bytes, name: str, iterations: int = ITERATIONS) -> ScramKeys:
    """For a name without keys: the same salt each time, which tells nobody that it is not a real one (RFC 5802 9)."""
    salt = _hmac(secret, b"salt\0" + name.encode("utf-8", "surrogatepass"))[:SALT_OCTETS]
    stored = _hmac(secret, b"stored\0" + name.encode("utf-8", "surrogatepass"))
    server = _hmac(secret, b"server\0" + name.encode("utf-8", "surrogatepass"))
    return ScramKeys(salt, iterations, stored, server, known=False)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _decoded(text: str) -> bytes:
    return b64decode(text, validate=True)
