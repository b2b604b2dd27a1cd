"""COMPRESS=DEFLATE. Specification: RFC 4978. Complete. The layer itself is the shell's (``filterd.net`` beneath it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mechanism = p.atom().upper()
    p.end()

    def run(call: Call) -> None:
        if session.compressed:
            raise No("Compressed already", "COMPRESSIONACTIVE")
        if mechanism != b"DEFLATE" or not session.config.compress:
            raise No("Unknown compression")
        session.start_compress(call.tag)

    return run


COMPRESS = Extension(
    4978,
    (b"COMPRESS=DEFLATE",),
    (Spec(b"COMPRESS", AFTER, parse, store=False),),
    when=lambda session: session.config.compress and not session.compressed,
)
