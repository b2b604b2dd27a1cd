"""Edits of a message as byte splices: the one place that takes header lines out of a message or puts them in front.

RELIABILITY 3.3: a message is never re-serialised. What is not cut out stays octet for octet; whole fields go, with all
their continuation lines; new fields come above the first octet of the message.
Specification: RFC 5322 2.2 (field syntax), 2.1.1 (line lengths), 2.2.3 (folding).

Invariants: a name holds only the octets 33-126 without the colon; a value holds no CR, LF or NUL, it is folded here;
unfolding gives the value back. Of several added fields the first one given is the topmost. ``remove`` only ever
concerns fields of the message as it came, never the ones added by the same call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.verdict import HeaderEdit
from rules.mail.header import HeaderBlock, HeaderField, scan, unfold

LINE = 78  # RFC 5322 2.1.1: a line SHOULD be no more than 78 characters
_WHOLE = re.compile(rb"[!-9;-~]+[ \t]*:[^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+\r\n")
_NAME = re.compile(r"[!-9;-~]{1,77}")
LINE_LIMIT = 998  # RFC 5322 2.1.1: and MUST be no more than 998, without CRLF
_WORD = re.compile(rb"[ \t]*[^ \t]+")
# A message that begins with a blank would continue our last field: what it says would be taken for ours.
GUARD = b"X-Filterd-Malformed: the message began with a continuation line\r\n"


@dataclass(frozen=True, slots=True)
class Splice:
    """Replace the octets ``start`` to ``end`` of the original by ``text``."""

    start: int
    end: int
    text: bytes = b""


def splice(data: bytes, splices: Iterable[Splice]) -> bytes:
    """``data`` with all splices done. Raises ValueError when they overlap or lie outside; equal ones count once."""
    ordered = sorted(set(splices), key=_place)
    if not ordered:
        return data
    parts: list[bytes | memoryview] = []
    view = memoryview(data)
    at = 0
    for one in ordered:
        if not at <= one.start <= one.end <= len(data):
            raise ValueError(f"splice {one.start}..{one.end} overlaps another or lies outside the message")
        parts.append(view[at : one.start])
        parts.append(one.text)
        at = one.end
    parts.append(view[at:])
    return b"".join(parts)


def _place(one: Splice) -> tuple[int, int, bytes]:
    return one.start, one.end, one.text


def render_field(name: str, value: str) -> bytes:
    """``Name: value`` CRLF, folded before blanks. Raises ValueError for what may not stand in a header."""
    if not _NAME.fullmatch(name):  # with room for the colon in a line of LINE
        raise ValueError(f"not a header field name: {name[:80]!r}")
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError(f"CR, LF or NUL in the value of {name}")
    out: list[bytes] = []
    line = name.encode("ascii") + b":"
    for at, word in enumerate(_WORD.findall(value.strip(" \t").encode("utf-8", "replace"))):
        if at and len(line) + len(word) > LINE:
            out.append(line)
            line = word
        else:
            line += word if at else b" " + word
    out.append(line)
    if max(map(len, out)) > LINE_LIMIT:
        raise ValueError(f"a word in the value of {name} is longer than a line may be ({LINE_LIMIT} octets)")
    return b"\r\n".join(out) + b"\r\n"


def removed(block: HeaderBlock, edits: Iterable[HeaderEdit]) -> list[HeaderField]:
    """The fields of a message that the ``remove`` edits concern, in their order."""
    found: dict[int, HeaderField] = {}
    for edit in edits:
        if edit.kind != "remove":
            continue
        if edit.place:
            for field in block.fields[edit.place - 1 : edit.place]:
                found[field.start] = field
            continue
        match = edit.match.lower().encode("utf-8", "replace")
        for field in block.fields_named(edit.name.lower().encode("utf-8", "replace")):
            if not match or match in unfold(block.value(field)).lower():
                found[field.start] = field
    return [found[start] for start in sorted(found)]


def apply(
    data: bytes, edits: Iterable[HeaderEdit], splices: Iterable[Splice] = (), block: HeaderBlock | None = None
) -> bytes:
    """``data`` with the fields removed, the ``splices`` done and the added fields in front, the first one topmost.

    ``block`` is the scanned header of ``data`` when the caller has it. Raises ValueError for an edit that is none
    (``render_field``), for an unknown kind and for splices that overlap.
    """
    edits = tuple(edits)
    added = b"".join(added_lines(edits))
    cuts = list(splices)
    if any(edit.kind == "remove" or edit.place for edit in edits):
        block = block or scan(data)
        cuts += [Splice(field.start, field.end) for field in removed(block, edits)]
        cuts += _placed(block, edits, cuts)
    rest = splice(data, _merged(cuts))
    if added and rest[:1] in (b" ", b"\t"):
        added += GUARD
    return added + rest if added else rest


def added_lines(edits: Iterable[HeaderEdit]) -> list[bytes]:
    """The rendered fields of the ``add`` edits, first given first."""
    out = []
    for edit in edits:
        if edit.kind == "add":
            if not edit.place:
                out.append(_rendered(edit))
        elif edit.kind != "remove":
            raise ValueError(f"unknown kind of header edit: {edit.kind!r}")
    return out


def _rendered(edit: HeaderEdit) -> bytes:
    return whole_field(edit.raw) if edit.raw else render_field(edit.name, edit.value)


def whole_field(raw: bytes) -> bytes:
    """``raw`` when it is exactly one field with its CRLF; else ValueError."""
    if b"\0" in raw or not _WHOLE.fullmatch(raw):
        raise ValueError(f"not one header field: {raw[:80]!r}")
    return raw


def _placed(block: HeaderBlock, edits: Iterable[HeaderEdit], cuts: Iterable[Splice]) -> list[Splice]:
    """Fields that are put between those of the message; at one place in the order given. A place inside a cut is the
    cut's begin."""
    starts: dict[int, list[bytes]] = {}
    for edit in edits:
        if edit.kind == "add" and edit.place:
            at = block.fields[edit.place - 1].start if edit.place <= len(block.fields) else block.end
            for cut in cuts:
                if cut.start < at < cut.end:
                    at = cut.start
            starts.setdefault(at, []).append(_rendered(edit))
    out = []
    for at, lines in starts.items():
        unended = (
            at == block.end and at > 0 and block.data[at - 1 : at] != b"\n"
        )  # the header is cut off in a line
        out.append(Splice(at, at, (b"\r\n" if unended else b"") + b"".join(lines)))
    return out


def _merged(cuts: Iterable[Splice]) -> list[Splice]:
    """Two parties may want the same field gone: a cut inside another cut counts once."""
    out: list[Splice] = []
    for cut in sorted(set(cuts), key=_place):
        if (
            out
            and not cut.text
            and not out[-1].text
            and out[-1].start <= cut.start
            and cut.end <= out[-1].end
        ):
            continue
        if out and not cut.text and not out[-1].text and cut.start == out[-1].start:
            out[-1] = cut
            continue
        out.append(cut)
    return out
