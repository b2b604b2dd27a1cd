"""FETCH at work: index columns for all messages of a block, texts one by one.

Specification: RFC 9051 6.4.5 and 7.5.2; RFC 7162 (MODSEQ); RFC 9586 (UIDFETCH).

Three ways: everything from the view's arrays; from index rows in blocks of ``limits.rows``; with message texts, group by
group of at most about ``limits.step`` octets. \\Seen is set a group at a time, before the group is sent, and told with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from filterd.imap import columns as col
from filterd.imap import numset
from filterd.imap.call import Call, Steps
from filterd.imap.columns import Block, Column, Need
from filterd.imap.errors import No
from filterd.imap.section import Body
from filterd.store.base import SEEN, Row

_ARRAY_BLOCK = 8_000  # messages a step when only the arrays are needed


@dataclass(frozen=True, slots=True)
class TextItem:
    """An item that needs the message: ``render`` gives what stands behind the label and a space."""

    label: bytes
    render: Callable[[Body], Sequence[bytes]]


@dataclass(slots=True)
class Plan:
    """What a FETCH asks for."""

    columns: list[Column] = field(default_factory=list)
    texts: list[TextItem] = field(default_factory=list)
    seen: bool = False
    partial: bool = False

    @property
    def need(self) -> Need:
        return (
            Need.TEXT if self.texts else max((column.need for column in self.columns), default=Need.NOTHING)
        )

    def add(self, column: Column) -> None:
        if all(column.format != other.format for other in self.columns):
            self.columns.append(column)

    def add_text(self, item: TextItem) -> None:
        if all(item.label != other.label for other in self.texts):
            self.texts.append(item)


def run(call: Call, plan: Plan, spans: numset.Spans) -> Steps:
    """Answer ``plan`` for the messages at these positions."""
    uids = numset.pick(call.view.uids, spans)
    view = call.view
    if call.uid and not call.session.uidonly:
        plan.columns = [col.UID] + [column for column in plan.columns if column is not col.UID]
    if call.session.uidonly:
        plan.columns = [column for column in plan.columns if column is not col.UID]
    if plan.texts:
        missing = yield from _texts(call, plan, list(uids))
    elif plan.need is Need.NOTHING:
        missing = 0
        masks = numset.pick(view.flags, spans)
        numbers = (
            [at + 1 for at in numset.positions(spans)]
            if len(spans) != 1
            else range(spans[0][0] + 1, spans[0][1] + 1)
        )
        for start in range(0, len(uids), _ARRAY_BLOCK):
            end = start + _ARRAY_BLOCK
            block = Block(numbers[start:end], uids[start:end], masks[start:end], (), view.table, _gone)
            _write(call, plan.columns, block)
            if call.full:
                yield
    else:
        missing = yield from _rows(call, plan, uids)
    if missing:
        raise No("Some of the messages are gone", "EXPUNGEISSUED")
    return "FETCH completed"


def _rows(call: Call, plan: Plan, uids: Sequence[int]) -> Generator[None, None, int]:
    limit = call.session.config.limits.rows
    missing = 0
    for start in range(0, len(uids), limit):
        wanted = uids[start : start + limit]
        block = _block(call, wanted, call.store.rows(call.view.mailbox, wanted, plan.need is Need.COLD))
        missing += len(wanted) - len(block.uids)
        _write(call, plan.columns, block)
        if call.full:
            yield
    return missing


def _block(call: Call, wanted: Sequence[int], rows: list[Row]) -> Block:
    view = call.view
    uids = wanted if len(rows) == len(wanted) else [row.uid for row in rows]
    first = view.number_of(uids[0]) if uids else 0
    last = view.number_of(uids[-1]) if uids else 0
    if last - first + 1 == len(uids):
        numbers: Sequence[int] = range(first, last + 1)
    else:
        numbers = [view.number_of(uid) for uid in uids]
    return Block(
        numbers,
        uids,
        [row.flags for row in rows],
        rows,
        view.table,
        lambda uid: call.store.read(view.mailbox, uid),
    )


def _write(call: Call, columns: list[Column], block: Block) -> None:
    if not block.uids:
        return
    body = b" ".join(column.format for column in columns)
    values = [column.values(block) for column in columns]
    if call.session.uidonly:
        line, lead = b"* %d UIDFETCH (" + body + b")\r\n", block.uids
    else:
        line, lead = b"* %d FETCH (" + body + b")\r\n", block.numbers
    call.write(b"".join([line % row for row in zip(lead, *values, strict=True)]))


def _texts(call: Call, plan: Plan, uids: list[int]) -> Generator[None, None, int]:
    """Groups of messages whose texts are needed."""
    missing = 0
    at = 0
    step = call.session.config.limits.step
    while at < len(uids):
        group: list[tuple[int, bytes]] = []
        octets = 0
        while at < len(uids) and octets < step and len(group) < 256:
            uid = uids[at]
            at += 1
            data = _read(call, uid, plan.partial)
            if data is None:
                missing += 1
                continue
            group.append((uid, data))
            octets += len(data)
        if group:
            missing += _write_group(call, plan, group)
        yield
    return missing


def _read(call: Call, uid: int, keep: bool) -> bytes | None:
    """The text; the last one is kept while a client walks through it in pieces."""
    session = call.session
    cached = session.body_cache
    if cached is not None and cached[0] == call.view.mailbox_id and cached[1] == uid:
        return cached[2]
    data = call.store.read(call.view.mailbox, uid)
    session.body_cache = (call.view.mailbox_id, uid, data) if keep and data is not None else None
    return data


def _write_group(call: Call, plan: Plan, group: list[tuple[int, bytes]]) -> int:
    view, session = call.view, call.session
    uids = [uid for uid, _ in group]
    masks = {uid: view.flags[view.number_of(uid) - 1] for uid in uids}
    newly = _mark_seen(call, masks) if plan.seen and not view.read_only else set()
    need_rows = any(column.need is not Need.NOTHING for column in plan.columns)
    rows: dict[int, Row] = {}
    if need_rows:
        cold = any(column.need is Need.COLD for column in plan.columns)
        rows = {row.uid: row for row in call.store.rows(view.mailbox, uids, cold)}
    tell_flags = all(column is not col.FLAGS for column in plan.columns)
    bare = plan.columns == [col.UID]
    missing = 0
    for uid, data in group:
        if need_rows and uid not in rows:
            missing += 1
            continue
        number = view.number_of(uid)
        if bare and uid not in newly:
            _write_texts(call, plan, b"* %d FETCH (UID %d " % (number, uid), Body(data))
            continue
        wanted = plan.columns + [col.FLAGS] if tell_flags and uid in newly else plan.columns
        block = Block(
            (number,), (uid,), (masks[uid],), (rows[uid],) if need_rows else (), view.table, {uid: data}.get
        )
        head = b"* %d UIDFETCH (" % uid if session.uidonly else b"* %d FETCH (" % number
        if wanted:
            head += b" ".join([column.format % (column.values(block)[0],) for column in wanted]) + b" "
        _write_texts(call, plan, head, Body(data))
    return missing


def _write_texts(call: Call, plan: Plan, head: bytes, body: Body) -> None:
    for item in plan.texts:
        pieces = item.render(body)
        call.write(b"%b%b %b" % (head, item.label, pieces[0]))
        for piece in pieces[1:]:
            call.write(piece)
        head = b" "
    call.write(b")\r\n")


def _mark_seen(call: Call, masks: dict[int, int]) -> set[int]:
    unseen = [uid for uid, mask in masks.items() if not mask & SEEN]
    if not unseen:
        return set()
    result = call.store.set_flags(call.view.mailbox, unseen, "add", ("\\Seen",))
    call.view.told(result.changed)
    for uid, mask, _ in result.changed:
        masks[uid] = mask
    return {uid for uid, _, _ in result.changed}


def _gone(uid: int) -> None:
    """No column of the arrays reads a text."""
