"""MESSAGELIMIT and SAVELIMIT: how many messages one command handles.

Specification: RFC 9738. Complete. FETCH, STORE, MOVE, SEARCH and UID EXPUNGE handle the messages with the highest UIDs and say with
MESSAGELIMIT down to which UID they came; the client goes on with UIDBEFORE. COPY and APPEND are all or nothing, so they are
refused. SEARCH counts what it found, where the RFC's example counts what was looked at: a client that goes on misses nothing.
SORT, THREAD and what counts (COUNT, MIN, MAX) take what there is: they cost no answer, or one in their own order.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.imap import numset
from filterd.imap.call import Call
from filterd.imap.errors import No
from filterd.store.base import DELETED

if TYPE_CHECKING:
    from filterd.imap.config import ImapServerConfig
    from filterd.imap.partial import Partial
    from filterd.imap.result import Options


def saving(config: ImapServerConfig) -> int:
    """Messages that one command may save; 0: any number."""
    both = [limit for limit in (config.message_limit, config.save_limit) if limit]
    return min(both, default=0)


def uids(call: Call, chosen: array[int]) -> array[int]:
    """The newest of ``chosen`` (ascending)."""
    most = call.session.config.message_limit
    if not most or len(chosen) <= most:
        return chosen
    chosen = chosen[-most:]
    _tell(call, chosen[0])
    return chosen


def expunged(call: Call, chosen: array[int]) -> array[int]:
    """The same of those that are \\Deleted: the others cost nothing, and a client repeats its UID EXPUNGE as it was."""
    most = call.session.config.message_limit
    if not most or len(chosen) <= most:
        return chosen
    now = call.store.snapshot(call.view.mailbox)
    wanted = set(chosen)
    deleted = [
        uid for uid, flags in zip(now.uids, now.flags, strict=True) if flags & DELETED and uid in wanted
    ]
    return uids(call, array("I", deleted))


def spans(call: Call, chosen: numset.Spans) -> numset.Spans:
    """The same, of positions in the view."""
    most = call.session.config.message_limit
    if not most or numset.size(chosen) <= most:
        return chosen
    kept: numset.Spans = []
    for start, end in reversed(chosen):
        kept.append((max(start, end - most), end))
        most -= kept[-1][1] - kept[-1][0]
        if not most:
            break
    kept.reverse()
    _tell(call, call.view.uids[kept[0][0]])
    return kept


def found(call: Call, options: Options | None, places: Sequence[int]) -> Sequence[int]:
    """The same, of positions that SEARCH found. A window is asked for, not found: it must be small enough."""
    most = call.session.config.message_limit
    if not most:
        return places
    if options is not None:
        window(call, options.partial)
        if not (options.all or options.save):
            return places
    if len(places) <= most:
        return places
    places = places[-most:]
    _tell(call, call.view.uids[places[0]])
    return places


def window(call: Call, partial: Partial | None) -> None:
    """The window of a SEARCH or FETCH (RFC 9394), before anything is done for it."""
    most = call.session.config.message_limit
    if most and partial is not None and partial.last - partial.first >= most:
        raise No(f"A window of {most} messages at most", f"MESSAGELIMIT {most}")


def save(call: Call, count: int, chosen: Sequence[int] = ()) -> None:
    """So many messages shall be saved, all or none; ``chosen``: their UIDs (ascending), when they have any."""
    most = saving(call.session.config)
    if most and count > most:
        lowest = f" {chosen[-most]}" if chosen else ""
        raise No(f"At most {most} messages at once", f"MESSAGELIMIT {most}{lowest}")


def _tell(call: Call, lowest: int) -> None:
    call.limited = f"MESSAGELIMIT {call.session.config.message_limit} {lowest}"
