"""Columns of a whole mailbox, kept beside its snapshot: sizes and dates, and header fields ready to be searched.

Each is made from the index once and then brought forward by what changed, like the snapshots themselves (``views``); they
live on the process's ``Shelf``. A column belongs to one snapshot: its n-th entry is that of ``snapshot.uids[n]``. Where the
index has moved on and a message of the snapshot is gone, there is no column (None) and the caller asks row by row.

A message whose modseq grew is read again, though mostly only its flags changed: its file may have been replaced.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from filterd.imap.render import CACHED_FIELDS, NOT_CACHED, packed_values
from filterd.store.base import Facts, HeaderTexts, Snapshot
from filterd.store.views import changed_since, numbers
from rules.comparator import search_form
from rules.mail import header, words

if TYPE_CHECKING:
    from filterd.store.core import Core

V = TypeVar("V")
BLOCK = 500
_DATE_OCTETS = 75  # of a rendered date


@dataclass(frozen=True, slots=True)
class _Kept(Generic[V]):
    """A column and where it stands."""

    uids: array[int]
    modseq: int
    value: V


def kept_facts(core: Core, snapshot: Snapshot) -> Facts | None:
    """Those that are there already."""
    kept = core.settings.shelf.get((core.account, snapshot.info.id, "facts"))
    return kept.value if isinstance(kept, _Kept) and kept.uids is snapshot.uids else None


def kept_header_texts(core: Core, snapshot: Snapshot, name: bytes) -> HeaderTexts | None:
    """The same."""
    kept = core.settings.shelf.get((core.account, snapshot.info.id, f"header {name.decode('latin-1')}"))
    return kept.value if isinstance(kept, _Kept) and kept.uids is snapshot.uids else None


def facts(core: Core, snapshot: Snapshot) -> Facts | None:
    shelf, key = core.settings.shelf, (core.account, snapshot.info.id, "facts")
    kept = shelf.get(key)
    if isinstance(kept, _Kept) and kept.uids is snapshot.uids:
        found: Facts = kept.value
        return found
    made = _facts(core, snapshot, kept if isinstance(kept, _Kept) else None)
    if made is not None:
        octets = len(snapshot.uids) * (16 + _DATE_OCTETS)
        shelf.put(key, _Kept(snapshot.uids, snapshot.modseq, made), octets)
    return made


def _facts(core: Core, snapshot: Snapshot, kept: _Kept[Facts] | None) -> Facts | None:
    mbox = _mailbox_id(core, snapshot)
    if mbox is None:
        return None
    select = "select uid, size, date from hot where mbox=?"
    if kept is None or kept.modseq > snapshot.modseq:
        rows = numbers(core, select + " order by uid", (mbox,))
        known: dict[int, tuple[int, int]] = {}
    else:
        rows = changed_since(core, "uid, size, date", mbox, kept.modseq)
        old = kept.value
        if len(kept.uids) == len(snapshot.uids) and kept.uids == snapshot.uids:
            places = (
                dict(zip(snapshot.uids, zip(old.sizes, old.dates, strict=True), strict=True)) if rows else {}
            )
            if all(places.get(uid, (size, date)) == (size, date) for uid, size, date in rows):
                return old
        longer = _longer(kept, snapshot, rows)
        if longer is not None:
            return longer
        known = dict(zip(kept.uids, zip(old.sizes, old.dates, strict=True), strict=True))
    known.update({uid: (size, date) for uid, size, date in rows})
    try:
        pairs = [known[uid] for uid in snapshot.uids]
    except KeyError:
        return None
    return Facts(array("Q", [size for size, _ in pairs]), array("q", [date for _, date in pairs]))


def _longer(kept: _Kept[Facts], snapshot: Snapshot, rows: Sequence[tuple[int, ...]]) -> Facts | None:
    """When messages have come and nothing else was: what mail does to a large mailbox all the time."""
    count, old = len(kept.uids), kept.value
    come = snapshot.uids[count:]
    if [uid for uid, _, _ in rows] != come.tolist() or snapshot.uids[:count] != kept.uids:
        return None
    sizes, dates = old.sizes[:], old.dates[:]
    sizes.extend([size for _, size, _ in rows])
    dates.extend([date for _, _, date in rows])
    return Facts(sizes, dates, old.shown)


def header_texts(core: Core, snapshot: Snapshot, name: bytes) -> HeaderTexts | None:
    if name not in CACHED_FIELDS:
        return None
    shelf, key = core.settings.shelf, (core.account, snapshot.info.id, f"header {name.decode('ascii')}")
    kept = shelf.get(key)
    if isinstance(kept, _Kept) and kept.uids is snapshot.uids:
        found: HeaderTexts = kept.value
        return found
    made = _header_texts(core, snapshot, name, kept if isinstance(kept, _Kept) else None)
    if made is not None:
        shelf.put(key, _Kept(snapshot.uids, snapshot.modseq, made), len(made.text) + 8 * len(made.starts))
    return made


def _header_texts(
    core: Core, snapshot: Snapshot, name: bytes, kept: _Kept[HeaderTexts] | None
) -> HeaderTexts | None:
    mbox = _mailbox_id(core, snapshot)
    if mbox is None:
        return None
    uids: Sequence[int] = snapshot.uids
    known: dict[int, bytes] = {}
    if kept is not None and kept.modseq <= snapshot.modseq:
        text, starts = kept.value.text, kept.value.starts
        ends = iter(starts)
        next(ends)
        known = {uid: text[start:end] for uid, start, end in zip(kept.uids, starts, ends, strict=False)}
        later = numbers(core, "select uid from hot where mbox=? and modseq>?", (mbox, kept.modseq))
        for (uid,) in later:
            known.pop(uid, None)
        uids = [uid for uid in uids if uid not in known]
    mailbox = snapshot.info.name
    for at in range(0, len(uids), BLOCK):
        for found, data in core.index.columns(mbox, uids[at : at + BLOCK], ("headers",)):
            assert isinstance(found, int) and isinstance(data, bytes)
            uid = found
            if data == NOT_CACHED:
                whole = core.settings.layout.read(core, mailbox, uid)
                if whole is None:
                    return None
                known[uid] = _joined(header.scan(whole).get_all(name))
            else:
                known[uid] = _field_text(data, name)
    starts = array("Q", [0])
    pieces: list[bytes] = []
    length = 0
    for uid in snapshot.uids:
        piece = known.get(uid)
        if piece is None:
            return None
        pieces.append(piece)
        length += len(piece)
        starts.append(length)
    return HeaderTexts(b"".join(pieces), starts)


def _mailbox_id(core: Core, snapshot: Snapshot) -> int | None:
    row = core.index.mailbox_named(snapshot.info.name)
    return row.id if row is not None and row.mid == snapshot.info.id else None


def _field_text(packed: bytes, name: bytes) -> bytes:
    """The values of one field out of packed headers, decoded and folded, each begun with LF."""
    values = packed_values(packed, name)
    if len(values) == 1:
        value = values[0]
        if value.isascii() and b"=?" not in value and b"\n" not in value and b"\r" not in value:  # most are
            return b"\n" + value.lower().strip()
    return _joined(values)


def _joined(values: Sequence[bytes]) -> bytes:
    return b"".join([b"\n" + _folded(value).encode("utf-8", "surrogatepass") for value in values])


def _folded(value: bytes) -> str:
    """As SEARCH compares: unfolded, decoded, case-folded; an LF inside (it was encoded) becomes NUL, which nobody can ask for."""
    return search_form(words.decode(header.unfold(value).strip())).replace("\n", "\0")
