"""One signature field, read and judged by itself: all that needs neither DNS nor body.

Specification: RFC 6376 3.5, 6.1.1; RFC 8301 (rsa-sha1 and short keys are out); RFC 8616. ARC-Message-Signature has
the same form but for v= and i= (RFC 8617 4.1.2).
Invariant: every cap holds before anything is computed (PACKAGES.md section 1, dkimpy).
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pipeline.dkim.tags import BLANKS, FIELD_LIMIT, TagList, parse, without_blanks
from pipeline.dns_name import normalise

SIGNATURE_LIMIT: Final = 1024  # characters of b= without blanks
NAMES_LIMIT: Final = 200  # names in h=
SKEW: Final = 300  # seconds two clocks may differ
ALGORITHMS: Final = {b"rsa-sha256": "rsa", b"ed25519-sha256": "ed25519"}
_REQUIRED: Final = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
_ARC_REQUIRED: Final = (b"i", b"a", b"b", b"bh", b"d", b"s")
_NUMBER: Final = re.compile(rb"[0-9]{1,76}")
_FIELD_NAME: Final = re.compile(rb"[!-9<-~]++")  # ftext (no colon), no semicolon


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a signature counts for nothing. ``result`` is one of RFC 8601 2.7.1."""

    result: str
    reason: str


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a signature whose form is right.

    ``stripped``: the field's value with b= emptied, as it is hashed. ``length`` None when there is no l=. Only in ARC:
    ``instance`` (i=) and ``status`` (cv= of a seal).
    """

    domain: str
    selector: str
    algorithm: str
    kind: str
    identity: str
    identity_domain: str
    headers: tuple[bytes, ...]
    relaxed_header: bool
    relaxed_body: bool
    length: int | None
    body_hash: bytes
    value: bytes
    b_prefix: str
    stripped: bytes
    instance: int = 0
    status: str = ""

    @property
    def key_name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"


class _Bad(Exception):
    def __init__(self, reason: str, result: str = "permerror") -> None:
        super().__init__(reason)
        self.problem = Problem(result, reason)


def read(value: bytes, now: float, arc: bool = False) -> Signature | Problem:
    """Read the value of a DKIM-Signature (or, ``arc``, ARC-Message-Signature) field, without its final CRLF."""
    if len(value) > FIELD_LIMIT:
        return Problem("permerror", "the signature field is too long")
    tags = parse(value)
    if tags.error:
        return Problem("permerror", f"the signature is broken: {tags.error}")
    try:
        return _read(tags, value, now, arc)
    except _Bad as bad:
        return bad.problem


def read_seal(value: bytes, now: float) -> Signature | Problem:
    """Read the value of an ARC-Seal field (RFC 8617 4.1.3): no body hash, no h=, always relaxed."""
    if len(value) > FIELD_LIMIT:
        return Problem("permerror", "the seal is too long")
    tags = parse(value)
    if tags.error:
        return Problem("permerror", f"the seal is broken: {tags.error}")
    try:
        return _read_seal(tags, value, now)
    except _Bad as bad:
        return bad.problem


def _read_seal(tags: TagList, value: bytes, now: float) -> Signature:
    _require(tags, (b"i", b"a", b"b", b"cv", b"d", b"s"))
    for name in (b"h", b"bh"):
        if name in tags:
            raise _Bad(f"the seal has {name.decode()}=")
    if tags.get(b"cv") not in (b"none", b"pass", b"fail"):
        raise _Bad("cv= is not none, pass or fail")
    algorithm = _algorithm(tags.get(b"a"))
    _times(tags, now)
    domain = _domain(tags.get(b"d"))
    start, end = tags.spans[b"b"]
    return Signature(
        domain=domain,
        selector=_selector(tags.get(b"s"), domain),
        algorithm=algorithm.decode(),
        kind=ALGORITHMS[algorithm],
        identity="",
        identity_domain=domain,
        headers=(),
        relaxed_header=True,
        relaxed_body=True,
        length=None,
        body_hash=b"",
        value=_base64(tags.get(b"b"), "b", SIGNATURE_LIMIT),
        b_prefix="",
        stripped=value[:start] + value[end:],
        instance=_instance(tags),
        status=tags.get(b"cv").decode(),
    )


def _instance(tags: TagList) -> int:
    value = tags.get(b"i")
    if not _NUMBER.fullmatch(value) or len(value) > 4:
        raise _Bad("i= is not a number")
    return int(value)


def _require(tags: TagList, names: tuple[bytes, ...]) -> None:
    for name in names:
        if not tags.get(name):
            raise _Bad(f"the signature has no {name.decode()}=")


def _algorithm(value: bytes) -> bytes:
    if value.lower() == b"rsa-sha1":
        raise _Bad("rsa-sha1 is not accepted (RFC 8301)")
    if value not in ALGORITHMS:
        raise _Bad("an algorithm that we do not know")
    return value


def hint(value: bytes) -> tuple[str, str]:
    """(d, s) of a field that could not be read, for people; printable ASCII."""
    tags = parse(value[:FIELD_LIMIT])
    return _shown(tags.get(b"d")), _shown(tags.get(b"s"))


def _shown(value: bytes) -> str:
    return "".join(chr(octet) if 33 <= octet <= 126 else "?" for octet in value[:253])


def _read(tags: TagList, value: bytes, now: float, arc: bool) -> Signature:
    _require(tags, _ARC_REQUIRED if arc else _REQUIRED)
    if arc and b"h" not in tags:
        raise _Bad("the signature has no h=")
    if not arc and tags.get(b"v") != b"1":
        raise _Bad("v= is not 1")
    algorithm = _algorithm(tags.get(b"a") if arc else tags.get(b"a").lower())
    if not any(
        method.strip(BLANKS).lower() == b"dns/txt" for method in tags.get(b"q", b"dns/txt").split(b":")
    ):
        raise _Bad("q= without dns/txt")
    relaxed_header, relaxed_body = _canonicalization(
        tags.get(b"c", b"relaxed/relaxed" if arc else b"simple/simple")
    )
    _times(tags, now)
    domain = _domain(tags.get(b"d"))
    identity, identity_domain = ("", domain) if arc else _identity(tags, domain)
    signature = _base64(tags.get(b"b"), "b", SIGNATURE_LIMIT)
    body_hash = _base64(tags.get(b"bh"), "bh", 64)
    if len(body_hash) != 32:
        raise _Bad("bh= is not a SHA-256 digest")
    start, end = tags.spans[b"b"]
    return Signature(
        domain=domain,
        selector=_selector(tags.get(b"s"), domain),
        algorithm=algorithm.decode(),
        kind=ALGORITHMS[algorithm],
        identity=identity,
        identity_domain=identity_domain,
        headers=_headers(tags.get(b"h"), arc),
        relaxed_header=relaxed_header,
        relaxed_body=relaxed_body,
        length=_length(tags),
        body_hash=body_hash,
        value=signature,
        b_prefix=without_blanks(tags.get(b"b"))[:8].decode("ascii", "replace"),
        stripped=value[:start] + value[end:],
        instance=_instance(tags) if arc else 0,
    )


def _canonicalization(value: bytes) -> tuple[bool, bool]:
    header, _, body = value.partition(b"/")
    forms = {b"simple": False, b"relaxed": True}
    header, body = header.strip(BLANKS).lower(), body.strip(BLANKS).lower() or b"simple"
    if header not in forms or body not in forms:
        raise _Bad("c= names a form that we do not know")
    return forms[header], forms[body]


def _number(tags: TagList, name: bytes) -> int | None:
    value = tags.get(name)
    if name not in tags:
        return None
    if not _NUMBER.fullmatch(value):
        raise _Bad(f"{name.decode()}= is not a number")
    return int(value)


def _length(tags: TagList) -> int | None:
    return _number(tags, b"l")


def _times(tags: TagList, now: float) -> None:
    signed, expires = _number(tags, b"t"), _number(tags, b"x")
    if signed is not None and signed > now + SKEW:
        raise _Bad("signed in the future")
    if expires is not None and signed is not None and expires <= signed:  # 3.5: x= MUST be greater
        raise _Bad("x= is not after t=")
    if expires is not None and expires + SKEW < now:
        raise _Bad("the signature has expired", "fail")


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise _Bad(f"{name}= is not UTF-8") from None


def _domain(value: bytes) -> str:
    domain = normalise(_text(value, "d"))
    if domain is None or "." not in domain or not _HOST.fullmatch(domain):
        raise _Bad("d= is not a domain")
    return domain


def _selector(value: bytes, domain: str) -> str:
    selector = normalise(_text(value, "s"))
    if (
        selector is None
        or not _HOST.fullmatch(selector)
        or normalise(f"{selector}._domainkey.{domain}") is None
    ):
        raise _Bad("s= is not a selector")
    return selector


_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


def _identity(tags: TagList, domain: str) -> tuple[str, str]:
    """i= and its domain, which must be d= or below it (RFC 6376 3.5)."""
    if b"i" not in tags:
        return "@" + domain, domain
    text = _text(without_blanks(tags.get(b"i")), "i")
    local, at, host = text.rpartition("@")
    found = normalise(host) if at else None
    if found is None or (found != domain and not found.endswith("." + domain)):
        raise _Bad("i= is not in the domain of d=")
    return f"{local}@{found}", found


def _headers(value: bytes, arc: bool) -> tuple[bytes, ...]:
    if arc and not value:
        return ()
    return _known_names(value, arc) if len(value) <= _NAMES_KEPT else _names(value, arc)


def _names(value: bytes, arc: bool) -> tuple[bytes, ...]:
    if value.count(b":") >= NAMES_LIMIT:
        raise _Bad(f"more than {NAMES_LIMIT} names in h=")
    names = tuple(name.strip(BLANKS).lower() for name in value.split(b":") if name.strip(BLANKS))
    for name in names:
        if not _FIELD_NAME.fullmatch(name):
            raise _Bad("h= has a bad name")
    if b"from" not in names and not arc:
        raise _Bad("From is not signed")
    return names


_NAMES_KEPT: Final = 1024  # octets of an h= that is remembered: a sender's are all the same
_known_names = lru_cache(maxsize=512)(_names)


def _base64(value: bytes, name: str, limit: int) -> bytes:
    encoded = without_blanks(value)
    if len(encoded) > limit:
        raise _Bad(f"{name}= is too long")
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except binascii.Error:
        raise _Bad(f"{name}= is not base64") from None
