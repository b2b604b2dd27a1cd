"""ACL: who may do what in a mailbox, and RETURN (MYRIGHTS) of LIST.

Specification: RFC 4314 (ACL, RIGHTS=), RFC 8440 (LIST-MYRIGHTS, in cmd/list). Complete; there are no groups. What the rights do
is in ``filterd.imap.shared``. The owner of a mailbox has all rights in it and cannot lose them: he is told first, and a list that
would take something from him is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import acl, names
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad, No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.shared import SharedStore
from filterd.imap.sharing import refuse
from filterd.imap.state import AFTER
from filterd.store.acl import (
    ALL,
    ENTRY,
    MAX_IDENTIFIERS,
    NEGATIVE,
    RIGHTS,
    VIRTUAL,
    Acl,
    BadRights,
    identifier,
    parse_rights,
)

if TYPE_CHECKING:
    from filterd.imap.session import Session

_KNOWING = frozenset("lrikxa")  # RFC 4314 4: one of these for MYRIGHTS


def parse_get(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _mailbox(p, session)
    p.end()

    def run(call: Call) -> str:
        with _shared(call).administered(mailbox) as (store, inner, owner):
            entries = Acl.parse(store.get_metadata(inner, ENTRY)).entries
        pairs = [(owner, ALL), *sorted(entries.items())]
        shown = b" ".join(b"%b %b" % (_who(name), acl.shown(held)) for name, held in pairs)
        call.write(b"* ACL %b %b\r\n" % (_name(session, mailbox), shown))
        return "GETACL completed"

    return run


def parse_set(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _mailbox(p, session)
    p.sp()
    who = _text(p)
    p.sp()
    letters = _text(p)
    p.end()
    mode = letters[:1] if letters[:1] in ("+", "-") else ""
    try:
        rights = parse_rights(letters.removeprefix(mode))
    except BadRights:
        raise Bad("Unknown right") from None  # RFC 4314 3.1

    return lambda call: _change(call, mailbox, who, mode, rights, "SETACL completed")


def parse_delete(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _mailbox(p, session)
    p.sp()
    who = _text(p)
    p.end()
    return lambda call: _change(call, mailbox, who, "", frozenset(), "DELETEACL completed")


def _change(call: Call, mailbox: str, who: str, mode: str, rights: frozenset[str], done: str) -> str:
    shared = _shared(call)
    with shared.administered(mailbox) as (_, _, owner):
        name = _identifier(who, owner)
    if name.removeprefix(NEGATIVE) == owner:
        keeps = name == owner and (mode == "+" or (mode == "" and rights == ALL))
        if not keeps and (rights or mode == ""):
            raise No("The owner has all rights, always", "CANNOT")
        return done
    if not shared.change_acl(mailbox, name, mode, rights, MAX_IDENTIFIERS):
        raise No("Too many identifiers", "LIMIT")
    return done


def parse_list(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _mailbox(p, session)
    p.sp()
    who = _text(p)
    p.end()

    def run(call: Call) -> str:
        with _shared(call).administered(mailbox) as (_, _, owner):
            name = _identifier(who, owner)
        # RFC 4314 3.7: first what he has in any case, then what can be given, letter by letter.
        always = acl.shown(ALL) if name == owner else b'""'
        given = b"" if name == owner else b" " + " ".join([*RIGHTS, *VIRTUAL]).encode("ascii")
        call.write(b"* LISTRIGHTS %b %b %b%b\r\n" % (_name(session, mailbox), _who(name), always, given))
        return "LISTRIGHTS completed"

    return run


def parse_my(p: Parser, session: Session, uid: bool) -> Run:
    mailbox = _mailbox(p, session)
    p.end()

    def run(call: Call) -> str:
        held = _shared(call).rights(mailbox)
        if not held & _KNOWING:
            refuse(mailbox, held)
        call.write(acl.line(session, mailbox, held))
        return "MYRIGHTS completed"

    return run


def _mailbox(p: Parser, session: Session) -> str:
    if session.shared is None:
        raise Bad("Unknown command")
    p.sp()
    return p.mailbox()


def _text(p: Parser) -> str:
    try:
        return p.astring().decode("utf-8")
    except UnicodeDecodeError:
        raise Bad("Not UTF-8") from None


def _identifier(text: str, owner: str) -> str:
    try:
        return identifier(text, owner)
    except BadRights:
        raise No("No such identifier", "CANNOT") from None


def _shared(call: Call) -> SharedStore:
    shared = call.session.shared
    assert shared is not None, "checked when the command was read"
    return shared


def _name(session: Session, mailbox: str) -> bytes:
    return names.encode(mailbox, session.utf8 or session.rev2)


def _who(name: str) -> bytes:
    return names.astring(name.encode("utf-8", "replace"))


ACL = Extension(
    4314,
    (b"ACL", b"RIGHTS=kxte"),
    (
        Spec(b"SETACL", AFTER, parse_set),
        Spec(b"DELETEACL", AFTER, parse_delete),
        Spec(b"GETACL", AFTER, parse_get, still=True),
        Spec(b"LISTRIGHTS", AFTER, parse_list, still=True),
        Spec(b"MYRIGHTS", AFTER, parse_my, still=True),
    ),
    when=lambda session: session.shared is not None,
)
LIST_MYRIGHTS = Extension(8440, (b"LIST-MYRIGHTS",), when=lambda session: session.shared is not None)
