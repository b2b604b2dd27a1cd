"""Which messages are copies of one mail, so that the spam stage need have only the first of them scored: two keys for each.

Equal first keys mean: the same octets behind the header, the same fields in the same order with the same octets, the same
sender as the engine is told of it (``told``: client, HELO, domain of the reverse-path, user, ...), except for what is treated
here:

* ``LEFT_OUT``: what servers write for one delivery or one hop, and results that follow from what the key has;
* ``Received`` without id, ``for`` and date; ``Message-ID`` without its characters (kept: their kinds, what separates them, the
  domain); a ``Date`` of about now without its numbers, any other as it is; of signatures only who signed;
* in all fields the address of a recipient of this transaction (``ann@example.org``, ``ann=example.org`` as lists write it into
  addresses for bounces, ``ann%40example.org``) counts as "the recipient".

In the second key, that of exact copies, Message-ID and Date count with each octet: rules look at them (``EXACT``).

An attacker wants a harmless mail to have the key of a bad one, so that the bad one passes by the harmless one's score. What he
could change without another key is nothing that a mail program shows: the text, its MIME structure, From, Subject and Reply-To
are in the key as they are, a Date that is not now is, and so is all of To and Cc but the recipient's own address. Had he
something to gain by a field that is left out, he could as well send the harmless form of it in the bad mail itself: that scores
the same and is shown the same. What he cannot choose freely (his address, his name, whose preferences count) is in the key.
The other way round, having a wanted mail remembered as spam, needs its very text and sender beforehand, from its very client.
A field that programs may take for more than one (NUL, a CR alone) is never treated, nor is one that is very long. The key begins
with ``mark``, chance of this process, so nobody can work keys out, nor write into a message what stands for "the recipient".

Invariants: linear; never raises; every field that is not named here counts with each of its octets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from rules.mail import date
from rules.mail.header import unfold
from rules.mail.message import Message

NOW: Final = 2 * 3600.0  # seconds; SpamAssassin begins to count a Date that is wrong by three hours
TREATED_OCTETS: Final = 16 << 10  # of a field; a longer one counts as it is
MARKED: Final = 10  # recipients; of more, no address is replaced

LEFT_OUT: Final = frozenset(
    (
        # for whom this delivery is
        b"return-path", b"delivered-to", b"x-original-to", b"x-delivered-to", b"envelope-to", b"x-envelope-to", b"x-rcpt-to",
        # hop by hop, other for each copy
        b"x-received", b"x-google-smtp-source", b"x-gm-message-state", b"x-gm-gg", b"x-google-dkim-signature",
        # results that follow from client, domain, From and text
        b"authentication-results", b"arc-authentication-results", b"received-spf",
    )
)  # fmt: skip

EXACT: Final = frozenset((b"message-id", b"date"))
_VARYING: Final = re.compile(rb"(?i)(?<=\s)(?:id|for)\s+[^\s;()]+")
_BLANKS: Final = re.compile(rb"\s+")
_RUN: Final = re.compile(rb"[A-Za-z0-9]+")
_KINDS: Final = (re.compile(rb"[a-z]"), re.compile(rb"[A-Z]"), re.compile(rb"[0-9]"))
_NUMBER: Final = re.compile(rb"\d+")
_ZONE: Final = re.compile(rb"[+-]\d")
_SIGNER: Final = re.compile(rb"(?:^|;)\s*([ds])\s*=\s*([^;\s]+)")
Treat = Callable[[bytes, float], bytes | None]


def keys(
    message: Message, addresses: Sequence[str], told: Sequence[bytes], now: float, mark: bytes
) -> tuple[bytes, bytes]:
    """32 octets each: of copies, and of exact copies. ``addresses``: of the recipients; ``now``: seconds since the epoch."""
    block, data = message.header, message.data
    pieces = [mark, b"%d" % len(told), *told]
    exact = []
    theirs = _addresses(addresses, data[block.start : block.end].lower())
    for field in block.fields:
        raw = block.raw(field)
        if field.lname in LEFT_OUT and _plain(raw):
            continue
        if theirs is not None:
            raw = theirs.sub(mark, raw)
        treated = _treated(field.lname, raw, now)
        pieces.append(treated)
        if field.lname in EXACT:
            exact.append(raw)
    out = sha256()
    for piece in pieces:
        out.update(b"%d:" % len(piece))
        out.update(piece)
    behind = block.fields[-1].end if block.fields else block.start
    out.update(b"|")
    out.update(memoryview(data)[behind:])
    alike = out.digest()
    return alike, sha256(alike + b"".join(exact)).digest()


def _treated(lname: bytes, raw: bytes, now: float) -> bytes:
    treat = _TREATED.get(lname)
    if treat is None or not _plain(raw):
        return raw
    name, colon, value = raw.partition(b":")
    made = treat(unfold(value).strip(b" \t\r\n"), now)
    return raw if made is None else name + colon + made


def _plain(raw: bytes) -> bool:
    return len(raw) <= TREATED_OCTETS and b"\0" not in raw and raw.count(b"\r") == raw.count(b"\r\n")


def _addresses(addresses: Sequence[str], header: bytes) -> re.Pattern[bytes] | None:
    """Finds the recipients' addresses; None when there are none in ``header`` (lower case)."""
    if len(addresses) > MARKED:
        return None
    found = []
    for address in addresses:
        local, _at, domain = address.lower().encode("utf-8", "replace").rpartition(b"@")
        if local and domain:
            found += [
                form for form in (local + sign + domain for sign in (b"@", b"=", b"%40")) if form in header
            ]
    return re.compile(b"|".join(map(re.escape, found)), re.IGNORECASE) if found else None


def _hop(value: bytes, now: float) -> bytes:
    words = value.rpartition(b";")[0] or value
    return _BLANKS.sub(b" ", _VARYING.sub(b"", words))


def _message_id(value: bytes, now: float) -> bytes:
    left, at, domain = value.rpartition(b"@")
    kinds = b"".join(b"1" if kind.search(left) else b"0" for kind in _KINDS)
    return kinds + _RUN.sub(b"x", left) + at + domain


def _date(value: bytes, now: float) -> bytes | None:
    moment = date.parse(value)
    if moment is None or abs(moment.timestamp() - now) > NOW:
        return None
    zone = _ZONE.search(value)
    end = zone.start() if zone is not None else len(value)
    return _NUMBER.sub(b"0", value[:end]) + value[end:]


def _signature(value: bytes, now: float) -> bytes:
    return b";".join(sorted(name + b"=" + told.lower() for name, told in _SIGNER.findall(value)))


_TREATED: Final[Mapping[bytes, Treat]] = MappingProxyType(
    {
        b"received": _hop,
        b"message-id": _message_id,
        b"date": _date,
        b"dkim-signature": _signature,
        b"domainkey-signature": _signature,
        b"arc-seal": _signature,
        b"arc-message-signature": _signature,
    }
)
