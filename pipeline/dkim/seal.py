"""ARC sealing of what we hand on.

Specification: RFC 8617 5.1 (the set), 4.1, 5.1.2 (a failed chain is sealed once, over its own set only). Ours, not
dkimpy's: that one needs ``authres`` and reads Authentication-Results back from the message, while we have the results.
Always relaxed/relaxed; the key decides the algorithm (RFC 8617 4.1.1 knows rsa-sha256 and whatever DKIM adds).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Final

from pipeline.adapters.crypto import PrivateKey
from pipeline.dkim import body, canon
from pipeline.dkim.arc import AAR, AMS, SEAL, SETS, ArcResult, read_results
from pipeline.dkim.fields import Fields
from pipeline.dkim.sign import names_to_sign
from pipeline.dkim.signature import NAMES_LIMIT
from pipeline.dkim.tags import parse
from rules.mail.header import HeaderBlock, make_field, scan

_WIDTH: Final = 72


def seal(
    message: bytes,
    domain: str,
    selector: str,
    key: PrivateKey,
    *,
    results: str,
    chain: ArcResult,
    now: float,
    names: Sequence[bytes] | None = None,
) -> bytes:
    """The three fields of a new ARC set, to be put in front of ``message`` (CRLF line ends).

    ``results``: the value of our Authentication-Results (``authserv-id; spf=pass ...``); ``chain``: what our verifier
    said of the chain as the message came. b"" when nothing is to be sealed: the chain is full, was already sealed as
    failed, or could not be judged for want of a DNS answer.
    """
    block = scan(message)
    instance = _highest(block) + 1
    if chain.result == "temperror" or instance > SETS or (chain.result == "fail" and _given_up(block)):
        return b""
    status = "none" if instance == 1 else "pass" if chain.result == "pass" else "fail"
    signed = list(names) if names is not None else _names(block)
    aar = make_field(b"ARC-Authentication-Results", f"i={instance}; {results}".encode("ascii", "replace"))
    common = f"i={instance}; a={key.algorithm}; "
    place = f"d={domain}; s={selector}; t={int(now)}; "
    body_hash = base64.b64encode(body.digest(message, block.body_start, relaxed=True))
    listed = " : ".join(name.decode("ascii") for name in signed)
    ams_tags = f"{common}c=relaxed/relaxed; {place}h={listed}; bh={body_hash.decode()}; b="
    fields = Fields(block)
    head = make_field(b"ARC-Message-Signature", ams_tags.encode("ascii"), _WIDTH)[:-2]
    covered = b"".join(fields.canonical(field, relaxed=True) for field in fields.select(signed))
    ams = _signed(head, AMS, covered, key)
    seal_head = make_field(b"ARC-Seal", f"{common}cv={status}; {place}b=".encode("ascii"), _WIDTH)[:-2]
    covered = b"" if status == "fail" else _older_sets(fields, block)
    for name, field in ((AAR, aar), (AMS, ams)):
        covered += canon.relaxed_header(name, field.partition(b":")[2])
    return _signed(seal_head, SEAL, covered, key) + ams + aar


def _names(block: HeaderBlock) -> list[bytes]:
    """What DKIM would sign, and the DKIM signatures themselves (RFC 8617 4.1.2: they should be covered)."""
    names = names_to_sign(block)
    return [
        *names,
        *(b"dkim-signature" for _ in block.fields_named(b"dkim-signature")[: NAMES_LIMIT - len(names)]),
    ]


def _signed(head: bytes, lname: bytes, covered: bytes, key: PrivateKey) -> bytes:
    """The field that begins with ``head`` (up to ``b=``), its signature over ``covered`` and itself, and CRLF."""
    own = canon.relaxed_header(lname, head.partition(b":")[2])[:-2]
    value = base64.b64encode(key.sign(hashlib.sha256(covered + own).digest()))
    lines = [value[at : at + _WIDTH] for at in range(0, len(value), _WIDTH)]
    return head + b"\r\n\t" + b"\r\n\t".join(lines) + b"\r\n"


def _instances(block: HeaderBlock) -> dict[int, dict[bytes, int]]:
    """Index of the field of each name by instance, as far as they can be read."""
    found: dict[int, dict[bytes, int]] = {}
    for name in (AAR, AMS, SEAL):
        for at, field in enumerate(block.fields_named(name)):
            value = block.value(field)
            number = str(read_results(value)[0]).encode() if name == AAR else parse(value).get(b"i")
            if number.isdigit() and len(number) < 5 and int(number):
                found.setdefault(int(number), {})[name] = at
    return found


def _highest(block: HeaderBlock) -> int:
    return max(_instances(block), default=0)


def _given_up(block: HeaderBlock) -> bool:
    """Has someone before us already sealed the chain as failed?"""
    return any(parse(block.value(field)).get(b"cv") == b"fail" for field in block.fields_named(SEAL))


def _older_sets(fields: Fields, block: HeaderBlock) -> bytes:
    """All sets of a chain that passed, in order of instance, each AAR, AMS, AS."""
    sets = _instances(block)
    return b"".join(
        fields.canonical(block.fields_named(name)[sets[instance][name]], relaxed=True)
        for instance in sorted(sets)
        for name in (AAR, AMS, SEAL)
    )
