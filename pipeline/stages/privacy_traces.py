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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.edits import Splice
from rules.mail import date
from rules.mail.header import HeaderBlock, scan
from rules.mail.message import Message
from rules.mail.mime import Part

HIDDEN = b" from hidden by hidden; "
EPOCH = b"Thu, 01 Jan 1970 00:00:00 +0000"
AS_IT_IS = frozenset(("7bit", "8bit", "binary"))
DIGITS = 24  # of the digest that stands for a left side
MOST_IDS = 40  # Content-IDs that are looked for
_ID = re.compile(rb"<([^<>@\s]+)@([^<>@\s]+)>")
_PRIVATE = re.compile(
    rb"\[.*\]|(?:.*\.)?(?:local|lan|home|localdomain|internal|intranet|corp|private|home\.arpa|localhost|generated)",
    re.I,
)
_PROGRAM = re.compile(
    rb"\A(?:al)?pine\.|javamail|squirrel|horde|phpmailer|roundcube|outlook|thunderbird|\.(?:fsf|camel)\Z",
    re.I,
)
_COLONS = re.compile(rb"(?:ipv6:)?([0-9a-f:.]{3,60})", re.I)
_OWN_IDS = (b"message-id", b"resent-message-id")
_OTHER_IDS = (b"in-reply-to", b"references")
_OF_RECEIVERS = frozenset((b"authentication-results", b"received-spf", b"comments"))


@dataclass(frozen=True, slots=True)
class Machine:
    """Names and addresses of the client; an IPv6 address is known in each spelling."""

    names: tuple[bytes, ...]
    pattern: re.Pattern[bytes] | None
    address: ipaddress.IPv6Address | None

    @classmethod
    def of(cls, names: tuple[bytes, ...]) -> Machine:
        words = b"|".join(re.escape(name) for name in names)
        pattern = re.compile(rb"(?<![\w.-])(?:" + words + rb")(?![\w-]|\.\w)", re.I) if names else None
        return cls(names, pattern, next((found for name in names if (found := _ipv6(name))), None))

    def __bool__(self) -> bool:
        return self.pattern is not None

    def search(self, value: bytes) -> bool:
        """Is one of the names in it, standing for itself?"""
        if self.pattern is None:
            return False
        if self.pattern.search(value):
            return True
        if self.address is None:
            return False
        return any(_ipv6(found[1].rstrip(b".")) == self.address for found in _COLONS.finditer(value))

    def is_host(self, host: bytes) -> bool:
        bare = host.strip(b"[]").lower()
        return bare in self.names or (
            self.address is not None and _ipv6(bare.removeprefix(b"ipv6:")) == self.address
        )


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
    ids = [
        (one, found)
        for one in header.fields
        if one.lname in _OWN_IDS or one.lname in _OTHER_IDS
        for found in _ID.finditer(data, one.value_start, one.end)
    ]
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
    ids = {
        found[0][1:-1]: found[2]
        for part in parts
        for one in part.header.fields_named(b"content-id")
        for found in _ID.finditer(message.data, one.value_start, one.end)
        if machine.is_host(found[2]) or _PRIVATE.fullmatch(found[2])
    }
    attached = [(part.message.start, part.message.end) for part in parts if part.message is not None]
    coded = [
        (part.body(), part.decoded())
        for part in parts
        if ids and part.ctype == "text" and part.encoding not in AS_IT_IS
    ]
    for whole, host in list(ids.items())[:MOST_IDS]:
        if any(body.count(whole) != decoded.count(whole) for body, decoded in coded):
            continue  # spelled otherwise there: the picture would be lost
        removed["host in Content-ID"] = None
        at = message.data.find(whole)
        while at >= 0:
            end = at + len(whole)
            if not any(start <= at < stop for start, stop in attached):
                yield Splice(end - len(host), end, domain)
            at = message.data.find(whole, end)


# -- reports ---------------------------------------------------------------------------------


def notification(part: Part, removed: dict[str, None]) -> Iterator[Splice]:
    """The program and the host in a read receipt."""
    if (part.ctype, part.subtype) != ("message", "disposition-notification") or part.encoding not in AS_IT_IS:
        return
    for one in scan(part.data, part.body_start, part.end).fields_named(b"reporting-ua"):
        removed["Reporting-UA"] = None
        yield Splice(one.start, one.end)
