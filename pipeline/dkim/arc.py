"""Verification of an ARC chain, without IO.

Specification: RFC 8617 section 5.2, 4.1 (fields), 5.1.1 (what a seal covers). Complete: yes; of the message signatures
only the newest is checked (5.2 step 4; older ones are optional).

Driven like ``pipeline.dkim.verify.Verification``: ``wanted``, ``give``, ``needs_body``, ``feed``, ``result``.
Invariants: at most SETS sets; DNS failure is ``temperror``; nothing raises on hostile input; linear time but for the
seals, which cover all older sets: their size is bounded by HEADER_LIMIT.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from pipeline.dkim.body import BodyHashes
from pipeline.dkim.canon import relaxed_header
from pipeline.dkim.fields import Fields
from pipeline.dkim.keys import KeyRecord, usable
from pipeline.dkim.signature import Problem, Signature, read, read_seal
from pipeline.dkim.tags import FIELD_LIMIT
from pipeline.ports import DnsAnswer, DnsStatus
from rules.mail import comment
from rules.mail.header import HeaderBlock, HeaderField, unfold

SETS: Final = 50  # RFC 8617 4.2.1
HEADER_LIMIT: Final = 256 * 1024  # octets of all ARC fields together
AAR: Final = b"arc-authentication-results"
AMS: Final = b"arc-message-signature"
SEAL: Final = b"arc-seal"
_CFWS: Final = rb"(?:[ \t\r\n]++|" + comment.FEW_LEVELS + rb")*+"
_AAR_INSTANCE: Final = re.compile(
    _CFWS + rb"i" + _CFWS + rb"=" + _CFWS + rb"([0-9]{1,4})" + _CFWS + rb";(.*)\Z", re.DOTALL
)
_QUOTED: Final = re.compile(comment.FEW_LEVELS + rb'|"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def read_results(value: bytes) -> tuple[int, bytes]:
    """i= of an ARC-Authentication-Results and what follows it; 0 when it has none."""
    match = _AAR_INSTANCE.match(value)
    return (int(match[1]), match[2]) if match else (0, b"")


@dataclass(frozen=True, slots=True)
class ArcSet:
    """One hop: who sealed it, and what it said it saw. ``results``: the AAR's text after i=."""

    instance: int
    domain: str
    selector: str
    status: str  # cv=
    results: str
    headers: tuple[bytes, ...] = ()  # h= of its message signature

    def says(self, method: str, result: str) -> bool:
        """Does the AAR contain ``method=result``, outside comments and quoted strings? What a stranger may have had written
        there (a local part with quotes and semicolons) says nothing; nor does a text that cannot be read to its end."""
        text = _QUOTED.sub(b" ", self.results.lower().encode())
        if b'"' in text or b"(" in text:
            return False
        return any(item.split()[:1] == [f"{method}={result}".encode()] for item in text.split(b";")[1:])


@dataclass(frozen=True, slots=True)
class ArcResult:
    """``result``: none, pass, fail or temperror. ``sets`` in order of instance, when the chain is well formed."""

    result: str
    reason: str = ""
    sets: tuple[ArcSet, ...] = ()

    @property
    def headers(self) -> tuple[bytes, ...]:
        """The fields that the newest message signature covers, when the chain passed."""
        return self.sets[-1].headers if self.result == "pass" and self.sets else ()


@dataclass(slots=True)
class _Hop:
    aar: HeaderField
    ams: HeaderField
    seal: HeaderField
    results: str
    message: Signature
    sealed: Signature


class _Broken(Exception):
    pass


@dataclass(slots=True)
class _Slots:
    """The fields of one instance while they are collected."""

    fields: dict[bytes, HeaderField] = field(default_factory=dict)
    results: str = ""
    message: Signature | None = None
    sealed: Signature | None = None


