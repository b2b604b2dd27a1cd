"""privacy: what leaves tells less about the sender's machine, network and programs.

Acts on what leaves: mail of our own people, and what scripts and aliases send on (HOUSE item 8). On forwarded mail a
field that a passing DKIM or ARC signature covers (``h=``) stays, or the signature would break: the evidence says
``kept: signed``; the fields of MIME parts and the comment of Mime-Version lie under the body hash or in signed fields as
often as not, so they are touched only when nothing is signed; so is what ``privacy_client`` rewrites, also where a submission
brings a DKIM-Signature of its own (a program's, or that of a message sent on as it is). Our own Received line is written by
pipeline/received.py.

Invariants: whole fields are cut, nothing is rewritten but the comment of Mime-Version, the hops before a submission and what
``privacy_client`` names; the content of attached messages (message/rfc822) is the sender's text and stays, and so does what a
multipart/signed covers; ``X-Filterd-*``, which tells of one recipient, always goes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.edits import Splice
from pipeline.registry import setting
from pipeline.stages.privacy_client import Sender, signed_as_it_is, traces
from pipeline.stages.privacy_traces import EPOCH, HIDDEN
from rules.mail import date
from rules.mail.header import HeaderBlock, HeaderField
from rules.mail.message import Message
from rules.mail.mime import Part

OURS = b"x-filterd-"
SHOWN = 12  # names in the evidence
_FOLDED_NAME = re.compile(rb"([!-9;-~]+)[ \t]*\r?\n[ \t]+:")
_MIME_VERSION = re.compile(rb"[ \t]*1[ \t]*\.[ \t]*0[ \t]*(?=\()")
DEFAULT_STRIP = (
    "User-Agent",
    "X-Mailer",
    "X-MimeOLE",
    "X-Newsreader",
    "X-Mail-Client",
    "X-Mozilla-*",
    "X-Enigmail-*",
    "X-Originating-*",
    "X-Originator-IP",
    "X-Client-IP",
    "X-ClientAddr",
    "X-ClientProxiedBy",
    "X-Forwarded-For",
    "X-Remote-IP",
    "X-Remote-Addr",
    "X-Real-IP",
    "X-Sender-IP",
    "X-Source*",
    "X-PHP-*",
    "X-AntiAbuse",
    "X-Authenticated-Sender",
    "X-Authenticated-User",
    "X-Authentication-Warning",
    "X-Get-Message-Sender-Via",
    "X-HTTP-*",
    "X-WebMail-*",
    "X-Unix-Mode",
    "X-Mailer-*",
    "X-MS-*",
    "X-Microsoft-*",
    "X-MSMail-*",
    "X-OriginatorOrg",
    "X-TMN",
    "X-OLK*",
    "X-Apple-*",
    "X-Universally-Unique-Identifier",
    "X-Uniform-Type-Identifier",
    "X-Account-Key",
    "X-Identity-Key",
    "X-Evolution-*",
    "X-KMail-*",
    "X-K9mail-*",
    "X-Antivirus*",
    "Resent-User-Agent",
    "X-Operating-System",
    "X-Received",
    "X-Remote-Host",
    "X-Sender-Host",
    "X-Host",
)


@dataclass(frozen=True, slots=True)
class PrivacySettings:
    enabled: bool = setting(True, "Take what tells about the sender's machine out of what leaves.")
    strip: tuple[str, ...] = setting(
        DEFAULT_STRIP,
        "Fields to remove; a name may end in * (X-PHP-*). A field that a passing signature covers stays.",
        "patterns",
    )
    client_ip: str = setting(
        "hide", "The client's address and name in our own Received line.", choices=("hide", "keep")
    )
    parts: bool = setting(True, "Also in the headers of the MIME parts.")


@dataclass(frozen=True, slots=True)
class Stripped:
    """What is to be cut out, and what to say about it (``removed``, ``kept``)."""

    splices: tuple[Splice, ...] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)


class Patterns:
    """Field names, some ending in ``*``; compared without case."""

    def __init__(self, patterns: Collection[str]) -> None:
        lower = [pattern.strip().lower().encode("utf-8", "replace") for pattern in patterns]
        self.exact = frozenset(name for name in lower if name and not name.endswith(b"*"))
        # A lone "*" would take the message's whole header: it names nothing.
        self.prefixes = (OURS, *(name[:-1] for name in lower if name.endswith(b"*") and len(name) > 1))

    def match(self, lname: bytes) -> bool:
        return lname in self.exact or lname.startswith(self.prefixes)


def strip(
    message: Message,
    settings: PrivacySettings,
    signed_fields: Collection[bytes] = frozenset(),
    signed: bool = False,
    submitted: bytes = b"",
    sender: Sender | None = None,
) -> Stripped:
    """What privacy cuts out of ``message``.

    ``signed_fields``: lower-case names covered by a passing signature on forwarded mail; ``signed``: there is such a
    signature (it covers the body), known when ``signed_fields`` is not empty. ``submitted``: what our own Received line of
    a message of our own people holds (its id); every other one tells of the sender's own machines, so only its date stays.
    The line itself stays too: a loop through us must still be counted (RFC 5321 6.3). ``sender``: what else tells of whose
    submission it is (``privacy_client``).
    """
    if not settings.enabled:
        return Stripped()
    patterns = Patterns(settings.strip)
    signed = signed or bool(signed_fields) or (sender is not None and b"dkim-signature" in message.header)
    cuts: list[Splice] = []
    removed: dict[str, None] = {}
    kept: dict[str, None] = {}
    for one in message.header.fields:
        lname = one.lname or _name_before_a_fold(message.header, one)
        if not patterns.match(lname):
            if submitted and one.lname == b"received":
                cuts += _hop(message.header, one, submitted, removed)
            continue
        name = _shown(one, lname)
        if lname in signed_fields:
            kept[name] = None
        else:
            removed[name] = None
            cuts.append(Splice(one.start, one.end))
    if not signed:
        cuts += _version_comment(message.header, removed)
        if settings.parts:
            cuts += _part_fields(message, patterns, removed)
        if sender is not None and settings.client_ip == "hide":
            cuts += traces(message, sender, removed)
    evidence = {}
    if removed:
        evidence["removed"] = _names(removed)
    if kept:
        evidence["kept"] = f"signed: {_names(kept)}"
    return Stripped(tuple(_apart(cuts)), evidence)


def _name_before_a_fold(header: HeaderBlock, one: HeaderField) -> bytes:
    """A line that is no field (the colon is on the next one), which some programs read as one."""
    found = _FOLDED_NAME.match(header.data, one.start, one.end)
    return found[1].lower() if found else b""


def _apart(cuts: Collection[Splice]) -> Iterator[Splice]:
    """Each octet is cut once: what lies inside something that goes as a whole goes with it."""
    end = 0
    for one in sorted(set(cuts), key=lambda one: (one.start, -one.end)):
        if one.start >= end:
            end = one.end
            yield one


def _names(names: Collection[str]) -> str:
    shown = list(names)[:SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _hop(
    header: HeaderBlock, one: HeaderField, submitted: bytes, removed: dict[str, None]
) -> Iterator[Splice]:
    """A Received line that came with a submission, emptied of all but its date."""
    value = header.value(one)
    if submitted in value or value.startswith(HIDDEN):
        return
    moment = date.parse(value.rpartition(b";")[2])
    told = date.render(moment).encode("ascii") if moment is not None else EPOCH
    removed["Received of the client"] = None
    yield Splice(one.value_start, one.value_start + len(value), HIDDEN + told)


def _version_comment(header: HeaderBlock, removed: dict[str, None]) -> Iterator[Splice]:
    """``Mime-Version: 1.0 (Mac OS X Mail 16.0)`` names the program: the comment goes."""
    for one in header.fields_named(b"mime-version"):
        value = header.value(one)
        match = _MIME_VERSION.match(value)
        if match:
            removed["Mime-Version comment"] = None
            yield Splice(one.value_start, one.value_start + len(value), b" 1.0")


def _part_fields(message: Message, patterns: Patterns, removed: dict[str, None]) -> Iterator[Splice]:
    if message.header.first(b"content-type") is None:
        return
    waiting: list[Part] = [] if signed_as_it_is(message.root) else list(message.root.children)
    if message.root.message is not None:
        return
    while waiting:
        part = waiting.pop()
        for one in part.header.fields:
            lname = one.lname or _name_before_a_fold(part.header, one)
            if patterns.match(lname):
                removed[_shown(one, lname)] = None
                yield Splice(one.start, one.end)
        if part.message is None and not signed_as_it_is(part):
            waiting.extend(part.children)


def _shown(one: HeaderField, lname: bytes) -> str:
    """A field's name for the evidence."""
    return one.name.decode("ascii", "replace") or lname.decode()
