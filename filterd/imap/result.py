"""Results of SEARCH, SORT and their extended forms.

Specification: RFC 4731 (ESEARCH), RFC 5182 (SEARCHRES), RFC 5267 (ESORT), RFC 9394 (PARTIAL), RFC 7162 3.1.6 (MODSEQ),
RFC 6203 4 (RELEVANCY). Complete.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.imap import numset
from filterd.imap.call import Call
from filterd.imap.errors import Bad, No
from filterd.imap.names import astring
from filterd.imap.parse import Parser
from filterd.imap.partial import Partial

if TYPE_CHECKING:
    from filterd.imap.session import Session


@dataclass(slots=True)
class Options:
    """RETURN (...)."""

    min: bool = False
    max: bool = False
    all: bool = False
    count: bool = False
    save: bool = False
    context: bool = False
    update: bool = False
    relevancy: bool = False
    partial: Partial | None = None


def parse_options(p: Parser) -> Options | None:
    """``RETURN (...) `` if it is next, with the space behind it."""
    if not p.take(b"RETURN "):
        return None
    found = Options()
    p.open()
    first = True
    while not p.close():
        if not first:
            p.sp()
        first = False
        word = p.word()
        if word in (b"MIN", b"MAX", b"ALL", b"COUNT", b"SAVE", b"CONTEXT", b"UPDATE", b"RELEVANCY"):
            setattr(found, word.decode("ascii").lower(), True)
        elif word == b"PARTIAL" and found.partial is None:  # RFC 5267 4.4: one at most
            p.sp()
            found.partial = Partial.parse(p)
        else:
            raise Bad("Unknown return option")
    if found.partial is not None and found.all:
        raise Bad("PARTIAL and ALL exclude each other")  # RFC 9394 3.1
    if not (found.min or found.max or found.count or found.save or found.partial):
        found.all = True
    p.sp()
    return found


def require_fuzzy(options: Options | None, fuzzy: bool) -> None:
    """RFC 6203 4: scores are of FUZZY keys."""
    if options is not None and options.relevancy and not fuzzy:
        raise Bad("RELEVANCY needs a FUZZY key")


def numbers(call: Call, places: Sequence[int]) -> Sequence[int]:
    """Positions as the command counts: UIDs or message numbers."""
    if call.uid or call.session.uidonly:
        uids = call.view.uids
        return (
            uids
            if len(places) == len(uids) and isinstance(places, range)
            else [uids[place] for place in places]
        )
    if isinstance(places, range):
        return range(places.start + 1, places.stop + 1)
    return [place + 1 for place in places]


def write_list(call: Call, name: bytes, places: Sequence[int], highest: int) -> None:
    """* SEARCH 2 84 882, the old form."""
    shown = " ".join(["", *map(str, numbers(call, places))]).encode("ascii")
    modseq = b" (MODSEQ %d)" % highest if highest else b""
    call.write(b"* %b%b%b\r\n" % (name, shown, modseq))


def write_esearch(
    call: Call,
    options: Options,
    places: Sequence[int],
    highest: int,
    where: bytes = b"",
    relevancy: Callable[[int], int] | None = None,
) -> None:
    """``where``: the mailbox, when it may be another than the selected one (RFC 7377). With SAVE alone
    nothing is told (RFC 5182 2.1). ``relevancy``: of a position, for RETURN (RELEVANCY)."""
    if options.save and not (options.min or options.max or options.all or options.count or options.partial):
        return
    parts = [b"* ESEARCH (TAG %b%b)" % (astring(call.tag), where)]
    if call.uid or call.session.uidonly:
        parts.append(b"UID")
    found = numbers(call, places)
    if found and options.min:
        parts.append(b"MIN %d" % found[0])
    if found and options.max:
        parts.append(b"MAX %d" % found[-1])
    if found and options.all:
        parts.append(b"ALL " + numset.render(found))
    if options.count:
        parts.append(b"COUNT %d" % len(found))
    if options.partial is not None:
        window = options.partial.cut(found)
        shown = numset.render(window) if window else b"NIL"
        parts.append(b"PARTIAL (%b %b)" % (options.partial.text, shown))
    if options.relevancy and relevancy is not None and places:
        told = places if options.partial is None else options.partial.cut(places)
        parts.append(b"RELEVANCY (%b)" % " ".join([str(relevancy(place)) for place in told]).encode("ascii"))
    if highest:
        parts.append(b"MODSEQ %d" % highest)
    call.write(b" ".join(parts) + b"\r\n")


def returned(options: Options | None, places: Sequence[int]) -> Sequence[int]:
    """Those that the options name: a window and MIN and MAX; all of them with ALL, COUNT or none of these."""
    if options is None or options.all or options.count:
        return places
    if not (options.min or options.max or options.partial):
        return places
    named = set() if options.partial is None else set(options.partial.cut(places))
    if places and options.min:
        named.add(places[0])
    if places and options.max:
        named.add(places[-1])
    return sorted(named)


def save(call: Call, options: Options, places: Sequence[int]) -> None:
    """RFC 5182 2.4, RFC 9394 3.2."""
    uids = call.view.uids
    call.session.saved = tuple(sorted(uids[place] for place in returned(options, places)))


@contextmanager
def saving(session: Session, options: Options | None) -> Iterator[None]:
    """RFC 5182 2.1: where the command that should save is answered NO, nothing is saved; BAD changes nothing."""
    try:
        yield
    except No:
        if options is not None and options.save:
            session.saved = ()
        raise


def highest_modseq(call: Call, options: Options | None, places: Sequence[int]) -> Generator[None, None, int]:
    """RFC 7162 3.1.5: the highest modseq of the messages found; of those that are named, with options (RFC 4731 3.2)."""
    places = returned(options, places)
    limit = call.session.config.limits.rows
    highest = 0
    for start in range(0, len(places), limit):
        view = call.view
        uids = [view.uids[place] for place in places[start : start + limit]]
        highest = max([highest, *(row.modseq for row in call.store.rows(view.mailbox, uids))])
        yield
    return highest
