"""What a submission tells about the machine and the program that sent it beside the fields of ``privacy``'s list.

With the facts of the session (address, HELO, reverse name) in hand: the host in ``Message-ID``, which mutt and others take from
the machine, gives way to the sender's domain, in ``In-Reply-To`` and ``References`` too where it is the machine of this session
or the one that ``Message-ID`` names, so that threads of one's own messages hold; ``X-`` fields that name the machine go;
``Received`` fields of attached messages that name it are emptied. The names of programs in MIME boundaries (``Apple-Mail``,
``NextPart``) give way to ``part``, wherever the boundary stands, and Apple's parameters of attachments go.

Invariants: nothing inside a multipart/signed or an attached message changes but those Received fields, and they only where
nothing is signed; a boundary is only renamed where its part's header spells it out, and to what the text does not hold; each is
looked for in the whole text, so none is renamed where there are more than ``BOUNDARIES`` multiparts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.edits import Splice
from pipeline.envelope import Client
from rules.mail import date
from rules.mail.message import Message
from rules.mail.mime import Part

HIDDEN = b" from hidden by hidden; "
EPOCH = b"Thu, 01 Jan 1970 00:00:00 +0000"
SHORTEST = 4  # octets of a name that is looked for
BOUNDARIES = 40  # multiparts; mail programs make less than ten
_ID = re.compile(rb"<[^<>@\s]+@([^<>@\s]+)>")
_PRIVATE = re.compile(
    rb"\[.*\]|(?:.*\.)?(?:local|lan|home|localdomain|internal|intranet|corp|private|home\.arpa|localhost)",
    re.I,
)
_PARAMETER = re.compile(  # or a quoted string of another one: what is inside is text
    rb"(;\s*x-(?:unix-mode|mac-[a-z]+|apple-[a-z-]+)=(?:\"[^\"\r\n]*\"|[^;\s\"]*))|\"(?:[^\"\\]|\\.?)*+(?:\"|\Z)",
    re.I | re.S,
)
_PROGRAMS = (b"Apple-Mail", b"NextPart")
_NEUTRAL = b"part"
_OWN_IDS = (b"message-id", b"resent-message-id")
_OTHER_IDS = (b"in-reply-to", b"references")


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose submission it is. ``names``: of his machine, in lower case; ``domain``: of his address."""

    names: tuple[bytes, ...] = ()
    domain: bytes = b""

    @classmethod
    def of(cls, client: Client, ours: frozenset[str]) -> Sender:
        """``ours``: names that tell nothing about a client."""
        if client.ip is None:  # a command of this machine
            return cls()
        _local, at, domain = client.auth.lower().rpartition("@")
        helo = client.helo.lower().strip("[]").removeprefix("ipv6:")
        found = {client.ip or "", helo, client.name.lower().rstrip(".")}
        names = [name for name in found if len(name) >= SHORTEST and name not in ours and not _nobody(name)]
        return cls(
            tuple(sorted(name.encode("utf-8", "replace") for name in names)),
            domain.encode("utf-8", "replace") if at else b"",
        )

    @property
    def pattern(self) -> re.Pattern[bytes] | None:
        """Finds one of the names that stands for itself."""
        if not self.names:
            return None
        words = b"|".join(re.escape(name) for name in self.names)
        return re.compile(rb"(?<![\w.-])(?:" + words + rb")(?![\w-]|\.\w)", re.I)


def _nobody(name: str) -> bool:
    if name.startswith("localhost") or name == "unknown":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def traces(message: Message, sender: Sender, removed: dict[str, None]) -> Iterator[Splice]:
    """What goes of a submission; ``removed`` gets the words for the evidence."""
    pattern = sender.pattern
    header = message.header
    yield from _identifiers(message, sender, pattern, removed)
    for one in header.fields:
        if pattern is not None and one.lname.startswith(b"x-") and pattern.search(header.value(one)):
            removed[one.name.decode("ascii", "replace")] = None
            yield Splice(one.start, one.end)
    if header.first(b"content-type") is None:
        return
    parts = list(_parts(message.root))
    if not any(signed_as_it_is(part) for part in parts):
        yield from _boundaries(message, parts, removed)
    for part in parts:
        yield from _parameters(part, removed)
        if part.message is not None and pattern is not None:
            yield from _hops(part.message, pattern, removed)


def _identifiers(
    message: Message, sender: Sender, pattern: re.Pattern[bytes] | None, removed: dict[str, None]
) -> Iterator[Splice]:
    if not sender.domain:
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
    private = {found[1].lower() for one, found in ids if one.lname in own and _PRIVATE.fullmatch(found[1])}
    machine = {host for host in private if b"." in host and not host.startswith((b"[", b"localhost"))}
    for one, found in ids:
        host = found[1].lower()
        named = pattern is not None and pattern.fullmatch(host.strip(b"[]")) is not None
        if named or host in (private if one.lname in own else machine):
            removed[f"host in {one.name.decode('ascii', 'replace')}"] = None
            yield Splice(found.start(1), found.end(1), sender.domain)


def _parts(root: Part) -> Iterator[Part]:
    """The parts of the sender's own text: not those of attached messages, nor what a signature covers."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        if part.message is None and not signed_as_it_is(part):
            waiting.extend(part.children)


def signed_as_it_is(part: Part) -> bool:
    """Does a signature of its author's cover what is inside?"""
    return part.ctype == "multipart" and part.subtype == "signed"


def _boundaries(message: Message, parts: list[Part], removed: dict[str, None]) -> Iterator[Splice]:
    data = message.data
    if sum(part.is_multipart for part in parts) > BOUNDARIES:
        return
    for part in parts:
        given = part.content_type.params.get("boundary", "") if part.is_multipart else ""
        boundary = given.encode("ascii", "replace")
        program = next((name for name in _PROGRAMS if name in boundary), None)
        if program is None or boundary.replace(program, _NEUTRAL, 1) in data:
            continue
        fields = part.header.fields_named(b"content-type")
        if not fields or boundary not in part.header.value(fields[0]):  # encoded, or in pieces
            continue
        removed["program in boundaries"] = None
        inside = boundary.index(program)
        at = data.find(boundary)
        while at >= 0:
            yield Splice(at + inside, at + inside + len(program), _NEUTRAL)
            at = data.find(boundary, at + len(boundary))


def _parameters(part: Part, removed: dict[str, None]) -> Iterator[Splice]:
    for name in (b"content-type", b"content-disposition"):
        for one in part.header.fields_named(name):
            start = one.value_start
            for found in _PARAMETER.finditer(part.header.value(one)):
                if found[1] is not None:
                    removed["parameters of attachments"] = None
                    yield Splice(start + found.start(), start + found.end())


def _hops(part: Part, pattern: re.Pattern[bytes], removed: dict[str, None]) -> Iterator[Splice]:
    for one in part.header.fields_named(b"received"):
        value = part.header.value(one)
        if pattern.search(value):
            moment = date.parse(value.rpartition(b";")[2])
            told = date.render(moment).encode("ascii") if moment is not None else EPOCH
            removed["Received of an attached message"] = None
            yield Splice(one.value_start, one.value_start + len(value), HIDDEN + told)
