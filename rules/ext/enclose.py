"""enclose: the message as an attachment of a new one.

Specification: RFC 5703 section 6. Complete: yes. The enclosure is made when the message is stored, around all
other changes whenever they were made; several enclose one another; ``redirect`` sends what is inside. Without
:subject the enclosed message's is used; Date and From are new (now, the owner) unless :headers copies them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rules import compose
from rules.errors import RunError
from rules.mail import words
from rules.mail.header import make_field, scan
from rules.match import expand
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec
from rules.view import crlf

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_FIELD_NAME = re.compile(r"[!-9;-~]{1,200}")
_MOST = 8  # enclosures of one message
_OURS = frozenset((b"subject", b"content-type", b"content-transfer-encoding", b"mime-version"))


def _check(checker: Checker, bound: Bound) -> None:
    for item, name in enumerate(bound.tag_texts("headers") or ()):
        if isinstance(name, str) and not _FIELD_NAME.fullmatch(name):
            place = checker.where_tag(bound, "headers", item)
            message = f'"{name[:60]}" cannot be the name of a header field'
            checker.error(place, "header-name", message, "use printable ASCII without blanks and colons")


def _boundary(data: bytes, text: bytes, message_id: str) -> bytes:
    """A boundary that stands nowhere in what it divides."""
    base = re.sub(rb"[^A-Za-z0-9]", b"", message_id.encode("ascii", "replace"))[:40] or b"part"
    number = 0
    while True:
        boundary = b"=_enclosed_%s_%d" % (base, number)
        if boundary not in data and boundary not in text:
            return boundary
        number += 1


def _enclose(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        if len(run.view.wraps) >= _MOST:
            raise RunError(f"a message may be enclosed at most {_MOST} times")
        text = run.expand(bound.text(0))
        if len(text) > run.limits.reason:
            raise RunError(f"enclose: the text is longer than {run.limits.reason} characters")
        given = bound.tag_text("subject")
        subject = None if given is None else compose.subject_text(run.expand(given), run.limits.subject)
        copied = [
            name.lower().encode("utf-8", "replace") for name in expand(run, bound.tag_texts("headers") or ())
        ]
        owner = run.envelope.rcpt_to or next(iter(run.host.own_addresses()), "postmaster@localhost")
        moment, message_id = run.host.now(), run.host.new_message_id()
        run.seen = text

        def wrap(data: bytes) -> bytes:
            block = scan(data)
            kept = [field for field in block.fields if field.lname in copied and field.lname not in _OURS]
            names = {field.lname for field in kept}
            head = b"".join(crlf(block.raw(field)).removesuffix(b"\r\n") + b"\r\n" for field in kept)
            part_fields, body = compose.body_fields(text)
            boundary = _boundary(data, body, message_id)
            fields: list[tuple[bytes, bytes]] = []
            if b"from" not in names:
                fields.append((b"From", compose.address_field(owner)))
            shown = words.encode_text(subject) if subject is not None else block.first(b"subject")
            if shown is not None:
                fields.append((b"Subject", shown))
            fields += [(b"MIME-Version", b"1.0")]
            fields.append((b"Content-Type", b'multipart/mixed; boundary="' + boundary + b'"'))
            # RFC 2046 5.2.1, RFC 2045 6.4: what holds 8-bit data says so, the message around it too.
            eight = b"" if data.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
            if eight:
                fields.append((b"Content-Transfer-Encoding", b"8bit"))
            part = b"".join(make_field(name, value) for name, value in part_fields[1:]) + b"\r\n" + body
            delimiter = b"--" + boundary
            new = compose.build(fields, moment, message_id, b"", entity_header=head)
            if names & {b"date", b"message-id"}:
                new = _without(new, names & {b"date", b"message-id"}, len(head))
            return b"".join(
                (
                    new + delimiter + b"\r\n" + part + b"\r\n",
                    delimiter
                    + b"\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment\r\n"
                    + eight
                    + b"\r\n",
                    data + b"\r\n",
                    delimiter + b"--\r\n",
                )
            )

        run.view.wraps.append(wrap)

    return act


def _without(data: bytes, names: set[bytes], kept: int) -> bytes:
    """The header without our own Date or Message-ID, where the old one was copied (the last ``kept`` octets)."""
    block = scan(data)
    limit = block.end - kept
    fields = [
        block.raw(field) for field in block.fields if not (field.lname in names and field.start < limit)
    ]
    return b"".join(fields) + b"\r\n"


_NEEDS = ("enclose",)

EXTENSION = Extension(
    "enclose",
    _NEEDS,
    dialect="RFC 5703",
    commands=(
        CommandSpec(
            "enclose", _NEEDS, (Param("text", Kind.STRING),), check=_check, link=_enclose, effects=("body",)
        ),
    ),
    tags=(
        TagSpec("subject", _NEEDS, kind=Kind.STRING),
        TagSpec("headers", _NEEDS, kind=Kind.STRINGS),
    ),
)
