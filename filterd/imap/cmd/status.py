"""STATUS. Specification: RFC 9051 6.3.11, RFC 7162 3.1.7, RFC 7889 5, RFC 8438, RFC 8474 4.3, RFC 9208 4.1.4. Complete.

DELETED-STORAGE is the sum of the sizes, as RFC822.SIZE has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import names
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER
from filterd.store.base import DELETED, MailboxInfo, Status

if TYPE_CHECKING:
    from filterd.imap.session import Session

_ITEMS = frozenset(
    b"MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED DELETED-STORAGE SIZE HIGHESTMODSEQ APPENDLIMIT MAILBOXID".split()
)


_LOOK_COSTS = 100  # nanoseconds a message


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mailbox = p.mailbox()
    p.sp()
    items = parse_items(p)
    p.end()

    def run(call: Call) -> str:
        session.condstore |= b"HIGHESTMODSEQ" in items
        info = call.store.info(mailbox)
        call.write(
            line(session, info, call.store.status(info.name), items, deleted_storage(call, info.name, items))
        )
        return "STATUS completed"

    return run


def parse_items(p: Parser) -> tuple[bytes, ...]:
    items: list[bytes] = []
    p.open()
    while not p.close():
        if items:
            p.sp()
        item = p.word()
        if item not in _ITEMS:
            raise Bad("Unknown status item")
        if item not in items:
            items.append(item)
    if not items:
        raise Bad("Expected a status item")
    return tuple(items)


def deleted_storage(call: Call, mailbox: str, items: tuple[bytes, ...]) -> int:
    """Octets of the messages marked \\Deleted, where that is asked for."""
    if b"DELETED-STORAGE" not in items:
        return 0
    snapshot = call.store.snapshot(mailbox)
    call.costs(_LOOK_COSTS * len(snapshot.uids))
    uids = [uid for uid, mask in zip(snapshot.uids, snapshot.flags, strict=True) if mask & DELETED]
    limit = call.session.config.limits.rows
    blocks = (call.store.rows(mailbox, uids[at : at + limit]) for at in range(0, len(uids), limit))
    return sum(row.size for block in blocks for row in block)


def line(
    session: Session, info: MailboxInfo, status: Status, items: tuple[bytes, ...], deleted: int = 0
) -> bytes:
    """The untagged STATUS response."""
    values = {
        b"MESSAGES": b"%d" % status.messages,
        b"RECENT": b"0",
        b"UIDNEXT": b"%d" % status.uidnext,
        b"UIDVALIDITY": b"%d" % status.uidvalidity,
        b"UNSEEN": b"%d" % status.unseen,
        b"DELETED": b"%d" % status.deleted,
        b"DELETED-STORAGE": b"%d" % deleted,
        b"SIZE": b"%d" % status.size,
        b"HIGHESTMODSEQ": b"%d" % status.highestmodseq,
        b"APPENDLIMIT": b"%d" % session.config.message_size,
        b"MAILBOXID": b"(%b)" % info.id.encode("ascii", "replace"),
    }
    shown = b" ".join(b"%b %b" % (item, values[item]) for item in items)
    return b"* STATUS %b (%b)\r\n" % (names.encode(info.name, session.utf8 or session.rev2), shown)


STATUS = Spec(b"STATUS", AFTER, parse, still=True, quick=True)
