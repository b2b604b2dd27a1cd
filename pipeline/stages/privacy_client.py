"""What a submission tells about the machine and the program that sent it beside the fields of ``privacy``'s list.

With the facts of the session (address, HELO, reverse name) in hand: the host in ``Message-ID``, which mutt and others take from
the machine, gives way to the sender's domain, in ``In-Reply-To`` and ``References`` too where it is the machine of this session
or the one that ``Message-ID`` names, so that threads of one's own messages hold; ``X-`` fields that name the machine go;
``Received`` fields of attached messages that name it are emptied, at any depth. The names of programs in MIME boundaries
(``Apple-Mail``, ``NextPart``) give way to ``part``, wherever the boundary stands, and Apple's parameters of attachments go. What
else the header, the ids and the reports of a mail program tell is in ``privacy_traces``.

Invariants: nothing inside a multipart/signed or an attached message changes but those Received fields, and they only where
nothing is signed; a boundary is only renamed where its part's header spells it out, and to what the text does not hold; each is
looked for in the whole text, so none is renamed where there are more than ``BOUNDARIES`` multiparts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pipeline.edits import Splice
from pipeline.envelope import Client
from pipeline.stages.privacy_traces import (
    AS_IT_IS,
    Machine,
    content_ids,
    fields,
    hops,
    identifiers,
    notification,
)
from rules.mail.header import scan
from rules.mail.message import Message
from rules.mail.mime import Part

SHORTEST = 4  # octets of a name that is looked for
BOUNDARIES = 40  # multiparts; mail programs make less than ten
MOST_PLACES = 4_000  # where they stand
MOST_PARAMETERS = 4_000  # of all parts, that are looked at
_PARAMETER = re.compile(  # or a quoted string of another one: what is inside is text
    rb"(;\s*x-(?:unix-mode|mac-[a-z]+|apple-[a-z-]+)=(?:\"[^\"\r\n]*\"|[^;\s\"]*))|\"(?:[^\"\\]|\\.?)*+(?:\"|\Z)",
    re.I | re.S,
)
_PROGRAMS = (b"Apple-Mail", b"NextPart", b"nextPart", b"_swift_")
_NEUTRAL = b"part"


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
    def machine(self) -> Machine:
        """Finds one of the names."""
        return Machine.of(self.names)


def _nobody(name: str) -> bool:
    if name.startswith("localhost") or name == "unknown":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def traces(message: Message, sender: Sender, removed: dict[str, None]) -> Iterator[Splice]:
    """What goes of a submission; ``removed`` gets the words for the evidence."""
    machine = sender.machine
    yield from identifiers(message, sender.domain, machine, removed)
    yield from fields(message.header, machine, removed)
    if message.header.first(b"content-type") is None:
        return
    parts = list(_parts(message.root))
    if not any(signed_as_it_is(part) for part in parts):
        yield from _boundaries(message, parts, removed)
        yield from content_ids(message, parts, sender.domain, machine, removed)
    yield from _parameters(parts, removed)
    for part in parts:
        yield from notification(part, removed)
        if not machine:
            continue
        if part.message is not None:
            for one in _attached(part.message):
                yield from hops(one.header, machine, removed)
        elif (part.ctype, part.subtype) == ("text", "rfc822-headers") and part.encoding in AS_IT_IS:
            yield from hops(scan(part.data, part.body_start, part.end), machine, removed)


def _parts(root: Part) -> Iterator[Part]:
    """The parts of the sender's own text: not those of attached messages, nor what a signature covers."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        if part.message is None and not signed_as_it_is(part):
            waiting.extend(part.children)


def _attached(root: Part) -> Iterator[Part]:
    """All of an attached message, those attached to it too; not what their authors signed."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        yield part
        if not signed_as_it_is(part):
            waiting.extend(part.children)


def signed_as_it_is(part: Part) -> bool:
    """Does a signature of its author's cover what is inside?"""
    return part.ctype == "multipart" and part.subtype == "signed"


def _boundaries(message: Message, parts: list[Part], removed: dict[str, None]) -> Iterator[Splice]:
    data = message.data
    places = MOST_PLACES
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
        places -= data.count(boundary)
        if places < 0:
            return
        removed["program in boundaries"] = None
        inside = boundary.index(program)
        at = data.find(boundary)
        while at >= 0:
            yield Splice(at + inside, at + inside + len(program), _NEUTRAL)
            at = data.find(boundary, at + len(boundary))


def _parameters(parts: list[Part], removed: dict[str, None]) -> Iterator[Splice]:
    fields = (
        (part.header, one)
        for part in parts
        for name in (b"content-type", b"content-disposition")
        for one in part.header.fields_named(name)
    )
    every = (
        (one, found)
        for header, one in fields
        for found in _PARAMETER.finditer(header.data, one.value_start, one.end)
    )
    for _, found in islice(every, MOST_PARAMETERS):
        if found[1] is not None:
            removed["parameters of attachments"] = None
            yield Splice(found.start(), found.end())
