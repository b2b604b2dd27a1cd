"""Signatures for DKIM and ARC, and those of JSON Web Keys, on ``cryptography`` (its only importer in the pipeline).

Specification: RFC 8301 (rsa-sha256), RFC 8463 (ed25519-sha256: Ed25519 over the SHA-256 digest), RFC 8017 8.2.
Invariants: a key outside RSA_MIN..RSA_MAX bits, or with a public exponent that is even, tiny or huge, is refused
before anything is computed with it; nothing here raises on octets from the network but ``KeyProblem``.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

RSA_MIN = 1024  # RFC 8301 3.2
RSA_MAX = 4096
EXPONENT_MAX = 1 << 32
DER_LIMIT = 1024  # octets: a 4,096-bit key has about 550
SEED_OCTETS = 32
P256_OCTETS = 32
WEB_RSA_MIN, WEB_RSA_MAX = 2048, 8192

_PADDING = padding.PKCS1v15()
_DIGEST = Prehashed(SHA256())


class KeyProblem(ValueError):
    """A key that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key from a key record. ``kind``: rsa or ed25519."""

    kind: str
    bits: int
    _key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey

    def verify(self, signature: bytes, digest: bytes) -> bool:
        """Does the signature belong to the SHA-256 digest?"""
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, digest, _PADDING, _DIGEST)
            else:
                self._key.verify(signature, digest)
        except (InvalidSignature, ValueError):
            return False
        return True


def load_public(kind: str, data: bytes) -> PublicKey:
    """The key of a ``p=`` tag, decoded: SubjectPublicKeyInfo or RSAPublicKey, or 32 octets. Raises KeyProblem."""
    if kind == "ed25519":
        if len(data) != SEED_OCTETS:
            raise KeyProblem("an Ed25519 key of a wrong length")
        return PublicKey(kind, 256, ed25519.Ed25519PublicKey.from_public_bytes(data))
    if len(data) > DER_LIMIT:
        raise KeyProblem(f"an RSA key of more than {RSA_MAX} bits")
    try:
        key = load_der_public_key(data)  # takes RSAPublicKey too (RFC 6376 erratum 3758)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyProblem("the key cannot be read") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise KeyProblem("not an RSA key")
    if not RSA_MIN <= key.key_size <= RSA_MAX:
        raise KeyProblem(f"an RSA key of {key.key_size} bits")
    exponent = key.public_numbers().e
    if not 3 <= exponent < EXPONENT_MAX or exponent % 2 == 0:
        raise KeyProblem("an RSA key with an unusual exponent")
    return PublicKey("rsa", key.key_size, key)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A signing key of ours. ``kind``: rsa or ed25519."""

    kind: str
    bits: int
    _key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(digest, _PADDING, _DIGEST)
        return self._key.sign(digest)

    @property
    def algorithm(self) -> str:
        return f"{self.kind}-sha256"

    def pem(self) -> bytes:
        """PKCS#8, not encrypted: what `filterd dkim keygen` writes, opendkim and openssl read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def record(self) -> str:
        """The TXT record to publish (RFC 6376 3.6.1; RFC 8463 4)."""
        public = self._key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        else:
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k={self.kind}; p={base64.b64encode(octets).decode()}"


def load_private(data: bytes) -> PrivateKey:
    """A PEM key (PKCS#1 or PKCS#8), or an Ed25519 seed as base64 (dkimpy's form). Raises KeyProblem."""
    if b"-----BEGIN" not in data:
        try:
            seed = base64.b64decode(data.strip(), validate=True)
            return PrivateKey("ed25519", 256, ed25519.Ed25519PrivateKey.from_private_bytes(seed))
        except ValueError as error:
            raise KeyProblem("neither a PEM key nor an Ed25519 seed") from error
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyProblem(f"the private key cannot be read: {error}") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return PrivateKey("ed25519", 256, key)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyProblem("neither an RSA nor an Ed25519 key")
    if not RSA_MIN <= key.key_size <= RSA_MAX:
        raise KeyProblem(f"an RSA key of {key.key_size} bits")
    return PrivateKey("rsa", key.key_size, key)


def generate(kind: str = "rsa", bits: int = 2048) -> PrivateKey:
    """A new key: ``rsa`` (2,048 bits fit every DNS host) or ``ed25519``."""
    if kind == "ed25519":
        return PrivateKey("ed25519", 256, ed25519.Ed25519PrivateKey.generate())
    if kind != "rsa" or not RSA_MIN <= bits <= RSA_MAX:
        raise KeyProblem(f"cannot make a key of kind {kind} with {bits} bits")
    return PrivateKey("rsa", bits, rsa.generate_private_key(public_exponent=65537, key_size=bits))


@dataclass(frozen=True, slots=True)
class WebKey:
    """A public key of a JSON Web Key set. It verifies the one algorithm that its type has here, and no other."""

    algorithm: str  # RS256 or ES256 (RFC 7518 3.1)
    _key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey

    def verify(self, signature: bytes, data: bytes) -> bool:
        """``signature`` as RFC 7518 3.3 and 3.4 have it."""
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, data, _PADDING, SHA256())
            elif len(signature) != 2 * P256_OCTETS:
                return False
            else:
                r, s = (int.from_bytes(part) for part in (signature[:P256_OCTETS], signature[P256_OCTETS:]))
                self._key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True


def web_rsa(modulus: int, exponent: int) -> WebKey:
    """Raises KeyProblem; RFC 7518 3.3 wants 2,048 bits at least."""
    if (
        not WEB_RSA_MIN <= modulus.bit_length() <= WEB_RSA_MAX
        or not 3 <= exponent < EXPONENT_MAX
        or exponent % 2 == 0
    ):
        raise KeyProblem("an RSA key of an unusual size or exponent")
    try:
        return WebKey("RS256", rsa.RSAPublicNumbers(exponent, modulus).public_key())
    except ValueError as error:
        raise KeyProblem("the RSA key cannot be used") from error


def web_p256(x: int, y: int) -> WebKey:
    """A point on P-256. Raises KeyProblem."""
    try:
        return WebKey("ES256", ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    except ValueError as error:
        raise KeyProblem("not a point on P-256") from error
