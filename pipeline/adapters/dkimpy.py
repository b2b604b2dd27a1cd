"""DKIM signing by dkimpy (the only importer of ``dkim``), and dkimpy as a second opinion.

Specification: RFC 6376 section 5, RFC 8301, RFC 8463. Settled in PACKAGES.md section 1: dkimpy signs what we send; what
others send is verified by ``pipeline.dkim``, never here.

Set once, when this module is imported: dkimpy's canonical forms are replaced by ours (linear; the tests hold both
against each other), its RSA by ``cryptography`` (ten times faster), and its missing PyNaCl by the same. The header and
the body are given to it already split, so that it neither copies the message line by line nor reads a bare LF as CRLF; of
the body only the hash, made piece by piece: signing 50 MB takes no more memory than signing one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import dkim
import dkim.canonicalization
import dkim.crypto

from pipeline.adapters.crypto import KeyProblem, PrivateKey, load_private
from pipeline.dkim import canon
from pipeline.dkim.body import digest as body_digest
from pipeline.dkim.sign import names_to_sign
from rules.mail.header import scan

Pairs = list[tuple[bytes, bytes]]


class SigningError(ValueError):
    """A message that cannot be signed; the text says why."""


@dataclass(frozen=True, slots=True)
class _Body:
    """Stands for the body of what we sign."""

    message: bytes
    start: int


@dataclass(frozen=True, slots=True)
class _Hashed:
    """Stands for its canonical form: nothing but the hash is wanted of it."""

    digest: bytes


class _Sha256:
    """What dkimpy hashes with."""

    name = "sha256"

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._known: bytes | None = None

    def update(self, data: bytes | _Hashed) -> None:
        if isinstance(data, _Hashed):
            self._known = data.digest
        else:
            self._hash.update(data)

    def digest(self) -> bytes:
        return self._hash.digest() if self._known is None else self._known


def _canonical_body(body: bytes | _Body, relaxed: bool) -> bytes | _Hashed:
    if isinstance(body, _Body):
        return _Hashed(body_digest(body.message, body.start, relaxed))
    return canon.body(body, relaxed)


class _Simple:
    name = b"simple"

    @staticmethod
    def canonicalize_headers(headers: Pairs) -> Pairs:
        return headers

    @staticmethod
    def canonicalize_body(body: bytes | _Body) -> bytes | _Hashed:
        return _canonical_body(body, relaxed=False)


class _Relaxed:
    name = b"relaxed"

    @staticmethod
    def canonicalize_headers(headers: Pairs) -> Pairs:
        out: Pairs = []
        for name, value in headers:
            lname = name.lower().rstrip(b" \t")
            out.append((lname, canon.relaxed_header(lname, value)[len(lname) + 1 :]))
        return out

    @staticmethod
    def canonicalize_body(body: bytes | _Body) -> bytes | _Hashed:
        return _canonical_body(body, relaxed=True)


class _Hash:  # what dkimpy hands over: anything with a digest
    def digest(self) -> bytes:
        raise KeyProblem("no digest")


@dataclass(frozen=True, slots=True)
class _NaclKey:
    """PyNaCl's SigningKey, as far as dkimpy uses it."""

    key: PrivateKey

    def sign(self, digest: bytes) -> SimpleNamespace:
        return SimpleNamespace(signature=self.key.sign(digest))


def _parse_key(key: PrivateKey | bytes) -> PrivateKey:
    return load_private(key) if isinstance(key, bytes) else key


def _rsa_sign(digest: _Hash, key: PrivateKey) -> bytes:
    return key.sign(digest.digest())


def _nacl_key(key: PrivateKey | bytes, encoder: object = None) -> _NaclKey:
    return _NaclKey(_parse_key(key))


dkim.canonicalization.ALGORITHMS[b"simple"] = _Simple
dkim.canonicalization.ALGORITHMS[b"relaxed"] = _Relaxed
for _name in (b"rsa-sha256", b"ed25519-sha256"):
    dkim.HASH_ALGORITHMS[_name] = _Sha256
dkim.parse_pem_private_key = _parse_key
dkim.RSASSA_PKCS1_v1_5_sign = _rsa_sign
dkim.nacl = SimpleNamespace(
    signing=SimpleNamespace(SigningKey=_nacl_key),
    encoding=SimpleNamespace(Base64Encoder=None),
    exceptions=SimpleNamespace(ValueError=KeyProblem, BadSignatureError=KeyProblem),
)


def sign(
    message: bytes,
    domain: str,
    selector: str,
    key: PrivateKey,
    *,
    canonicalization: str = "relaxed/relaxed",
    names: Sequence[bytes] | None = None,
) -> bytes:
    """The DKIM-Signature field, CRLF included, to be put in front of ``message`` (CRLF line ends).

    ``domain`` and ``selector`` as A-labels; ``names``: the h= list, by default that of ``names_to_sign``. The algorithm
    is that of the key. Raises SigningError.
    """
    block = scan(message)
    if b"from" not in block:
        raise SigningError("no From field: nothing to sign for")
    header, _, body_form = canonicalization.partition("/")
    signer = dkim.DKIM(signature_algorithm=key.algorithm.encode())
    signer.headers = [
        (field.name, message[field.value_start : field.end]) for field in block.fields if field.name
    ]
    signer.body = _Body(message, block.body_start)
    try:
        field = signer.sign(
            selector.encode("ascii"),
            domain.encode("ascii"),
            key,
            canonicalize=(header.encode(), (body_form or "simple").encode()),
            include_headers=list(names) if names is not None else names_to_sign(block),
        )
    except (dkim.DKIMException, KeyProblem, UnicodeEncodeError) as error:
        raise SigningError(f"{type(error).__name__}: {error}") from error
    return bytes(field)


def second_opinion(message: bytes, records: dict[str, str], index: int = 0) -> bool:
    """dkimpy's own verdict on one RSA signature, for tests and `filterd check dkim`: only for messages of ours.

    ``records``: TXT by key name. Raises nothing: what dkimpy cannot do is False.
    """

    def answer(name: bytes, timeout: float = 5) -> bytes | None:
        found = records.get(name.decode("ascii", "replace").rstrip("."))
        return found.encode("latin-1") if found is not None else None

    try:
        return bool(dkim.DKIM(message).verify(index, dnsfunc=answer))
    except (dkim.DKIMException, ValueError):
        return False
