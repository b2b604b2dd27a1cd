"""After an adoption: does the index, made from the files as they lie there now, say what was planned?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from filterd.store import flags as fl
from filterd.store.adopt_plan import Mailbox
from filterd.store.base import FIRST_KEYWORD_BIT
from filterd.store.core import Core
from filterd.store.uidl import read_adopted

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Found:
    """``digests``: (mailbox, UID) -> digest of the text as the source had it."""

    mid: str
    uidvalidity: int
    digests: Mapping[tuple[str, int], bytes]


def verify(core: Core, box: Mailbox, expected: Found, served: bool) -> list[str]:
    """What differs, for people. ``served``: clients have been here, only the identity can still be compared."""
    folder, row = core.box(box.name)
    problems = []
    if (row.mid, row.uidvalidity) != (expected.mid, expected.uidvalidity):
        problems.append(f"{box.name}: UIDVALIDITY is {row.uidvalidity}, planned was {expected.uidvalidity}")
    if row.uidnext < box.nextuid:
        problems.append(f"{box.name}: UIDNEXT is {row.uidnext}, planned was {box.nextuid}")
    if served:
        return problems
    hots = {hot.uid: hot for hot in core.index.hot_all(row.id)}
    wrong: dict[str, list[int]] = {}
    for message in box.messages:
        hot = hots.get(message.uid)
        if hot is None:
            wrong.setdefault("missing", []).append(message.uid)
            continue
        mask, _ = fl.mask_of_letters(message.letters, min(len(box.keywords), fl.LETTER_KEYWORDS))
        mask |= sum(1 << (FIRST_KEYWORD_BIT + at) for at in message.keywords)
        if hot.flags != mask:
            wrong.setdefault("with other flags", []).append(message.uid)
        if hot.date != message.date:
            wrong.setdefault("with another date", []).append(message.uid)
        digest = expected.digests.get((box.name, message.uid))
        if digest is not None and hot.email_id != digest:
            wrong.setdefault("with another text", []).append(message.uid)
    late = [uid for uid in hots if uid >= box.nextuid]
    if late:
        wrong["with a UID that was not planned"] = sorted(late)
    if box.keywords != row.keyword_list:
        problems.append(
            f"{box.name}: keywords are {' '.join(row.keyword_list)}, planned were {' '.join(box.keywords)}"
        )
    if box.guid and read_adopted(folder.top).guid != box.guid:
        problems.append(f"{box.name}: filterd-adopted is not what was written")
    for what, uids in wrong.items():
        more = ", ..." if len(uids) > SHOWN else ""
        problems.append(
            f"{box.name}: {len(uids)} messages {what}: UID {', '.join(map(str, uids[:SHOWN]))}{more}"
        )
    return problems
