"""Which mailboxes a client means: the filters that NOTIFY and ESEARCH share.

Specification: RFC 5465 6 (``filter-mailboxes``), RFC 7377 2.2 (``subtree-one``). Any mailbox of the personal
namespace may receive mail by a script: INBOXES and PERSONAL are the same here. A name that is no mailbox is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from filterd.imap.errors import Bad
from filterd.imap.parse import Parser
from filterd.store.base import SEPARATOR

ALL_KINDS = frozenset((b"INBOXES", b"PERSONAL", b"SUBSCRIBED", b"SUBTREE", b"MAILBOXES"))
_NAMED = frozenset((b"SUBTREE", b"SUBTREE-ONE", b"MAILBOXES"))
_MAX_NAMES = 1_000


@dataclass(frozen=True, slots=True)
class Boxes:
    """One filter. ``kind`` in upper case; ``names`` of those that take some."""

    kind: bytes
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # how names begin that are not in the personal namespace

    def has(self, name: str, subscribed: bool) -> bool:
        match self.kind:
            case b"INBOXES" | b"PERSONAL":
                return not name.startswith(self.others)
            case b"SUBSCRIBED":
                return subscribed
            case b"MAILBOXES":
                return name in self.names
            case b"SUBTREE":
                return any(name == top or name.startswith(top + SEPARATOR) for top in self.names)
            case b"SUBTREE-ONE":
                return any(name == top or name.rpartition(SEPARATOR)[0] == top for top in self.names)
        return False


def parse(p: Parser, kinds: frozenset[bytes], others: tuple[str, ...] = ()) -> Boxes:
    """A filter of these ``kinds``, with its mailboxes."""
    kind = p.word()
    if kind not in kinds:
        raise Bad("Unknown mailbox filter")
    if kind not in _NAMED:
        return Boxes(kind, (), others)
    p.sp()
    if p.peek() != b"(":
        return Boxes(kind, (p.mailbox(),))
    found: list[str] = []
    p.open()
    while True:
        found.append(p.mailbox())
        if len(found) > _MAX_NAMES:
            raise Bad("Too many mailboxes")
        if p.close():
            return Boxes(kind, tuple(dict.fromkeys(found)))
        p.sp()
