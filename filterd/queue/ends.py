"""How a try ended: one transaction writes the attempt, the new state and the notifications that follow from it.

Runs in the queue's thread, as a piece of work that may run twice (see ``writer``): everything it does is in the journal, the
rest is returned. Invariants: the null reverse-path is never answered, nor is what we made ourselves; an item ends once; a
text that cannot be read any more still comes to an end, reported without its header.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filterd.explain.owner import ITEM
from filterd.queue import deliverby, dsn
from filterd.queue.base import Outgoing
from filterd.queue.journal import Journal
from filterd.queue.replies import RemoteReply
from filterd.queue.routing import Lane, plain
from filterd.queue.rows import Item
from filterd.store.base import StoreUnavailable
from pipeline.ports import Clock, Ids
from pipeline.trace import Span

OUR_OWN = ("dsn", "vacation", "notify", "report")
HERE = "here"

log = logging.getLogger("filterd.queue")


@dataclass(frozen=True, slots=True)
class Schedule:
    """``retry`` pauses in seconds, the last repeats; ``warn_after`` 0: never."""

    hostname: str
    retry: Sequence[float]
    max_age: float
    warn_after: float

    def next_try(self, item: Item, now: float) -> float:
        """The last try is made when the message is as old as it may get."""
        at = now + self.retry[min(item.attempts, len(self.retry) - 1)]
        ends = [item.since + self.max_age]
        if (by := deliverby.deadline(item)) is not None:
            ends.append(by.at)
        return min([at, *(end for end in ends if now < end)])


@dataclass(frozen=True, slots=True)
class Result:
    """One try for some recipients. ``replies`` by recipient; ``dsn_taken``: the next host reports success itself; ``by_taken``: it
    keeps times of delivery; ``place``: where, for the operator, when ``host`` does not tell."""

    items: Sequence[Item]
    replies: Mapping[str, RemoteReply]
    host: str
    transcript: str = ""
    started: float = 0.0
    dsn_taken: bool = False
    place: str = ""
    by_taken: bool = False


NO_ANSWER = RemoteReply(451, ("4.4.2 no answer",))


@dataclass(slots=True)
class Ends:
    schedule: Schedule
    clock: Clock
    ids: Ids
    lane: Lane = plain

    def record(self, journal: Journal, result: Result) -> list[tuple[str, str, Span]]:
        """Inside a transaction; (trace, queue id, span) of every item."""
        now = self.clock.time()
        notes: list[Outgoing] = []
        spans: list[tuple[str, str, Span]] = []
        dialogue = journal.said(now, result.transcript)
        for item in result.items:
            reply = result.replies.get(item.recipient) or NO_ANSWER
            host = result.place or result.host
            journal.tried(item, now, host, reply.text, dialogue)
            word = self._settle(journal, item, reply, result, now, notes)
            text = f"{item.recipient} at {host}: {reply.text}" if host else f"{item.recipient}: {reply.text}"
            began = result.started or now
            span = Span("send", began, now - began, word, text, {ITEM: item.id})
            spans.append((item.trace, item.id, span))
        if notes:
            journal.add(notes, (), now, lane=self.lane)
        return spans

    def _settle(
        self,
        journal: Journal,
        item: Item,
        reply: RemoteReply,
        result: Result,
        now: float,
        notes: list[Outgoing],
    ) -> str:
        if reply.good:
            asked = not result.dsn_taken and dsn.wanted(item.params, "SUCCESS")
            by_hop = result.host != HERE and deliverby.told_of_relay(item.params, result.by_taken)
            if asked or by_hop:
                action = "delivered" if result.host == HERE else "relayed"
                self._notify(journal, item, action, reply, result.host, now, notes)
            journal.end(item.id, "sent", now)
            return "sent"
        by = deliverby.deadline(item)
        permanent, expired = reply.permanent, now - item.since >= self.schedule.max_age
        if by is not None and by.returned and by.passed(now) and not permanent:
            reply, expired = deliverby.TOO_LATE, True
        if reply.permanent or expired:
            before = len(notes)
            if dsn.wanted(item.params, "FAILURE"):
                self._notify(journal, item, "failed", reply, result.host, now, notes)
            state = "bounced" if permanent else "expired"
            if not journal.end(item.id, state, now):  # dropped by hand meanwhile
                del notes[before:]
                return "dropped"
            log.info("%s for %s %s: %s", item.id, item.recipient, state, reply.text)
            if not item.reverse_path and len(notes) == before:
                log.warning("%s from <> for %s cannot be delivered and is given up", item.id, item.recipient)
            return state
        journal.again(item.id, self.schedule.next_try(item, now))
        warn = self.schedule.warn_after
        late = (warn and now - item.since >= warn) or (by is not None and by.passed(now))
        if late and not item.warned and dsn.wanted(item.params, "DELAY"):
            journal.set_warned(item.id)
            self._notify(journal, item, "delayed", reply, result.host, now, notes)
        return "waits"

    def _notify(
        self,
        journal: Journal,
        item: Item,
        action: str,
        reply: RemoteReply,
        host: str,
        now: float,
        notes: list[Outgoing],
    ) -> None:
        if not item.reverse_path or item.kind in OUR_OWN:
            return
        try:
            original = journal.body(item.body)
        except StoreUnavailable as error:
            log.error("%s: its text is lost: %s", item.id, error)
            original = b""
        data = dsn.compose(
            hostname=self.schedule.hostname,
            action=action,
            reverse_path=item.reverse_path,
            recipient=item.recipient,
            status=dsn.status_of("\n".join(reply.lines), reply.code),
            diagnostic=reply.text,
            original=original,
            params=item.params,
            message_id=f"{self.ids.token(10)}@{self.schedule.hostname}",
            now=now,
            remote="" if host == HERE or host.startswith("/") else host.split(" ")[0],  # no path of ours
            arrival=item.created,
            until=item.since + self.schedule.max_age,
        )
        key = f"{item.id}:{action}".encode()
        params = {} if item.reverse_path.isascii() else {"SMTPUTF8": ""}
        if "REQUIRETLS" in item.params:  # RFC 8689 5
            params["REQUIRETLS"] = ""
        notes.append(Outgoing(key, "", item.reverse_path, data, "dsn", item.trace, params))
