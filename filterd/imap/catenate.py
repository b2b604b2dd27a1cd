"""CATENATE: a message put together from texts and from parts of stored messages.

Specification: RFC 4469, RFC 5092 (imapurl, relative, own account only). Complete but for URLAUTH and URLs of other servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from filterd.imap import names
from filterd.imap.errors import Bad, No
from filterd.imap.parse import Parser
from filterd.imap.section import Body, parse_body
from filterd.imap.wire import Command
from filterd.store.base import NoSuchMailbox

if TYPE_CHECKING:
    from filterd.imap.call import Call

_MAX_PIECES = 100
_URL = re.compile(
    r"(?:/(?P<mailbox>[^;/?#][^;?#]*?)(?:;UIDVALIDITY=(?P<uidvalidity>[0-9]{1,10}))?)?/?;UID=(?P<uid>[0-9]{1,10})"
    r"(?:/;SECTION=(?P<section>[^;?#]*))?(?:/;PARTIAL=(?P<first>[0-9]{1,10})(?:\.(?P<count>[0-9]{1,10}))?)?\Z",
    re.I,
)
Piece = Callable[["Call"], bytes]


def parse(p: Parser) -> Piece:
    pieces: list[Piece] = []
    p.open()
    while not pieces or not p.close():
        if pieces:
            p.sp()
        pieces.append(_piece(p))
        if len(pieces) > _MAX_PIECES:
            raise Bad("Too many pieces")

    def whole(call: Call) -> bytes:
        limit = call.session.config.message_size
        out: list[bytes] = []
        size = 0
        for piece in pieces:
            data = piece(call)
            size += len(data)
            if size > limit:
                raise No("Message larger than APPENDLIMIT", "TOOBIG")
            out.append(data)
        return b"".join(out)

    return whole


def _piece(p: Parser) -> Piece:
    if p.take(b"TEXT"):
        p.sp()
        data, wide = p.literal()
        if b"\0" in data and not wide:
            raise No("A text with NUL needs a literal8", "UNKNOWN-CTE")
        return lambda call: data
    p.expect(b"URL")
    p.sp()
    text = p.astring().decode("ascii", "replace")
    return lambda call: _fetch(call, text)


def _fetch(call: Call, text: str) -> bytes:
    # RFC 4469 4: the answer names the URL that could not be had.
    shown = re.sub(r"[^!-~]|[\"\\\]]", "?", text)[:200]
    refused = No("Cannot read that URL", f'BADURL "{shown}"')
    found = _URL.match(text)
    if found is None:
        raise refused
    if found["mailbox"] is not None:
        mailbox = names.decode(unquote(found["mailbox"]).encode("utf-8"), True) or ""
    elif call.session.view is not None:
        mailbox = call.session.view.mailbox
    else:
        raise refused
    try:
        info = call.store.info(mailbox)
        if found["uidvalidity"] and int(found["uidvalidity"]) != info.uidvalidity:
            raise refused
        data = call.store.read(mailbox, int(found["uid"]))
    except NoSuchMailbox:
        raise refused from None
    if data is not None and found["section"]:
        data = _section(call, data, unquote(found["section"]))
    if data is None:
        raise refused
    if found["first"] is not None:
        first = int(found["first"])
        data = data[first : first + int(found["count"])] if found["count"] else data[first:]
    return data


def _section(call: Call, data: bytes, section: str) -> bytes | None:
    raw = b"[%b]" % section.encode("ascii", "replace")
    parser = Parser(Command(b"", [raw], []), call.session.config.limits)
    wanted = parse_body(parser, b"BODY")
    parser.end()
    return Body(data).section(wanted)
