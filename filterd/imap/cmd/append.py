"""APPEND, of one message or several.

Specification: RFC 9051 6.3.12, RFC 3502 (MULTIAPPEND), RFC 3516 (literal8), RFC 4315 (APPENDUID), RFC 4469 (CATENATE),
RFC 6855 4 (UTF8 data), RFC 7889 (APPENDLIMIT). Complete. All messages are stored or none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from filterd.imap import catenate, events, limit, numset
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad, No
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER
from filterd.imap.work import translate
from filterd.store.base import NewMessage, NoSuchMailbox, Stored

if TYPE_CHECKING:
    from filterd.imap.session import Session

Source = Callable[[Call], bytes]


class Upload:
    """One message as the client describes it."""

    __slots__ = ("date", "flags", "source")

    def __init__(self, flags: tuple[str, ...], date: int | None, source: Source) -> None:
        self.flags = flags
        self.date = date
        self.source = source

    def message(self, call: Call) -> NewMessage:
        data = self.source(call)
        if not data:
            raise No("No message")  # RFC 3502 6.3.11: a literal of no octets cancels
        if len(data) > call.session.config.message_size:
            raise No("Message larger than APPENDLIMIT", "TOOBIG")
        return NewMessage(data, self.flags, self.date)


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mailbox = p.mailbox()
    uploads: list[Upload] = []
    while p.more():
        p.blanks()  # imapclient sends two between the messages of MULTIAPPEND
        uploads.append(parse_upload(p))
        if len(uploads) > max(p.limits.append_messages, limit.saving(session.config)):
            raise No("Too many messages at once", "LIMIT")
    if not uploads:
        raise Bad("Expected a message")
    p.end()

    def run(call: Call) -> str:
        stored = store(call, mailbox, uploads)
        uids = numset.render(one.uid for one in stored).decode("ascii")
        return f"[APPENDUID {stored[0].uidvalidity} {uids}] Stored"

    return run


def store(call: Call, mailbox: str, uploads: list[Upload]) -> tuple[Stored, ...]:
    limit.save(call, len(uploads))
    try:
        call.store.info(mailbox)
        stored = call.store.append(mailbox, [upload.message(call) for upload in uploads])
    except NoSuchMailbox as error:
        raise translate(error, create=True) from None
    events.stored(call, stored)
    return stored


def parse_upload(p: Parser) -> Upload:
    """[flags SP] [date-time SP] message."""
    flags: tuple[str, ...] = ()
    date: int | None = None
    if p.peek() == b"(":
        flags = p.flag_list()
        p.sp()
    if p.peek() == b'"':
        date = p.date_time()
        p.sp()
    return Upload(flags, date, _source(p))


def _source(p: Parser) -> Source:
    if p.take(b"CATENATE"):
        p.sp()
        return catenate.parse(p)
    if p.take(b"UTF8"):
        # RFC 6855 4: UTF8 (~{n} ...)
        p.sp()
        p.open()
        data, _ = p.literal()
        if not p.close():
            raise Bad("Expected )")
        return lambda call: data
    data, wide = p.literal()

    def text(call: Call) -> bytes:
        if not wide and b"\0" in data:
            raise No("A message with NUL needs a literal8", "UNKNOWN-CTE")
        return data

    return text


APPEND = Spec(b"APPEND", AFTER, parse)
