"""What a submission server puts right in the header of its people's mail (RFC 6409 8).

Specification: RFC 6409 8.1 (Sender), 8.2 (Date), 8.3 (Message-ID), 8.5 (names without a domain), RFC 5322 3.6.2 (several
authors need a Sender). Complete: yes; nothing is converted to another transfer encoding (8.4), that would break signatures.

Invariants: fields are added on top or go as a whole, nothing is rewritten in its place; what a program has signed itself
(DKIM-Signature) only gets what is missing; a field that a filter changed is the filter's. A body, a Subject, anything that was
well formed stays octet for octet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice

from filterd.local_text import ADDRESS_FIELDS, RESENT_FIELDS, Qualifier, is_path
from pipeline.edits import Splice
from pipeline.verdict import HeaderEdit
from rules.mail import address, date
from rules.mail.header import HeaderBlock, HeaderField

_ID = re.compile(rb"<[^<>\s]+>")
MOST_NAMED = 20  # mailboxes of From or Sender that are looked at
Mine = Callable[[str], bool]  # may this account send as the address?


def fixed_up(
    header: HeaderBlock,
    account: str,
    identifier: str,
    now: datetime,
    mine: Mine | None,
    filtered: Sequence[HeaderEdit] = (),
    sender: str = "",
) -> tuple[bytes, list[Splice]]:
    """(lines to add on top, fields to cut). ``account``: its address; ``identifier``: host and left side of a Message-ID;
    ``mine`` None: From may name anybody; ``filtered``: what filters change; ``sender``: the reverse-path."""
    added: list[bytes] = []
    cuts: list[Splice] = []
    free = b"dkim-signature" not in header and not any(edit.place or edit.raw for edit in filtered)
    taken = {edit.name.lower().encode("utf-8", "replace") for edit in filtered}

    def put_right(name: bytes, good: Callable[[bytes], object], line: str) -> None:
        found = header.fields_named(name)
        if not found:
            added.append(line.encode())
        elif len(found) == 1 and free and name not in taken and not good(header.value(found[0])):
            added.append(line.encode())
            cuts.append(Splice(found[0].start, found[0].end))

    put_right(b"from", lambda value: True, f"From: <{account}>\r\n")
    put_right(b"date", date.parse, f"Date: {date.render(now)}\r\n")
    put_right(b"message-id", _ID.search, f"Message-ID: <{identifier}>\r\n")
    if free:
        domain = account.rpartition("@")[2].encode("utf-8", "replace")
        if mine is not None and b"sender" not in taken:
            _name_the_sender(header, account, sender, mine, added, cuts)
        gone = {cut.start for cut in cuts}
        qualifier = Qualifier(domain)
        for one in header.fields:
            if domain and one.lname in ADDRESS_FIELDS and one.lname not in taken and one.start not in gone:
                _complete(header, one, qualifier, added, cuts)
    return b"".join(added), cuts


def _complete(
    header: HeaderBlock, one: HeaderField, qualifier: Qualifier, added: list[bytes], cuts: list[Splice]
) -> None:
    """RFC 6409 8.5: ``From: ann`` names nobody outside."""
    value = header.value(one)
    whole = qualifier.whole(value)
    if whole != value:
        added.append(one.name + b":" + whole + b"\r\n")
        cuts.append(Splice(one.start, one.end))


def _name_the_sender(
    header: HeaderBlock, account: str, sender: str, mine: Mine, added: list[bytes], cuts: list[Splice]
) -> None:
    """RFC 6409 8.1: who it is, where From does not say so; a Sender that is somebody else is not believed."""
    if any(name in header for name in RESENT_FIELDS) or b"from" not in header:
        return
    authors = _named(header, b"from")
    found = header.fields_named(b"sender")
    named = _named(header, b"sender")
    if 0 < len(named) < MOST_NAMED and all(_own(one, account, mine) for one in named):
        return
    if not named and len(authors) == 1 and _own(authors[0], account, mine):
        return
    cuts += [Splice(one.start, one.end) for one in found]
    who = sender if sender and mine(sender) else account  # a filter may have set another reverse-path
    added.append(f"Sender: <{who}>\r\n".encode())


def _named(header: HeaderBlock, name: bytes) -> list[str]:
    """The first few mailboxes of the fields of a name."""
    found = (one.address for value in header.get_all(name) for one in address.parse_list(value).mailboxes)
    return list(islice(found, MOST_NAMED))


def _own(text: str, account: str, mine: Mine) -> bool:
    """A bare name was completed to an address of this domain."""
    whole = text if "@" in text else f"{text}@{account.rpartition('@')[2]}"
    return is_path(whole) and mine(whole)
