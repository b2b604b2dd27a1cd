"""LIST with everything of LIST-EXTENDED, and LSUB.

Specification: RFC 9051 6.3.9, RFC 3501 6.3.8-9, RFC 5258, RFC 5819 (RETURN STATUS), RFC 6154 (SPECIAL-USE),
RFC 9590 (RETURN METADATA), RFC 8440 (RETURN MYRIGHTS). Complete.

A name may be listed that is no mailbox: a level above one (``\\NonExistent``), or a subscribed name that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.imap import acl, entries, names
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.cmd import status
from filterd.imap.errors import Bad
from filterd.imap.names import Pattern
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER
from filterd.store.base import SEPARATOR, MailboxInfo, NoSuchMailbox

if TYPE_CHECKING:
    from filterd.imap.session import Session

_SELECT = frozenset((b"SUBSCRIBED", b"REMOTE", b"RECURSIVEMATCH", b"SPECIAL-USE"))
_RETURN = frozenset((b"SUBSCRIBED", b"CHILDREN", b"SPECIAL-USE", b"STATUS", b"METADATA", b"MYRIGHTS"))
_MAX_PATTERNS = 64


@dataclass(slots=True)
class Options:
    selection: set[bytes] = field(default_factory=set)
    returns: set[bytes] = field(default_factory=set)
    status: tuple[bytes, ...] = ()
    entries: tuple[str, ...] = ()
    extended: bool = False


@dataclass(slots=True)
class Node:
    """A name in the tree; ``info`` None when no mailbox has it."""

    name: str
    info: MailboxInfo | None = None
    subscribed: bool = False
    children: bool = False
    subscribed_below: bool = False
    special_below: bool = False


def parse_list(p: Parser, session: Session, uid: bool) -> Run:
    options = Options()
    p.sp()
    if p.peek() == b"(":
        options.extended = True
        _selection(p, options)
        p.sp()
    reference = p.mailbox()
    p.sp()
    patterns = _patterns(p, options)
    if p.more():
        options.extended = True
        p.expect(b"RETURN")
        p.sp()
        _returns(p, options)
    p.end()

    def run(call: Call) -> str | Steps:
        if not options.extended and patterns == [""]:
            call.write(b'* LIST (\\Noselect) "/" ""\r\n')
            return "LIST completed"
        session.condstore |= b"HIGHESTMODSEQ" in options.status
        return _list(call, options, [Pattern(reference + pattern) for pattern in patterns if pattern])

    return run


def _selection(p: Parser, options: Options) -> None:
    p.open()
    while not p.close():
        if options.selection:
            p.sp()
        word = p.word()
        if word not in _SELECT:
            raise Bad("Unknown selection option")
        options.selection.add(word)
    if b"RECURSIVEMATCH" in options.selection and not options.selection & {b"SUBSCRIBED", b"SPECIAL-USE"}:
        raise Bad("RECURSIVEMATCH needs another selection option")  # RFC 5258 3.1


def _patterns(p: Parser, options: Options) -> list[str]:
    if p.peek() != b"(":
        return [p.list_mailbox()]
    options.extended = True
    patterns: list[str] = []
    p.open()
    while not p.close():
        if patterns:
            p.sp()
        patterns.append(p.list_mailbox())
        if len(patterns) > _MAX_PATTERNS:
            raise Bad("Too many patterns")
    return patterns


def _returns(p: Parser, options: Options) -> None:
    first = True
    p.open()
    while not p.close():
        if not first:
            p.sp()
        first = False
        word = p.word()
        if word not in _RETURN:
            raise Bad("Unknown return option")
        options.returns.add(word)
        if word == b"STATUS":
            p.sp()
            options.status = status.parse_items(p)
        elif word == b"METADATA":
            p.sp()
            options.entries = tuple(entries.parse_entries(p))


def tree(call: Call) -> dict[str, Node]:
    """All names there are, with the levels above them; INBOX first, then by name."""
    nodes: dict[str, Node] = {}

    def node(name: str) -> Node:
        if name not in nodes:
            nodes[name] = Node(name)
        return nodes[name]

    for info in call.store.mailboxes():
        node(info.name).info = info
    for name in call.store.subscriptions():
        node(name).subscribed = True
    for name in list(nodes):
        this = nodes[name]
        special = bool(this.info and this.info.special_use)
        while SEPARATOR in name:
            name = name.rpartition(SEPARATOR)[0]
            above = node(name)
            above.children |= this.info is not None
            above.subscribed_below |= this.subscribed
            above.special_below |= special
    return {name: nodes[name] for name in sorted(nodes, key=lambda name: (name != "INBOX", name))}


def _list(call: Call, options: Options, patterns: list[Pattern]) -> Steps:
    session = call.session
    utf8 = session.utf8 or session.rev2
    chosen = [node for node in tree(call).values() if any(pattern.matches(node.name) for pattern in patterns)]
    for node in chosen:
        extra = _wanted(node, options)
        if extra is None:
            continue
        name = names.encode(node.name, utf8)
        shown = b" ".join(_attributes(node, options))
        call.write(b'* LIST (%b) "/" %b%b\r\n' % (shown, name, extra))
        if node.info is None:
            continue
        if options.status:
            try:
                call.write(_status(call, node.info, options))
            except NoSuchMailbox:
                pass  # deleted by another session since; RFC 5819 2: the LIST answer stands
        if options.entries:
            try:
                values = [(entry, entries.read(call.store, node.name, entry)) for entry in options.entries]
                call.write(entries.line(session, node.name, values))
            except NoSuchMailbox:
                pass
        if b"MYRIGHTS" in options.returns:
            with suppress(NoSuchMailbox):
                call.write(acl.line(session, node.name, acl.rights(session, node.name)))
        if options.status or options.entries:
            yield
    return "LIST completed"


def _status(call: Call, info: MailboxInfo, options: Options) -> bytes:
    """RETURN (STATUS (...))."""
    known = call.store.status(info.name)
    deleted = status.deleted_storage(call, info.name, options.status)
    return status.line(call.session, info, known, options.status, deleted)


def _wanted(node: Node, options: Options) -> bytes | None:
    """None: not to be listed; else what is told behind the name (CHILDINFO, RFC 5258 4)."""
    selection = options.selection
    if not selection & {b"SUBSCRIBED", b"SPECIAL-USE"}:
        # A level that holds nothing but a subscription is no mailbox and has none below.
        return b"" if node.info is not None or node.children else None
    hit = (b"SUBSCRIBED" not in selection or node.subscribed) and (
        b"SPECIAL-USE" not in selection or bool(node.info and node.info.special_use)
    )
    below = b"RECURSIVEMATCH" in selection and (
        (b"SUBSCRIBED" not in selection or node.subscribed_below)
        and (b"SPECIAL-USE" not in selection or node.special_below)
    )
    if not hit and not below:
        return None
    if not below:
        return b""
    kinds = b" ".join(b'"%b"' % word for word in (b"SUBSCRIBED", b"SPECIAL-USE") if word in selection)
    return b' ("CHILDINFO" (%b))' % kinds


def _attributes(node: Node, options: Options) -> Iterator[bytes]:
    if node.info is None:
        yield b"\\NonExistent" if options.extended else b"\\Noselect"
    yield b"\\HasChildren" if node.children else b"\\HasNoChildren"
    if node.subscribed and (b"SUBSCRIBED" in options.returns or b"SUBSCRIBED" in options.selection):
        yield b"\\Subscribed"
    if node.info is not None and node.info.special_use:
        # RFC 6154 2: a plain LIST may tell the use, and clients without the extension find Sent and Trash that way.
        yield node.info.special_use.encode("ascii", "replace")


def parse_lsub(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    reference = p.mailbox()
    p.sp()
    text = reference + p.list_mailbox()
    p.end()

    def run(call: Call) -> str:
        pattern = Pattern(text)
        utf8 = session.utf8 or session.rev2
        for node in tree(call).values():
            if not pattern.matches(node.name):
                continue
            if node.subscribed:
                shown = b"" if node.info is not None else b"\\Noselect"
            elif node.subscribed_below and text.endswith("%"):
                shown = b"\\Noselect"  # RFC 3501 6.3.9: the % case
            else:
                continue
            call.write(b'* LSUB (%b) "/" %b\r\n' % (shown, names.encode(node.name, utf8)))
        return "LSUB completed"

    return run


LIST = Spec(b"LIST", AFTER, parse_list, still=True)
LSUB = Spec(b"LSUB", AFTER, parse_lsub, still=True)
