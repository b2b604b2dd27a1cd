"""Where a submission's text names the machine it was written on, or the program: identifiers, fields, reports.

Identifiers (RFC 5322 3.6.4, RFC 2045 7): the host in ``Message-ID`` and ``Content-ID`` gives way to the sender's domain where it
is the machine's, in ``In-Reply-To``, ``References`` and ``cid:`` too; a left side that is made of the program's name or of an
address (``alpine.LNX...``, ``...JavaMail.root``, SquirrelMail's) gives way to its digest, the same each time, so that threads of
one's own messages hold. ``Reporting-UA`` of a read receipt goes (RFC 8098 3.2.1: it is optional).

Invariants: an identifier of somebody else's is never rewritten; a Content-ID is renamed in all places or in none.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.edits import Splice
from rules.mail import date
from rules.mail.header import HeaderBlock, HeaderField, scan
from rules.mail.message import Message
from rules.mail.mime import Part

HIDDEN = b" from hidden by hidden; "
EPOCH = b"Thu, 01 Jan 1970 00:00:00 +0000"
AS_IT_IS = frozenset(("7bit", "8bit", "binary"))
DIGITS = 24  # of the digest that stands for a left side
MOST_IDS = 40  # Content-IDs that are looked for
MOST_PLACES = 2_000  # where they stand
MOST_BODIES = 2_000  # coded bodies, times Content-IDs, that are looked through
MOST_NAMED = (
    2_000  # identifiers in one header; a field with more goes, or a reader of each would hold everybody up
)
MOST_SPELLINGS = 200  # that look like the machine's IPv6 address
_ID = re.compile(rb"<([^<>@\s]+)@([^<>@\s]+)>")
_PRIVATE = re.compile(
    rb"\[.*\]|(?:.*\.)?(?:local|lan|home|localdomain|internal|intranet|corp|private|home\.arpa|localhost|generated)",
    re.I,
)
_PROGRAM = re.compile(
    rb"\A(?:al)?pine\.|javamail|squirrel|horde|phpmailer|roundcube|outlook|thunderbird|\.(?:fsf|camel)\Z",
    re.I,
)
_OWN_IDS = (b"message-id", b"resent-message-id")
_OTHER_IDS = (b"in-reply-to", b"references")
_OF_RECEIVERS = frozenset((b"authentication-results", b"received-spf", b"comments"))


@dataclass(frozen=True, slots=True)
class Machine:
    """Names and addresses of the client; an IPv6 address is known in each spelling: ``spelled`` finds what may be one."""

    names: tuple[bytes, ...]
    pattern: re.Pattern[bytes] | None
    address: ipaddress.IPv6Address | None
    spelled: re.Pattern[bytes] | None = None
    groups: tuple[bytes, ...] = ()  # of it, that each spelling holds

    @classmethod
    def of(cls, names: tuple[bytes, ...]) -> Machine:
        words = b"|".join(re.escape(name) for name in names)
        pattern = re.compile(rb"(?<![\w.-])(?:" + words + rb")(?![\w-]|\.\w)", re.I) if names else None
        address = next((found for name in names if (found := _ipv6(name))), None)
        if address is None:
            return cls(names, pattern, None)
        groups = [b"%x" % int(group, 16) for group in address.exploded.split(":")[:6] if int(group, 16)]
        return cls(names, pattern, address, _spelled(address), tuple(groups))

    def __bool__(self) -> bool:
        return self.pattern is not None

    def search(self, value: bytes) -> bool:
        """Is one of the names in it, standing for itself?"""
        lower = value.lower()  # most values hold none of it: that is seen fast
        if self.pattern is None:
            return False
        if any(name in lower for name in self.names) and self.pattern.search(value):
            return True
        if self.spelled is None or not all(group in lower for group in self.groups):
            return False
        found = set(self.spelled.findall(value))
        return len(found) > MOST_SPELLINGS or any(_ipv6(text) == self.address for text in found)

    def is_host(self, host: bytes) -> bool:
        bare = host.strip(b"[]").lower()
        if bare in self.names:
            return True
        bare = bare.removeprefix(b"ipv6:")
        return (
            self.spelled is not None
            and self.spelled.fullmatch(bare) is not None
            and _ipv6(bare) == self.address
        )


def _spelled(address: ipaddress.IPv6Address) -> re.Pattern[bytes]:
    """What may be a spelling of it (RFC 4291 2.2): its groups in their order, zeros between them in any number. The rest of what
    looks like an address costs no step of Python."""
    groups = address.exploded.encode("ascii").split(b":")
    quad = address.packed[-4:]
    dotted = [*groups[:6], b".".join(b"%d" % octet for octet in quad)]
    return re.compile(
        rb"(?:(?<=ipv6:)|(?<![0-9a-f.])(?<![0-9a-f:]:))(?:"
        + _groups(groups)
        + rb"|"
        + _groups(dotted)
        + rb")(?![0-9a-f:]|\.[0-9])",
        re.I,
    )


def _groups(groups: Sequence[bytes]) -> bytes:
    out, zeros = b"", True
    for at, group in enumerate(groups):
        if b"." in group:
            return out + (rb"[0:]{0,30}:" if zeros else b":") + re.escape(group)
        digits = group.lstrip(b"0")
        if digits:
            out += rb"[0:]{0,30}+" if zeros and at else rb":0{0,3}" if at else rb"0{0,3}"
            out += digits
        zeros = not digits
    return out + rb"[0:]{0,30}+" if zeros else out


def _ipv6(text: bytes) -> ipaddress.IPv6Address | None:
    if text.count(b":") < 2:
        return None
    try:
        return ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:  # UnicodeDecodeError too
        return None


# -- the header ------------------------------------------------------------------------------


def fields(header: HeaderBlock, machine: Machine, removed: dict[str, None]) -> Iterator[Splice]:
    """Fields that name the machine, and a Return-Path: only who delivers writes one (RFC 5321 4.4)."""
    for one in header.fields:
        told = one.lname.startswith(b"x-") or one.lname in _OF_RECEIVERS
        if one.lname == b"return-path" or (told and machine.search(header.value(one))):
            removed[one.name.decode("ascii", "replace")] = None
            yield Splice(one.start, one.end)


def hops(header: HeaderBlock, machine: Machine, removed: dict[str, None]) -> Iterator[Splice]:
    """``Received`` fields of an attached message that name the machine, emptied of all but their dates."""
    for one in header.fields_named(b"received"):
        value = header.value(one)
        if machine.search(value):
            moment = date.parse(value.rpartition(b";")[2])
            told = date.render(moment).encode("ascii") if moment is not None else EPOCH
            removed["Received of an attached message"] = None
            yield Splice(one.value_start, one.value_start + len(value), HIDDEN + told)


# -- identifiers -----------------------------------------------------------------------------


def identifiers(
    message: Message, domain: bytes, machine: Machine, removed: dict[str, None]
) -> Iterator[Splice]:
    if not domain:
        return
    header, data = message.header, message.data
    # the Message-ID of what somebody sends on as it is (Resent-) is its author's
    own = _OWN_IDS[1:] if b"resent-from" in header else _OWN_IDS
    ids: list[tuple[HeaderField, re.Match[bytes]]] = []
    for one in header.fields:
        if one.lname in _OWN_IDS or one.lname in _OTHER_IDS:
            left = MOST_NAMED - len(ids)
            found_here = list(islice(_ID.finditer(data, one.value_start, one.end), left + 1))
            if len(found_here) > left:
                removed[one.name.decode("ascii", "replace")] = None
                yield Splice(one.start, one.end)
            else:
                ids += [(one, found) for found in found_here]
    own_hosts = {found[2].lower() for one, found in ids if one.lname in own}
    private = {host for host in own_hosts if _PRIVATE.fullmatch(host)}
    known = {host for host in private if b"." in host and not host.startswith((b"[", b"localhost"))}
    for one, found in ids:
        mine, host = one.lname in own, found[2].lower()
        name = one.name.decode("ascii", "replace")
        if machine.is_host(host) or host in (private if mine else known):
            removed[f"host in {name}"] = None
            yield Splice(found.start(2), found.end(2), domain)
        elif not mine and host not in own_hosts:
            continue
        if _PROGRAM.search(found[1]) or any(one in found[1].lower() for one in machine.names):
            removed[f"program in {name}"] = None
            yield Splice(found.start(1), found.end(1), _digest(found[1]))


def _digest(left: bytes) -> bytes:
    """Stands for a left side, each time the same."""
    return hashlib.sha256(left).hexdigest()[:DIGITS].encode()


def content_ids(
    message: Message, parts: Sequence[Part], domain: bytes, machine: Machine, removed: dict[str, None]
) -> Iterator[Splice]:
    """Hosts in Content-ID, and in the references to it (RFC 2392)."""
    if not domain:
        return
    found_all = [
        found
        for part in parts
        for one in part.header.fields_named(b"content-id")
        for found in islice(_ID.finditer(message.data, one.value_start, one.end), MOST_IDS)
    ]
    hosts = {
        host
        for host in {found[2] for found in found_all}
        if machine.is_host(host) or _PRIVATE.fullmatch(host)
    }
    ids = {found[0][1:-1]: found[2] for found in found_all if found[2] in hosts}
    chosen = list(ids.items())[:MOST_IDS]
    attached = sorted((part.message.start, part.message.end) for part in parts if part.message is not None)
    coded = [part for part in parts if ids and part.ctype == "text" and part.encoding not in AS_IT_IS]
    places = sum(message.data.count(whole) for whole, _ in chosen)
    if places > MOST_PLACES or len(coded) * len(chosen) > MOST_BODIES:
        return
    bodies = [(part.body(), part.decoded()) for part in coded]
    for whole, host in chosen:
        if any(body.count(whole) != decoded.count(whole) for body, decoded in bodies):
            continue  # spelled otherwise there: the picture would be lost
        removed["host in Content-ID"] = None
        at = message.data.find(whole)
        while at >= 0:
            end = at + len(whole)
            around = bisect_right(attached, at, key=_start) - 1
            if around < 0 or at >= attached[around][1]:
                yield Splice(end - len(host), end, domain)
            at = message.data.find(whole, end)


def _start(place: tuple[int, int]) -> int:
    return place[0]


# -- reports ---------------------------------------------------------------------------------


def notification(part: Part, removed: dict[str, None]) -> Iterator[Splice]:
    """The program and the host in a read receipt."""
    if (part.ctype, part.subtype) != ("message", "disposition-notification") or part.encoding not in AS_IT_IS:
        return
    for one in scan(part.data, part.body_start, part.end).fields_named(b"reporting-ua"):
        removed["Reporting-UA"] = None
        yield Splice(one.start, one.end)
