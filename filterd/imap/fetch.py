"""FETCH at work: index columns for all messages of a block, texts one by one.

Specification: RFC 9051 6.4.5 and 7.5.2; RFC 7162 (MODSEQ); RFC 9586 (UIDFETCH).

Three ways: everything from the view's arrays; from index rows in blocks of ``limits.rows``; with message texts, group by
group of at most about ``limits.step`` octets. \\Seen is set a group at a time, before the group is sent, and told with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from filterd.imap import columns as col
from filterd.imap import lines, numset
from filterd.imap.call import Call, Steps
from filterd.imap.columns import Block, Column
from filterd.imap.errors import No
from filterd.imap.events import FlagWatch
from filterd.imap.section import Body
from filterd.store.base import SEEN, Facts, FlagChange, NoPermission

_GROUP = 256  # messages whose texts are read together, at most
_TEXT_COSTS, _LINE_COSTS = 200_000, 1_500  # nanoseconds, rather too many
_FACTS = frozenset(("size", "date"))
_KEPT = frozenset((col.UID, col.FLAGS, col.SIZE, col.INTERNALDATE))  # columns whose lines are kept
_NOTHING = FlagChange(())
_NO_FACTS = Facts(array("Q"), array("q"))


@dataclass(frozen=True, slots=True)
class TextItem:
    """An item that needs the message: ``render`` gives what stands behind the label and a space; ``whole``: the message
    as it is."""

    label: bytes
    render: Callable[[Body], Sequence[bytes]]
    whole: bool = False


@dataclass(slots=True)
class Plan:
    """What a FETCH asks for."""

    columns: list[Column] = field(default_factory=list)
    texts: list[TextItem] = field(default_factory=list)
    seen: bool = False
    partial: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of the index, each once."""
        return tuple(dict.fromkeys(name for column in self.columns for name in column.needs))

    def copy(self) -> Plan:
        """For one command: what runs it changes the columns."""
        return Plan(list(self.columns), self.texts, self.seen, self.partial)

    def add(self, column: Column) -> None:
        if all(column.format != other.format for other in self.columns):
            self.columns.append(column)

    def add_text(self, item: TextItem) -> None:
        if all(item.label != other.label for other in self.texts):
            self.texts.append(item)


def run(call: Call, plan: Plan, spans: numset.Spans, *, missing_ok: bool = False) -> Steps:
    """Answer ``plan`` for the messages at these positions."""
    uids = numset.pick(call.view.uids, spans)
    if call.uid and not call.session.uidonly:
        plan.columns = [col.UID] + [column for column in plan.columns if column is not col.UID]
    if col.MODSEQ in plan.columns:
        plan.columns = [col.FLAGS_NOW if column is col.FLAGS else column for column in plan.columns]
    if plan.texts:
        call.costs(len(uids) * _TEXT_COSTS)
        missing = yield from _texts(call, plan, list(uids))
    elif _FACTS.issuperset(plan.needs) and (facts := _facts(call, plan)) is not None:
        missing = 0
        yield from _arrays(call, plan, spans, facts)
    else:
        call.costs(len(uids) * _LINE_COSTS)
        missing = yield from _rows(call, plan, uids)
    if missing and not missing_ok:
        raise No("Some of the messages are gone", "EXPUNGEISSUED")
    return "FETCH completed"


def _facts(call: Call, plan: Plan) -> Facts | None:
    """Sizes and dates beside the view; None when the view has messages that are gone."""
    view = call.view
    if not plan.needs:
        return _NO_FACTS
    if view.uids is not view.snapshot.uids:
        return None
    facts = call.store.facts(view.snapshot)
    if facts is not None and col.INTERNALDATE in plan.columns:
        shown = facts.shown or []
        if len(shown) < len(facts.dates):
            call.costs(_LINE_COSTS * (len(facts.dates) - len(shown)))
            facts.shown = shown + col.dates(facts.dates[len(shown) :])
    return facts


