"""Deliver By: the time by which a message must have arrived, and what becomes of it when that has passed.

Specification: RFC 2852, as scripts ask for it (RFC 6009 7). ``BY`` among an item's params holds seconds from its arrival, and the
mode. What is told to the next host is the time that is left. Mode R: a message is returned when its time has passed, and never
goes to a host that does not promise the same (4.1, 5). Mode N: the sender hears once that it is late, and it is tried on; when it
goes to a host that would not tell him, he hears that it was relayed (4.1.4). Trace (T): he hears of each host that relays it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from filterd.queue import dsn
from filterd.queue.replies import RemoteReply
from filterd.queue.rows import Item

BY = "BY"
# In SQL, of a row of the queue: its deadline, NULL when there is none; whether it is returned then, or told of for the first time.
SQL_AT = f"(created + cast(json_extract(params, '$.{BY}') as integer))"
SQL_MINDED = f"(warned=0 or upper(json_extract(params, '$.{BY}')) like '%;R%')"
_VALUE = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)
_LEAST = re.compile(r"[0-9]{1,9}(?![0-9])")
TOO_LATE = RemoteReply(554, ("5.4.7 it could not be delivered by the time that was asked for",))
NO_PROMISE = RemoteReply(550, ("5.3.3 the next host cannot promise a time of delivery (DELIVERBY)",))


@dataclass(frozen=True, slots=True)
class Deadline:
    """``at``: seconds since the epoch; ``returned``: is the message returned then, and not only told of?"""

    at: float
    returned: bool
    trace: str

    def passed(self, now: float) -> bool:
        """Is it later?"""
        return now >= self.at


def deadline(item: Item) -> Deadline | None:
    """By when an item must be delivered; None when nobody asked."""
    found = _VALUE.fullmatch(item.params.get(BY, ""))
    if found is None:
        return None
    return Deadline(item.created + int(found[1]), found[2].upper() == "R", found[3].upper())


def params_now(item: Item, now: float) -> Mapping[str, str]:
    """The params of a try: BY with the time that is left."""
    end = deadline(item)
    if end is None:
        return item.params
    return {**item.params, BY: f"{int(end.at - now)};{'R' if end.returned else 'N'}{end.trace}"}


def told_of_relay(params: Mapping[str, str], promised: bool) -> bool:
    """Is the sender told that it went to the next host (``promised``: it knows DELIVERBY)? Not with NOTIFY=NEVER."""
    found = _VALUE.fullmatch(params.get(BY, ""))
    if found is None or dsn.never(params):
        return False
    return bool(found[3]) or (found[2].upper() == "N" and not promised)


def least(argument: str) -> int:
    """What a host announced behind DELIVERBY: the shortest time that it promises (RFC 2852 2), 0 when it says none."""
    found = _LEAST.match(argument)
    return int(found[0]) if found is not None else 0


def refusal(params: Mapping[str, str], promised: bool, at_least: int = 0) -> RemoteReply | None:
    """Why a message must not go to the next host (``promised``: it knows DELIVERBY; ``at_least``: seconds that must be left)."""
    found = _VALUE.fullmatch(params.get(BY, ""))
    if found is None or found[2].upper() != "R":
        return None
    if int(found[1]) <= 0:
        return TOO_LATE
    return None if promised and int(found[1]) >= at_least else NO_PROMISE  # RFC 2852 4.1.4.1
