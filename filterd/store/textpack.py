"""SEARCH TEXT and BODY: a packed file per mailbox of the decoded, case-folded text of its messages (HOUSE item 20).

It only proposes: what it names is decoded and looked at by whoever asked, so it may name too many, never too few. A message that
is not packed yet is always named; so is one whose text is larger than MAX_TEXT. But what it holds of a message is the very text
that is searched, header and body apart, and UTF-8 finds what letters find: so a hit in a message whose file is as the index knows
it is sure, without another look.

Format (documented nowhere else): ``text-<mailbox id>-<generation>`` in the index directory; records ``uid u32le, octets u32le,
octets of the header u32le, text UTF-8`` with an LF between header and body; octets 2^32-1 means "too large", without text. The
index (``meta``, key ``pack:<mailbox id>``) says which generation, how many octets of it are good (they were synced before it said
so, what lies behind is cut off by the next writer) and which FOLD made them: of another one nothing is believed.
Records of messages that are gone stay until there are more of them than of the others; then a new generation is begun.

It is made by looking for something: a search packs for BUILD_SECONDS, ``jobs`` goes on in the background (``step``).
"""

from __future__ import annotations

import bisect
import contextlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from filterd.store import durable, seldom
from filterd.store.base import NoSuchMailbox, TextHits
from rules.comparator import search_form
from rules.mail.message import Message

if TYPE_CHECKING:
    from filterd.store.core import Core
    from filterd.store.index import MailboxRow

BUILD_SECONDS = 0.2
MAX_TEXT = 4 * 1024 * 1024
TOO_LARGE = 2**32 - 1
SLICE = 4 * 1024 * 1024  # mmap.find holds the interpreter: look at so much at a time
BATCH_OCTETS = 4 * 1024 * 1024
DEAD_FLOOR = 1000
PREFIX = "text-"
FOLD = "2"  # how texts are folded: 1 (not written) str.casefold, 2 rules.comparator.search_form
_HEAD = struct.Struct("<III")


@dataclass(slots=True)
class _Pack:
    """What is known of a pack: ``starts`` of the texts, ascending, and the UIDs beside them."""

    generation: int
    length: int = 0
    starts: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("Q"))
    bodies: array[int] = field(default_factory=lambda: array("Q"))  # where the body begins
    uids: array[int] = field(default_factory=lambda: array("I"))
    known: set[int] = field(default_factory=set)
    large: set[int] = field(default_factory=set)
    map: mmap.mmap | None = None

    def close(self) -> None:
        if self.map is not None:
            self.map.close()
            self.map = None


