"""Verification of a message's DKIM signatures, without IO.

Specification: RFC 6376 section 6, RFC 8301, RFC 8463, RFC 8601 2.7.1 (results). Complete: yes, with stricter policy:
a signature that leaves a part of the body (l=) or a second From, Subject, ... uncovered is ``policy``, not ``pass``.

    verification = Verification(header_block, now)
    for name in verification.wanted(): verification.give(name, answer)      # TXT answers
    for piece in body: verification.feed(piece)                             # while verification.needs_body()
    results = verification.results()

Invariants: at most SIGNATURES signatures are looked at; DNS failure is temperror, an absent or bad key permerror, a
changed message fail; nothing raises on hostile input; linear time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.dkim.body import BodyHashes
from pipeline.dkim.fields import Fields
from pipeline.dkim.keys import KeyRecord, usable
from pipeline.dkim.signature import Problem, Signature, hint, read
from pipeline.ports import DnsAnswer, DnsStatus
from rules.mail.header import HeaderBlock, HeaderField

SIGNATURES: Final = 10
_FIELD: Final = b"dkim-signature"


@dataclass(frozen=True, slots=True)
class SignatureResult:
    """What became of one signature. ``headers``: its h= names in lower case (only of use when it passes).

    ``length``: its l=, None when it signed the whole body; ``key_bits`` 0 when no key was found.
    """

    result: str
    reason: str = ""
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    identity: str = ""
    headers: tuple[bytes, ...] = ()
    length: int | None = None
    key_bits: int = 0
    testing: bool = False
    b_prefix: str = ""

    @property
    def passed(self) -> bool:
        return self.result == "pass"


@dataclass(slots=True)
class _Candidate:
    """A signature on its way to a result."""

    field: HeaderField
    signature: Signature
    keys: list[KeyRecord]
    problem: Problem | None = None


class Verification:
    """All signatures of one message."""

    def __init__(self, block: HeaderBlock, now: float) -> None:
        self._fields = Fields(block)
        self._candidates: list[_Candidate | SignatureResult] = []
        self._answers: dict[str, DnsAnswer] = {}
        self._hashes: BodyHashes | None = None
        found = block.fields_named(_FIELD)
        self.skipped = max(0, len(found) - SIGNATURES)
        for field in found[:SIGNATURES]:
            value = block.value(field)
            signature = read(value, now)
            if isinstance(signature, Problem):
                domain, selector = hint(value)
                refused = SignatureResult(signature.result, signature.reason, domain, selector)
                self._candidates.append(refused)
            else:
                self._candidates.append(_Candidate(field, signature, []))

    def wanted(self) -> list[str]:
        """The names whose TXT records are needed, each once."""
        return list(dict.fromkeys(one.signature.key_name for one in self._open()))

    def _open(self) -> list[_Candidate]:
        return [one for one in self._candidates if isinstance(one, _Candidate)]

    def give(self, name: str, answer: DnsAnswer) -> None:
        """The answer to one of ``wanted``."""
        self._answers[name] = answer

    def needs_body(self) -> bool:
        """Call when all answers are given: is there a signature whose body hash is of use?"""
        if self._hashes is None:
            self._hashes = BodyHashes()
            for one in self._open():
                self._find_key(one)
                if one.problem is None:
                    self._hashes.want(one.signature.relaxed_body, one.signature.length)
        return bool(self._hashes)

    def _find_key(self, one: _Candidate) -> None:
        signature = one.signature
        answer = self._answers.get(signature.key_name)
        if answer is None or answer.status is DnsStatus.TEMPORARY:
            why = answer.reason if answer is not None else "not asked"
            one.problem = Problem("temperror", f"DNS failure for the key: {why or 'no answer'}")
            return
        if not answer.records:
            one.problem = Problem("permerror", "no key record")
            return
        keys, reason = usable(answer.records)
        for key in keys:
            refusal = _restriction(key, signature)
            if refusal:
                reason = refusal
            else:
                one.keys.append(key)
        if not one.keys:
            one.problem = Problem("permerror", reason)

    def feed(self, data: bytes) -> None:
        """A piece of the body, in order."""
        if self._hashes is not None:
            self._hashes.feed(data)

    def results(self) -> list[SignatureResult]:
        """One result a signature, in the order of the fields. Call once, after the body."""
        if self.needs_body() and self._hashes is not None:
            self._hashes.finish()
        return [one if isinstance(one, SignatureResult) else self._judge(one) for one in self._candidates]

    def _judge(self, one: _Candidate) -> SignatureResult:
        signature = one.signature
        if one.problem is not None:
            return _result(signature, one.problem.result, one.problem.reason)
        assert self._hashes is not None
        key = one.keys[0]
        total = self._hashes.total(signature.relaxed_body)
        if signature.length is not None and signature.length > total:
            return _result(signature, "fail", "l= is more than the body has", key)
        if self._hashes.digest(signature.relaxed_body, signature.length) != signature.body_hash:
            return _result(signature, "fail", "body changed after signing", key)
        digest = self._fields.digest(
            signature.headers, signature.relaxed_header, one.field, signature.stripped
        )
        for key in one.keys:
            if key.key.verify(signature.value, digest):
                break
        else:
            return _result(signature, "fail", "header changed after signing, or another key", one.keys[0])
        if signature.length is not None and signature.length < total:
            why = f"l= covers {signature.length} of {total} octets of the body"
            return _result(signature, "policy", why, key)
        if not self._fields.complete:
            return _result(signature, "policy", "the header has more fields than we look at", key)
        uncovered = self._fields.uncovered(signature.headers)
        if uncovered:
            why = f"a second {uncovered.decode().title()} field is not signed"
            return _result(signature, "policy", why, key)
        return _result(signature, "pass", "", key)


def _restriction(key: KeyRecord, signature: Signature) -> str:
    """Why this key must not be used for this signature, or nothing (RFC 6376 3.6.1, 6.1.2)."""
    if key.key.kind != signature.kind:
        return "the key is of another kind than the signature"
    if key.hashes is not None and b"sha256" not in key.hashes:
        return "h= of the key does not allow sha256"
    if key.strict_identity and signature.identity_domain != signature.domain:
        return "t=s of the key forbids a subdomain in i="
    return ""


def _result(signature: Signature, result: str, reason: str, key: KeyRecord | None = None) -> SignatureResult:
    return SignatureResult(
        result=result,
        reason=reason,
        domain=signature.domain,
        selector=signature.selector,
        algorithm=signature.algorithm,
        identity=signature.identity,
        headers=signature.headers,
        length=signature.length,
        key_bits=key.key.bits if key is not None else 0,
        testing=key.testing if key is not None else False,
        b_prefix=signature.b_prefix,
    )
