"""REPLACE: a new text for a message, in one command. Specification: RFC 8508. Complete.

The new message is stored first; only then the old one is removed, so a failure between the two leaves both. Nobody takes the old
one away meanwhile: when another session has moved it the client is told so, and nothing is stored.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from filterd.imap import acl, numset
from filterd.imap.call import Call, Run, Spec
from filterd.imap.cmd.append import parse_upload, store
from filterd.imap.errors import Bad, No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    wanted = p.set()
    if len(wanted.parts) != 1 or wanted.parts[0][0] != wanted.parts[0][1]:
        raise Bad("REPLACE takes one message")
    p.sp()
    mailbox = p.mailbox()
    p.sp()
    upload = parse_upload(p)
    p.end()

    def run(call: Call) -> str:
        view = call.writable()
        uids = numset.pick(view.uids, call.spans(wanted))
        if len(uids) != 1 or uids[0] in view.gone:
            raise No("No such message", "NONEXISTENT" if session.rev2 else "")
        acl.require(call, view.mailbox, "te")
        shared = session.shared
        own = shared is None or not (shared.foreign(view.mailbox) or shared.foreign(mailbox))
        with (
            call.store.hold() if own else nullcontext()
        ):  # several accounts are held in an order of their own
            if not call.store.fields(view.mailbox, uids, ("flags",)):
                raise No("No such message", "NONEXISTENT" if session.rev2 else "")
            stored = store(call, mailbox, [upload])[0]
            call.write(b"* OK [APPENDUID %d %d] Stored\r\n" % (stored.uidvalidity, stored.uid))
            call.store.set_flags(view.mailbox, uids, "add", ("\\Deleted",))
            call.store.expunge(view.mailbox, uids)
        return "REPLACE completed"

    return run


REPLACE = Extension(8508, (b"REPLACE",), (Spec(b"REPLACE", SELECTED, parse, uid=True, own=True),))