class ArcVerification:
    """The chain of one message."""

    def __init__(self, block: HeaderBlock, now: float) -> None:
        self._block = block
        self._fields = Fields(block)
        self._answers: dict[str, DnsAnswer] = {}
        self._hashes: BodyHashes | None = None
        self._hops: list[_Hop] = []
        self._failure = ""
        try:
            self._hops = self._collect(now)
        except _Broken as broken:
            self._failure = str(broken)

    # -- structure: RFC 8617 5.2 steps 1 to 3 ---------------------------------------------------------------------

    def _collect(self, now: float) -> list[_Hop]:
        block = self._block
        found = [(name, one) for name in (AAR, AMS, SEAL) for one in block.fields_named(name)]
        if len(found) > 3 * SETS:
            raise _Broken(f"more than {SETS} ARC sets")
        if sum(one.end - one.start for _, one in found) > HEADER_LIMIT:
            raise _Broken("the ARC fields are too large")
        slots: dict[int, _Slots] = {}
        for name, one in found:
            self._place(slots, name, one, now)
        hops = []
        for instance in range(1, len(slots) + 1):
            slot = slots.get(instance)
            if slot is None or slot.message is None or slot.sealed is None or AAR not in slot.fields:
                raise _Broken(f"ARC set {instance} is not complete")
            hops.append(
                _Hop(
                    slot.fields[AAR],
                    slot.fields[AMS],
                    slot.fields[SEAL],
                    slot.results,
                    slot.message,
                    slot.sealed,
                )
            )
        for at, hop in enumerate(hops, 1):
            if hop.sealed.status == "fail":
                raise _Broken(f"the seal {at} says that the chain had failed")
            if (hop.sealed.status == "none") != (at == 1):
                raise _Broken(f"cv={hop.sealed.status} in the seal {at}")
        return hops

    def _place(self, slots: dict[int, _Slots], name: bytes, one: HeaderField, now: float) -> None:
        value = self._block.value(one)
        if len(value) > FIELD_LIMIT:
            raise _Broken("an ARC field is too long")
        if name == AAR:
            instance, results = read_results(value)
            if not instance:
                raise _Broken("an ARC-Authentication-Results without i=")
            slot = self._slot(slots, instance, name, one)
            slot.results = unfold(results).decode("utf-8", "replace").strip()
            return
        parsed = read(value, now, arc=True) if name == AMS else read_seal(value, now)
        if isinstance(parsed, Problem):
            raise _Broken(f"{one.name.decode()}: {parsed.reason}")
        slot = self._slot(slots, parsed.instance, name, one)
        if name == AMS:
            if SEAL in parsed.headers:
                raise _Broken("an ARC-Message-Signature signs ARC-Seal")
            slot.message = parsed
        else:
            slot.sealed = parsed

    @staticmethod
    def _slot(slots: dict[int, _Slots], instance: int, name: bytes, one: HeaderField) -> _Slots:
        if not 1 <= instance <= SETS:
            raise _Broken("an ARC field with i= out of range")
        slot = slots.setdefault(instance, _Slots())
        if name in slot.fields:
            raise _Broken(f"two {one.name.decode()} fields with i={instance}")
        slot.fields[name] = one
        return slot

    # -- signatures: steps 4 to 6 ---------------------------------------------------------------------------------

    def wanted(self) -> list[str]:
        """The names whose TXT records are needed, each once."""
        if not self._hops:
            return []
        names = [self._hops[-1].message.key_name, *(hop.sealed.key_name for hop in self._hops)]
        return list(dict.fromkeys(names))

    def give(self, name: str, answer: DnsAnswer) -> None:
        self._answers[name] = answer

    def needs_body(self) -> bool:
        if self._hops and self._hashes is None:
            newest = self._hops[-1].message
            self._hashes = BodyHashes()
            self._hashes.want(newest.relaxed_body, newest.length)
        return bool(self._hashes)

    def feed(self, data: bytes) -> None:
        if self._hashes is not None:
            self._hashes.feed(data)

    def result(self) -> ArcResult:
        """The verdict; call once, after the body."""
        if self._failure:
            return ArcResult("fail", self._failure)
        if not self._hops:
            return ArcResult("none", "no ARC fields")
        self.needs_body()
        sets = tuple(
            ArcSet(
                at,
                hop.sealed.domain,
                hop.sealed.selector,
                hop.sealed.status,
                hop.results,
                hop.message.headers,
            )
            for at, hop in enumerate(self._hops, 1)
        )
        problem = self._message_problem(self._hops[-1])
        for at in range(len(self._hops), 0, -1):
            problem = problem or self._seal_problem(at)
        if problem is not None:
            return ArcResult(problem.result, problem.reason, sets)
        return ArcResult("pass", "", sets)

    def _keys(self, signature: Signature) -> list[KeyRecord] | Problem:
        answer = self._answers.get(signature.key_name)
        if answer is None or answer.status is DnsStatus.TEMPORARY:
            why = answer.reason if answer is not None else "not asked"
            return Problem("temperror", f"DNS failure for a key: {why}")
        keys, reason = usable(answer.records)
        fitting = [
            key
            for key in keys
            if key.key.kind == signature.kind and (key.hashes is None or b"sha256" in key.hashes)
        ]
        return fitting or Problem("fail", f"{signature.key_name}: {reason}")

    def _message_problem(self, hop: _Hop) -> Problem | None:
        signature = hop.message
        keys = self._keys(signature)
        if isinstance(keys, Problem):
            return keys
        assert self._hashes is not None
        self._hashes.finish()
        if signature.length is not None and signature.length != self._hashes.total(signature.relaxed_body):
            return Problem("fail", "the newest ARC-Message-Signature does not cover the whole body")
        if self._hashes.digest(signature.relaxed_body, signature.length) != signature.body_hash:
            return Problem("fail", "body changed after the newest ARC-Message-Signature")
        digest = self._fields.digest(signature.headers, signature.relaxed_header, hop.ams, signature.stripped)
        if not any(key.key.verify(signature.value, digest) for key in keys):
            return Problem("fail", "the newest ARC-Message-Signature does not verify")
        return None

    def _seal_problem(self, instance: int) -> Problem | None:
        hop = self._hops[instance - 1]
        keys = self._keys(hop.sealed)
        if isinstance(keys, Problem):
            return keys
        pieces = []
        for older in self._hops[:instance]:
            pieces += [
                self._fields.canonical(one, relaxed=True) for one in (older.aar, older.ams, older.seal)
            ]
        pieces[-1] = relaxed_header(SEAL, hop.sealed.stripped)[:-2]
        digest = hashlib.sha256(b"".join(pieces)).digest()
        if not any(key.key.verify(hop.sealed.value, digest) for key in keys):
            return Problem("fail", f"the ARC-Seal {instance} does not verify")
        return None
