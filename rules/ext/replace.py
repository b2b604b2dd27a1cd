"""replace: another text in the place of a MIME part, or of the whole message.

Specification: RFC 5703 section 5. Complete: yes. In a foreverypart loop the current part is replaced, a
multipart with everything in it; elsewhere (and where the current part is the message itself) the whole body:
then all header fields stay but those of MIME, and a changed Subject or From is kept as Original-Subject or
Original-From. Later tests and actions see the new message. Octets around the part are left as they came.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from rules import compose
from rules.context import StateKey
from rules.errors import RunError
from rules.ext.actions import is_address
from rules.ext.foreverypart import current_part
from rules.loops import Replacement
from rules.mail import address, mime, words
from rules.mail.header import make_field, scan
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec
from rules.view import crlf

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.mail.mime import Part

_COUNT: StateKey[list[int]] = StateKey("replace", lambda: [0])


def _is_sender(text: str) -> bool:
    if is_address(text):
        return True
    boxes = address.parse_list(text.encode("utf-8", "replace"))
    return len(boxes.items) > 1 and all(is_address(box.address) for box in boxes.mailboxes)


def _check(checker: Checker, bound: Bound) -> None:
    sender = bound.tag_text("from")
    if isinstance(sender, str) and not _is_sender(sender):
        place = checker.where_tag(bound, "from")
        checker.error(
            place, "address", f'":from" must be an address, not "{sender[:60]}"', "user@domain.example"
        )
    text = bound.text(0)
    if bound.has("mime") and isinstance(text, str) and compose.entity(text) is None:
        message = "with :mime the text must begin with MIME header fields, in ASCII, and an empty line"
        checker.error(checker.where(bound, 0), "mime", message, "Content-Type: text/html; charset=utf-8")


def new_entity(text: str, *, mime: bool) -> tuple[bytes, bytes]:
    """Header (MIME-Version first) and body of a replacement, CRLF. Raises RunError."""
    if mime:
        found = compose.entity(text)
        if found is None:
            raise RunError("replace :mime: the text does not begin with MIME header fields")
        return found
    fields, body = compose.body_fields(text)
    return b"".join(make_field(name, value) for name, value in fields), body


def _without_version(head: bytes) -> bytes:
    """RFC 2045 4: MIME-Version belongs to the top of a message."""
    block = scan(head + b"\r\n")
    return b"".join(block.raw(field) for field in block.fields if field.lname != b"mime-version")


def _boundaries(run: Run, part: Part) -> list[bytes]:
    """The boundaries of the multiparts around a part: a replacement must not have them."""
    return [
        one.params.get("boundary", "").encode("utf-8", "surrogateescape")
        for one in mime.walk(run.loops[0].root)
        if one.is_multipart and one is not part and one.start <= part.start and part.end <= one.end
    ]


def _is_message(run: Run, part: Part) -> bool:
    """Is it the message inside a message/rfc822 part?"""
    return any(one.message is part for one in mime.walk(run.loops[0].root))


def _kept(part: Part) -> bytes:
    """The header of a message but for what describes its body."""
    block = part.header
    return b"".join(
        crlf(block.raw(field)).removesuffix(b"\r\n") + b"\r\n"
        for field in block.fields
        if not field.lname.startswith(b"content-") and field.lname != b"mime-version"
    )


def _collides(data: bytes, boundaries: list[bytes]) -> bool:
    text = b"\n" + data
    return any(b"\n--" + boundary in text for boundary in boundaries)


def _replace(bound: Bound) -> CommandFn:
    is_entity = bound.has("mime")

    def act(run: Run) -> None:
        count = run.get(_COUNT)
        count[0] += 1
        if count[0] > run.limits.header_edits:
            raise RunError(f"a run may replace at most {run.limits.header_edits} times")
        text = run.expand(bound.text(0))
        if len(text) > run.limits.expanded_size:
            raise RunError("replace: the text is too long")
        head, body = new_entity(text, mime=is_entity)
        part = current_part(run)
        run.seen, run.key = text, "message" if part is None else f"{part.ctype}/{part.subtype}"
        if part is None or part.start == 0:
            _whole(run, bound, head, body)
            if part is not None:
                run.loops[0].replaced.append(Replacement(part, b""))
        else:
            _part(run, part, head, body, None if is_entity else text)

    return act


def _whole(run: Run, bound: Bound, head: bytes, body: bytes) -> None:
    """The whole message: the header stays but for what describes the body."""
    block = run.view.header
    subject, sender = bound.tag_text("subject"), bound.tag_text("from")
    fields: list[bytes] = []
    for field in block.fields:
        raw = crlf(block.raw(field))
        raw = raw if raw.endswith(b"\r\n") else raw + b"\r\n"
        if field.lname.startswith(b"content-") or field.lname == b"mime-version":
            continue
        if (field.lname == b"subject" and subject is not None) or (
            field.lname == b"from" and sender is not None
        ):
            raw = b"Original-" + raw
        fields.append(raw)
    if sender is not None:
        text = run.expand(sender)
        if not _is_sender(text):
            raise RunError(f'replace: "{text[:60]}" is not an address')
        fields.append(make_field(b"From", compose.address_field(text)))
    if subject is not None:
        line = compose.subject_text(run.expand(subject), run.limits.subject)
        fields.append(make_field(b"Subject", words.encode_text(line)))
    _set(run, b"".join(fields) + head + b"\r\n" + body)


def _set(run: Run, data: bytes) -> None:
    run.view.set_message(data if run.view.line_end == b"\r\n" else data.replace(b"\r\n", b"\n"))


def _part(run: Run, part: Part, head: bytes, body: bytes, text: str | None) -> None:
    """One part: a splice into the body as it was when the loop began."""
    inner = _is_message(run, part)
    data = (_kept(part) + head if inner else _without_version(head)) + b"\r\n" + body
    if _collides(data, _boundaries(run, part)):
        if text is None:
            raise RunError("replace: the text holds a boundary of the message")
        packed = crlf(base64.encodebytes(crlf(text.encode("utf-8", "replace"))))
        data = _kept(part) + b"MIME-Version: 1.0\r\n" if inner else b""
        data += (
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n" + packed
        )
    data = data.removesuffix(b"\r\n")  # the line end before the delimiter is the delimiter's
    if run.view.line_end == b"\n":
        data = data.replace(b"\r\n", b"\n")
    replaced = run.loops[0].replaced
    replaced[:] = [one for one in replaced if not (part.start <= one.part.start and one.part.end <= part.end)]
    replaced.append(Replacement(part, data))
    original = part.data
    root = run.loops[0].root
    pieces: list[bytes] = []
    place = root.body_start
    for one in sorted(replaced, key=lambda one: one.part.start):
        pieces += [original[place : one.part.start], one.data]
        place = one.part.end
    pieces.append(original[place : root.end])
    block = run.view.header
    run.view.set_message(bytes(block.data[block.start : block.body_start]) + b"".join(pieces))


_NEEDS = ("replace",)
_ON = ("replace",)

EXTENSION = Extension(
    "replace",
    _NEEDS,
    dialect="RFC 5703",
    commands=(
        CommandSpec(
            "replace",
            _NEEDS,
            (Param("replacement", Kind.STRING),),
            check=_check,
            link=_replace,
            effects=("body",),
        ),
    ),
    tags=(
        TagSpec("mime", _ON),
        TagSpec("subject", _ON, kind=Kind.STRING),
        TagSpec("from", _ON, kind=Kind.STRING),
    ),
)