def _arrays(call: Call, plan: Plan, spans: numset.Spans, facts: Facts) -> Steps:
    """Everything from the snapshot and its columns; lines of whole blocks are made once for all who ask."""
    view, session, columns = call.view, call.session, plan.columns
    line, ready, names = _line(call, columns), session.config.lines, view.table.names
    owner = session.account.id if session.account is not None else ""
    kept = len(view) <= lines.MOST and _KEPT.issuperset(columns)
    what = line.decode("latin-1")
    all_uids, all_masks, made = view.uids, view.flags, 0
    for span, whole in lines.cut(spans, len(view)):
        uids, masks, fields = numset.pick(all_uids, span), numset.pick(all_masks, span), {}
        if col.SIZE in columns:
            fields["size"] = numset.pick(facts.sizes, span)
        if col.INTERNALDATE in columns:
            fields["date"] = numset.pick(facts.dates, span)
        key = (owner, view.mailbox_id, f"{span[0][0]} {what}")
        made_of = uids, masks, *fields.values()
        text = ready.get(key, names, made_of) if whole and kept else None
        if text is None:
            made += len(uids)
            call.costs(made * _LINE_COSTS)
            places = range(*span[0]) if len(span) == 1 else list(numset.positions(span))
            shown = (
                [facts.shown[at] for at in places] if facts.shown is not None and "date" in fields else None
            )
            numbers = [at + 1 for at in places]
            block = Block(numbers, uids, masks, fields, view.table, _gone, shown)
            text = _render(line, uids if session.uidonly else numbers, columns, block)
            if whole and kept:
                ready.put(key, names, made_of, text)
        call.write(text)
        if call.full:
            yield
    return ""


def _rows(call: Call, plan: Plan, uids: Sequence[int]) -> Generator[None, None, int]:
    limit = call.session.config.limits.rows
    missing = 0
    for start in range(0, len(uids), limit):
        wanted = uids[start : start + limit]
        block = _block(call, wanted, plan.needs)
        missing += len(wanted) - len(block.uids)
        _write(call, plan.columns, block)
        if call.full:
            yield
    return missing


def _block(call: Call, wanted: Sequence[int], needs: tuple[str, ...]) -> Block:
    view = call.view
    rows = call.store.fields(view.mailbox, wanted, needs)
    values = list(zip(*rows, strict=True)) or [()] * (len(needs) + 1)
    uids: Sequence[int] = values[0]
    first = view.number_of(uids[0]) if uids else 0
    last = view.number_of(uids[-1]) if uids else 0
    if last - first + 1 == len(uids):
        numbers: Sequence[int] = range(first, last + 1)
        masks: Sequence[int] = view.flags[first - 1 : last]
    else:
        numbers = [view.number_of(uid) for uid in uids]
        masks = [view.flags[number - 1] for number in numbers]
    fields: dict[str, Sequence[bytes]] = dict(zip(needs, values[1:], strict=True))
    return Block(numbers, uids, masks, fields, view.table, lambda uid: call.store.read(view.mailbox, uid))


def _write(call: Call, columns: list[Column], block: Block) -> None:
    if block.uids:
        lead = block.uids if call.session.uidonly else block.numbers
        call.write(_render(_line(call, columns), lead, columns, block))


def _line(call: Call, columns: list[Column]) -> bytes:
    """What one ``%`` makes the line of a message of; its number, or UID, comes first."""
    body = b" ".join([column.format for column in columns])
    return b"* %d UIDFETCH (" + body + b")\r\n" if call.session.uidonly else b"* %d FETCH (" + body + b")\r\n"


def _render(line: bytes, lead: Sequence[int], columns: list[Column], block: Block) -> bytes:
    """All lines of a block by one ``%``: a third less than one a line."""
    values = [column.values(block) for column in columns]
    return line * len(lead) % tuple(chain.from_iterable(zip(lead, *values, strict=True)))


def _texts(call: Call, plan: Plan, uids: list[int]) -> Generator[None, None, int]:
    """Groups of messages whose texts are needed."""
    missing = 0
    at = 0
    step = call.session.config.limits.step
    while at < len(uids):
        texts = _read(call, uids[at : at + _GROUP], plan.partial, step)
        came = zip(uids[at : at + len(texts)], texts, strict=True)
        group = [(uid, data) for uid, data in came if data is not None]
        missing += len(texts) - len(group)
        at += len(texts)
        if group:
            missing += _write_group(call, plan, group)
        call.progress = at, len(uids)
        if at < len(uids):
            yield
    return missing


def _read(call: Call, uids: list[int], keep: bool, octets: int) -> list[bytes | None]:
    """Texts of the first ones; the last one read is kept while a client walks through it in pieces."""
    session = call.session
    if keep and len(uids) == 1:
        cached = session.body_cache
        if cached is not None and cached[0] == call.view.mailbox_id and cached[1] == uids[0]:
            return [cached[2]]
        data = call.store.read(call.view.mailbox, uids[0])
        session.body_cache = (call.view.mailbox_id, uids[0], data) if data is not None else None
        return [data]
    session.body_cache = None
    return call.store.read_many(call.view.mailbox, uids, octets)


