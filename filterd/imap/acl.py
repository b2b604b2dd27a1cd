"""Rights as commands ask for them and as answers tell them. Specification: RFC 4314 3.6-3.8, RFC 8440."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from filterd.imap import names
from filterd.store.acl import ALL, show_rights
from filterd.store.base import AccountStore

if TYPE_CHECKING:
    from filterd.imap.call import Call
    from filterd.imap.session import Session


def rights(session: Session, mailbox: str) -> frozenset[str]:
    """The reader's, in a mailbox that is there. Inside a step. Raises NoSuchMailbox."""
    shared = session.shared
    return ALL if shared is None or not shared.foreign(mailbox) else shared.rights(mailbox)


def require(call: Call, mailbox: str, need: str) -> None:
    """All of these rights, before the first of several changes is made. Raises NoSuchMailbox, NoPermission."""
    if call.session.shared is not None:
        call.session.shared.require(mailbox, need)


def foreign(session: Session, mailbox: str) -> bool:
    """Is it in another account than the reader's? Inside a step, after it was looked at."""
    shared = session.shared
    return shared is not None and shared.place_of(mailbox)[0] != shared.me


def others(session: Session) -> tuple[str, ...]:
    """How the names of other people's mailboxes begin."""
    return () if session.shared is None else session.shared.prefixes


def stored(session: Session, own: AccountStore, at_once: bool = False) -> AccountStore:
    """What commands work on: the account, or everything its owner may see."""
    return own if session.shared is None else session.shared.enter(own, at_once)


def line(session: Session, mailbox: str, held: Iterable[str]) -> bytes:
    """The MYRIGHTS response."""
    name = names.encode(mailbox, session.utf8 or session.rev2)
    return b"* MYRIGHTS %b %b\r\n" % (name, shown(held))


def shown(held: Iterable[str]) -> bytes:
    return show_rights(held).encode("ascii") or b'""'
