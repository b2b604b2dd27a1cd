"""STORE: change flags.

Specification: RFC 9051 6.4.6, RFC 7162 3.1.3 (UNCHANGEDSINCE). Complete. Large sets go in blocks, so that the account is let go.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from filterd.imap import limit, numset
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad, No
from filterd.imap.events import FlagWatch
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED
from filterd.store.base import FlagChange

if TYPE_CHECKING:
    from filterd.imap.session import Session

_BLOCK = 2_000  # messages at once: 50 ms of renames and one transaction (HOUSE item 17)
_MODES = {b"FLAGS": "set", b"+FLAGS": "add", b"-FLAGS": "remove"}


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    wanted = p.set()
    p.sp()
    unchanged = None
    if p.peek() == b"(":
        p.open()
        p.expect(b"UNCHANGEDSINCE")
        p.sp()
        unchanged = p.modseq()
        if not p.close():
            raise Bad("Unknown modifier")
        p.sp()
    mode, silent = _mode(p)
    p.sp()
    flags = _flags(p)
    p.end()

    def run(call: Call) -> Steps:
        session.condstore |= unchanged is not None
        view = call.writable()
        uids = limit.uids(call, numset.pick(view.uids, call.spans(wanted)))
        return _store(call, uids, mode, flags, silent, unchanged)

    return run


def _mode(p: Parser) -> tuple[str, bool]:
    for name, mode in _MODES.items():
        if p.take(name):
            return mode, p.take(b".SILENT")
    raise Bad("Expected FLAGS, +FLAGS or -FLAGS")


def _flags(p: Parser) -> tuple[str, ...]:
    if p.peek() == b"(":
        return p.flag_list()
    flags = [p.flag()]
    while p.more():
        flags.append(p.flag())
        if len(flags) > p.limits.flags:
            raise Bad("Too many flags")
    return tuple(dict.fromkeys(flags))


def _store(
    call: Call, uids: array[int], mode: str, flags: tuple[str, ...], silent: bool, unchanged: int | None
) -> Steps:
    modified: list[int] = []
    missing = 0
    for start in range(0, len(uids), _BLOCK):
        block = uids[start : start + _BLOCK]
        view = call.view
        watch = FlagWatch.of(call, view.mailbox, block, mode, flags)
        result = call.store.set_flags(view.mailbox, block, mode, flags, unchanged)
        if watch is not None:
            watch.changed(result)
        modified += result.modified
        missing += len(block) - len(result.changed) - len(result.modified)
        unnamed = 1 << len(view.table.names)
        masks = {mask for _, mask, _ in result.changed}
        if any(mask >= unnamed for mask in masks):  # a keyword that the client has not heard of
            for line in view.learn_keywords(call.store.snapshot(view.mailbox).keywords):
                call.write(line)
        _answer(call, result, silent)
        view.told(result)
        if start + _BLOCK < len(uids):
            yield
    if modified:
        shown = (
            modified if call.uid or call.session.uidonly else [call.view.number_of(uid) for uid in modified]
        )
        return f"[MODIFIED {numset.render(shown).decode('ascii')}] Some messages had changed"
    if missing and missing == len(uids):
        raise No("The messages are gone", "EXPUNGEISSUED")
    return "STORE completed"


def _answer(call: Call, result: FlagChange, silent: bool) -> None:
    session, view = call.session, call.view
    if silent and not session.condstore:
        return
    style = session.style(call.uid)
    numbers = view.numbers_of([uid for uid, _, _ in result.changed])
    if not silent:
        call.write(style.all_flags(numbers, result.changed, view.table))
    elif session.uidonly:
        call.write(
            b"".join(
                [b"* %d UIDFETCH (MODSEQ (%d))\r\n" % (uid, modseq) for uid, _, modseq in result.changed]
            )
        )
    else:
        lines = zip(numbers, result.changed, strict=True)
        call.write(
            b"".join(
                [b"* %d FETCH (UID %d MODSEQ (%d))\r\n" % (n, uid, modseq) for n, (uid, _, modseq) in lines]
            )
        )


STORE = Spec(b"STORE", SELECTED, parse, expunge=False, uid=True)