def _write_group(call: Call, plan: Plan, group: list[tuple[int, bytes]]) -> int:
    view, session = call.view, call.session
    uids = [uid for uid, _ in group]
    bare = plan.columns == [col.UID] and not session.uidonly
    if bare and not plan.seen and len(plan.texts) == 1 and plan.texts[0].whole:
        _write_whole(call, plan.texts[0].label, view.numbers_of(uids), group)
        return 0
    masks = {uid: view.flags[view.number_of(uid) - 1] for uid in uids}
    marked = _mark_seen(call, masks) if plan.seen and not view.read_only else _NOTHING
    newly = {uid for uid, _, _ in marked.changed}
    needs = plan.needs
    rows = {row[0]: row[1:] for row in call.store.fields(view.mailbox, uids, needs)} if needs else {}
    tell_flags = all(column is not col.FLAGS and column is not col.FLAGS_NOW for column in plan.columns)
    missing = 0
    for uid, data in group:
        if needs and uid not in rows:
            missing += 1
            continue
        number = view.number_of(uid)
        if bare and uid not in newly:
            _write_texts(call, plan, b"* %d FETCH (UID %d " % (number, uid), Body(data))
            continue
        wanted = plan.columns + [col.FLAGS] if tell_flags and uid in newly else plan.columns
        fields: dict[str, Sequence[bytes]] = {}
        if needs:
            fields = {name: (value,) for name, value in zip(needs, rows[uid], strict=True)}  # type: ignore[misc]  # by name
        block = Block((number,), (uid,), (masks[uid],), fields, view.table, {uid: data}.get)
        head = b"* %d UIDFETCH (" % uid if session.uidonly else b"* %d FETCH (" % number
        if wanted:
            head += b" ".join([column.format % (column.values(block)[0],) for column in wanted]) + b" "
        _write_texts(call, plan, head, Body(data))
    if newly:
        view.told(marked)  # not when an item was refused: then the next look tells it
    return missing


def _write_whole(call: Call, label: bytes, numbers: Sequence[int], group: list[tuple[int, bytes]]) -> None:
    """UID and the whole text, what clients ask for that keep all mail: two pieces a message, nothing looked at."""
    line = b"* %d FETCH (UID %d " + label + b" {%d}\r\n"
    end = b""
    for number, (uid, data) in zip(numbers, group, strict=True):
        if b"\0" in data:
            data = data.replace(b"\0", b"\x80")
        call.write(end + line % (number, uid, len(data)))
        call.write(data)
        end = b")\r\n"
    call.write(end)


def _write_texts(call: Call, plan: Plan, head: bytes, body: Body) -> None:
    limits = call.session.config.limits
    left = limits.text_times * len(body.data) + limits.step
    rendered = []  # all before the first octet: one of them may be refused
    for item in plan.texts:
        rendered.append(pieces := item.render(body))
        left -= sum(map(len, pieces))
        if left < 0:
            raise No("Ask for less of one message at once", "LIMIT")
    for item, pieces in zip(plan.texts, rendered, strict=True):
        call.write(b"%b%b %b" % (head, item.label, pieces[0]))
        for piece in pieces[1:]:
            call.write(piece)
        head = b" "
    call.write(b")\r\n")


def _mark_seen(call: Call, masks: dict[int, int]) -> FlagChange:
    """What is to be told; ``masks`` become the flags after it."""
    unseen = [uid for uid, mask in masks.items() if not mask & SEEN]
    if not unseen:
        return _NOTHING
    watch = FlagWatch.of(call, call.view.mailbox, array("I", unseen), "add", ("\\Seen",))
    try:
        result = call.store.set_flags(call.view.mailbox, unseen, "add", ("\\Seen",))
    except NoPermission:  # RFC 4314 4: to read is allowed without the right to remember it
        return _NOTHING
    if watch is not None:
        watch.changed(result)
    for line in call.view.learn_of(call.store, result):
        call.write(line)
    for uid, mask, _ in result.changed:
        masks[uid] = mask
    return result


def _gone(uid: int) -> None:
    """No column of the arrays reads a text."""