class TextPacks:
    """The packs of one account."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._packs: dict[str, _Pack] = {}
        self._searched: set[str] = set()
        self.unfinished: dict[str, None] = {}  # mailbox names that were searched and are not packed whole

    def close(self) -> None:
        for pack in self._packs.values():
            pack.close()
        self._packs.clear()

    def candidates(self, mailbox: str, needle: str, uids: Sequence[int]) -> list[int]:
        found = self.hits(mailbox, needle, True, uids)
        maybe = set(found.maybe)
        return [uid for uid in uids if uid in found.sure or uid in maybe]

    def hits(self, mailbox: str, needle: str, header: bool, uids: Sequence[int]) -> TextHits:
        core = self._core
        folder, row = core.box(mailbox)
        pack = self._build(mailbox, row, uids, BUILD_SECONDS)
        octets = search_form(needle).encode("utf-8", "surrogatepass")
        if not octets or "\n" in needle:  # it could reach from the header into the body
            return TextHits(frozenset(), list(uids))
        wanted = set(uids)
        found = self._find(pack, octets, header) & wanted
        changed = core.settings.layout.changed(core, folder, row, sorted(found))
        known, large = pack.known, pack.large
        if large or changed or len(known) < len(wanted) or not known.issuperset(wanted):
            maybe = [uid for uid in uids if uid not in known or uid in large or uid in changed]
        else:
            maybe = []
        return TextHits(frozenset(found.difference(maybe)), maybe)

    def arrived(self, mailboxes: Iterable[str]) -> None:
        """Something came in: a mailbox that has been searched here is packed on."""
        if self._searched:
            self.unfinished.update(dict.fromkeys(self._searched.intersection(mailboxes)))

    def step(self, seconds: float) -> None:
        """Go on packing what was searched."""
        for mailbox in list(self.unfinished)[:1]:
            try:
                folder, row = self._core.box(mailbox)
            except NoSuchMailbox:
                self.unfinished.pop(mailbox, None)
                return
            row = self._core.settings.layout.refresh(self._core, folder, row)
            found = self._core.index.query("select uid from hot where mbox=?", (row.id,))
            self._build(mailbox, row, [uid for (uid,) in found if isinstance(uid, int)], seconds)

    # -- inside -------------------------------------------------------------------------------------------------------
    def _load(self, row: MailboxRow) -> _Pack:
        """The pack as far as the index vouches for it."""
        generation, length, fold = (*self._core.index.meta(f"pack:{row.mid}").split(" "), "", "", "")[:3]
        pack = self._packs.get(row.mid)
        if generation and fold != FOLD:
            if pack is not None:
                pack.close()
            pack = self._packs[row.mid] = _Pack(int(generation))
            return pack
        if (
            pack is not None
            and generation
            and (pack.generation, pack.length) == (int(generation), int(length))
        ):
            return pack
        if pack is None or not generation or pack.generation != int(generation) or pack.length > int(length):
            if pack is not None:
                pack.close()
            pack = self._packs[row.mid] = _Pack(int(generation or 0))
        if generation:
            self._read(pack, row, int(length))
        return pack

    def _read(self, pack: _Pack, row: MailboxRow, length: int) -> None:
        pack.close()
        try:
            fd = os.open(self._name(row, pack), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._core.index_dir.fd)
        except FileNotFoundError:
            return
        try:
            if length and os.fstat(fd).st_size >= length:
                pack.map = mmap.mmap(fd, length, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        if pack.map is None:
            return
        at = pack.length
        while at + _HEAD.size <= length:
            uid, size, head = _HEAD.unpack_from(pack.map, at)
            at += _HEAD.size
            pack.known.add(uid)
            pack.starts.append(at)
            pack.bodies.append(at + head + 1)
            pack.uids.append(uid)
            if size == TOO_LARGE:
                pack.large.add(uid)
            else:
                at += size
            pack.ends.append(at)
        pack.length = length

    @staticmethod
    def _name(row: MailboxRow, pack: _Pack) -> str:
        return f"{PREFIX}{row.mid}-{pack.generation}"

    def _build(self, mailbox: str, row: MailboxRow, uids: Sequence[int], seconds: float) -> _Pack:
        """Pack some of what is missing."""
        clock = self._core.settings.clock
        deadline = clock.monotonic() + seconds
        self._searched.add(mailbox)
        while True:
            pack = self._load(row)
            missing = [uid for uid in uids if uid not in pack.known]
            if not missing:
                self.unfinished.pop(mailbox, None)
                return pack
            self.unfinished[mailbox] = None
            if clock.monotonic() >= deadline:
                return pack
            data = self._texts(mailbox, missing, deadline)
            if not data:  # what is missing has gone
                self.unfinished.pop(mailbox, None)
                return pack
            self._append(row, pack, data)

    def _texts(self, mailbox: str, uids: list[int], deadline: float) -> bytes:
        out: list[bytes] = []
        octets = 0
        ahead: list[bytes | None] = []
        for at, uid in enumerate(uids):
            if not ahead:
                layout = self._core.settings.layout
                ahead = layout.read_many(self._core, mailbox, uids[at : at + 32], BATCH_OCTETS)[::-1]
            data = ahead.pop()
            if data is None:
                continue
            message = Message(data)
            head = search_form(message.header_text()).encode("utf-8", "surrogatepass")
            body = search_form(message.body_text()).encode("utf-8", "surrogatepass")
            size = len(head) + 1 + len(body)
            if size > MAX_TEXT:
                out.append(_HEAD.pack(uid, TOO_LARGE, 0))
            else:
                out += (_HEAD.pack(uid, size, len(head)), head, b"\n", body)
                octets += size
            if octets > BATCH_OCTETS or self._core.settings.clock.monotonic() >= deadline:
                break
        return b"".join(out)

    def _append(self, row: MailboxRow, pack: _Pack, data: bytes) -> None:
        core = self._core
        with core.locked():
            before = (pack.generation, pack.length)
            pack = self._load(row)
            if pack.generation and (pack.generation, pack.length) != before:
                return  # another process was at it: see what is left to do
            live = core.index.mailbox(row.id)
            messages = live.messages if live is not None else 0
            unreadable = (
                pack.map is None and pack.generation
            )  # never cut what another process may have mapped
            if not pack.generation or unreadable or len(pack.uids) > 2 * messages + DEAD_FLOOR:
                old = self._name(row, pack)
                pack.close()
                pack = self._packs[row.mid] = _Pack(pack.generation + 1)
                with contextlib.suppress(FileNotFoundError):
                    core.settings.disk.unlink(core.index_dir, old)
            durable.extend_file(core.index_dir, self._name(row, pack), pack.length, data)
            with core.index.transaction():
                core.index.set_meta(f"pack:{row.mid}", f"{pack.generation} {pack.length + len(data)} {FOLD}")

    def _find(self, pack: _Pack, needle: bytes, header: bool) -> set[int]:
        """UIDs whose text (or body) contains ``needle``."""
        hits: set[int] = set()
        data, starts, ends = pack.map, pack.starts, pack.ends
        if data is None:
            return hits
        places = starts if header else pack.bodies
        at, end, count, size = 0, pack.length, len(starts), len(needle)
        rare = seldom.rarest(needle)
        while at < end:
            found = seldom.find(data, needle, rare, at, min(end, at + SLICE + size))
            if found < 0:
                at += SLICE
                continue
            which = max(bisect.bisect_right(starts, found) - 1, 0)
            if found < places[which]:  # in the header, or in front of the first text
                at = max(found + 1, places[which]) if found >= starts[which] else found + 1
            elif found + size > ends[which]:  # over the edge of a record
                at = found + 1
            else:
                hits.add(pack.uids[which])
                at = starts[which + 1] if which + 1 < count else end
        return hits


def sweep(core: Core) -> None:
    """Remove packs that nothing refers to. Under the lock."""
    good = {
        f"{PREFIX}{row.mid}-{core.index.meta(f'pack:{row.mid}').partition(' ')[0]}"
        for row in core.index.mailboxes()
    }
    for name in os.listdir(core.index_dir.fd):
        if name.startswith(PREFIX) and name not in good:
            with contextlib.suppress(OSError):
                core.settings.disk.unlink(core.index_dir, name)
