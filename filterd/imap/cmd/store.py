"""STORE: change flags.

Specification: RFC 9051 6.4.6, RFC 7162 3.1.3 (UNCHANGEDSINCE). Complete. Large sets go in blocks, so that the account is let go.

``.SILENT`` keeps back only what the client can work out: the flags it knew before the command, changed as it said. The flags of
the other messages are told all the same, "determinate without a race condition": those that somebody else changed before we
did, and those told at the beginning of this same command, of which the client cannot know that it was before the change.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.imap import limit, numset
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad, No
from filterd.imap.events import FlagWatch
from filterd.imap.parse import Parser
from filterd.imap.state import SELECTED
from filterd.store import flags as fl
from filterd.store.base import SYSTEM_FLAGS, FlagChange
from filterd.store.memory import new_mask

if TYPE_CHECKING:
    from filterd.imap.session import Session

_BLOCK = 2_000  # messages at once: 50 ms of renames and one transaction (HOUSE item 17)
Changed = Sequence[tuple[int, int, int]]
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
        for line in view.learn_of(call.store, result):
            call.write(line)
        loud = _unforeseen(call, result, mode, flags) if silent else result.changed
        _answer(call, result, loud, silent)
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


def _unforeseen(call: Call, result: FlagChange, mode: str, flags: tuple[str, ...]) -> Changed:
    """Those whose flags the client would have wrong, or might, if it were told nothing."""
    view, heard = call.view, call.heard
    style = call.session.style(call.uid)
    if style.quiet or style.mute:  # what others do is not told
        return ()
    mask, _ = fl.mask_of(flags, view.table.names[len(SYSTEM_FLAGS) :], create=False)
    numbers = view.numbers_of([uid for uid, _, _ in result.changed])
    foreseen = {known: new_mask(known, mode, mask) for known in {view.flags[n - 1] for n in numbers}}
    return [
        change
        for n, change in zip(numbers, result.changed, strict=True)
        if foreseen[view.flags[n - 1]] != change[1] or change[0] in heard
    ]


def _answer(call: Call, result: FlagChange, loud: Changed, silent: bool) -> None:
    """``loud``: of what has changed, those whose flags are told."""
    session, view = call.session, call.view
    if loud:
        numbers = view.numbers_of([uid for uid, _, _ in loud])
        call.write(session.style(call.uid).all_flags(numbers, loud, view.table))
    if not silent or not session.condstore:
        return
    said = {uid for uid, _, _ in loud}
    rest = [change for change in result.changed if change[0] not in said]
    numbers = view.numbers_of([uid for uid, _, _ in rest])
    if session.uidonly:
        call.write(b"".join([b"* %d UIDFETCH (MODSEQ (%d))\r\n" % (uid, modseq) for uid, _, modseq in rest]))
    else:
        lines = zip(numbers, rest, strict=True)
        call.write(
            b"".join(
                [b"* %d FETCH (UID %d MODSEQ (%d))\r\n" % (n, uid, modseq) for n, (uid, _, modseq) in lines]
            )
        )


STORE = Spec(b"STORE", SELECTED, parse, expunge=False, uid=True)
