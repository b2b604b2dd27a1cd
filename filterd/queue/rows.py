"""The queue's tables and rows as values; the format is told in ``journal``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from filterd.queue import changes
from pipeline.dns_name import normalise
from pipeline.trace import ALPHABET

ID_LENGTH = 12
ENDS = ("sent", "bounced", "expired", "dropped")
LIVE = ("queued", "held")
HOLD = "HOLDUNTIL"  # among an item's params: seconds since the epoch
FORWARD = "XFORWARD"  # among an item's params: JSON, attribute to value
TAGGED = "BATV"  # among an item's params: our domain may tag its reverse-path (pipeline.batv)
OUTLET = "OUTLET"  # among an item's params: the program or file it is for (filterd.accounts.outlets)
TLS_REQUIRED = "TLS-REQUIRED"  # among an item's params: what the field of this name says ("no")

SCHEMA = (
    """
create table if not exists body(id integer primary key, created real not null, size integer not null,
  path text not null default '', data blob);
create table if not exists item(id integer primary key, body integer, key blob not null, acked integer not null default 0,
  created real not null, reverse_path text not null, recipient text not null, domain text not null, kind text not null,
  trace text not null, params text not null, state text not null default 'queued', next_at real not null,
  attempts integer not null default 0, last_at real not null default 0, last_reply text not null default '',
  warned integer not null default 0, ended real, wish text not null default '');
create index if not exists item_due on item(next_at) where state='queued';
create index if not exists item_held on item(next_at) where state='held';
create index if not exists item_domain on item(domain, next_at) where state='queued';
create index if not exists item_key on item(key) where acked=0;
create index if not exists item_body on item(body) where body is not null;
create index if not exists item_ended on item(ended) where ended is not null;
create index if not exists body_path on body(path) where path<>'';
create table if not exists store(id integer primary key, body integer not null, item integer not null, acked integer not null
  default 0, created real not null, account text not null, mailbox text not null,
  flags text not null, date integer, key blob not null, trace text not null, decision text not null,
  state text not null, row_trace text not null, next_at real not null,
  attempts integer not null default 0);
create table if not exists attempt(item integer not null, at real not null, host text not null, reply text not null,
  dialogue integer);
create index if not exists attempt_item on attempt(item, at);
create table if not exists dialogue(id integer primary key, at real not null, text text not null);
"""
    + changes.SCHEMA
)

AGENDA = """
with recursive place(name) as (
  select min(domain) from item where state='queued'
  union all
  select (select min(domain) from item where state='queued' and domain > place.name) from place where place.name is not null)
select name, (select min(next_at) from item where state='queued' and domain=place.name) from place where name is not null
"""

ITEM_COLUMNS = (
    "id, coalesce(body,0), created, reverse_path, recipient, domain, kind, trace, params, state, next_at, attempts, last_at,"
    " last_reply, warned, wish"
)


@dataclass(slots=True)
class Item:
    """One recipient that leaves, or left. ``wish`` "bounce": the operator wants it returned."""

    number: int
    body: int
    created: float
    reverse_path: str
    recipient: str
    domain: str
    kind: str
    trace: str
    params: dict[str, str]
    state: str
    next_at: float
    attempts: int
    last_at: float
    last_reply: str
    warned: int
    wish: str = ""

    @property
    def id(self) -> str:
        """As people see it."""
        return id_text(self.number)

    @property
    def since(self) -> float:
        """When it was first allowed to leave: what its age is counted from."""
        return max(self.created, held_until(self.params))


@dataclass(slots=True)
class Added:
    """What ``add`` did. ``paths``: the files among those prepared that committed rows will name."""

    items: tuple[str, ...]
    stores: tuple[str, ...]
    paths: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Agenda:
    """When each destination domain wants attention next, and when the next unfinished store does."""

    domains: list[tuple[str, float]]
    store_at: float | None


def held_until(params: Mapping[str, str]) -> float:
    """Not before, as its sender asked (RFC 4865); seconds since the epoch, 0 when he did not."""
    try:
        return float(params.get(HOLD, 0))
    except ValueError:
        return 0.0


def forwarded(params: Mapping[str, str]) -> dict[str, str]:
    """The facts for XFORWARD that a row carries."""
    text = params.get(FORWARD, "")
    return {str(name): str(value) for name, value in json.loads(text).items()} if text else {}


@dataclass(frozen=True, slots=True)
class PutOff:
    """Until when and why a whole destination waits; what was created before these times is still looked at one by one."""

    until: float
    reply: str
    alive_after: float
    young_after: float


def id_text(number: int) -> str:
    """A row id as people see it."""
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(5 * (ID_LENGTH - 1), -1, -5))


def id_number(text: str) -> int:
    """The row id of a queue id however it is typed; -1 when it is none."""
    number = 0
    plain = text.strip().upper().replace("-", "").replace("O", "0").replace("I", "1").replace("L", "1")
    for letter in plain:
        at = ALPHABET.find(letter)
        if at < 0 or len(plain) != ID_LENGTH:
            return -1
        number = number << 5 | at
    return number if plain else -1


def item_of(row: Sequence[object]) -> Item:
    values = list(row)
    values[8] = json.loads(str(values[8])) if values[8] != "{}" else {}
    return Item(*values)  # type: ignore[arg-type]  # the columns of ITEM_COLUMNS in order


def domain_of(recipient: str) -> str:
    domain = recipient.rpartition("@")[2] if "@" in recipient else ""
    return normalise(domain) or domain.lower()
