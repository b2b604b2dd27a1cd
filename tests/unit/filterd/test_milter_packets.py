"""filterd/milter_packets.py: the order of what an MTA is told. More in test_milter.py."""

from __future__ import annotations

from filterd.milter_packets import Writer
from filterd.proto.milter import WANTED
from pipeline import edits
from pipeline.verdict import EnvelopeEdit, HeaderEdit
from pipeline.wire.milter import (
    Actions,
    AddHeader,
    AddRecipient,
    AddRecipientWith,
    ChangeFrom,
    InsertHeader,
    Packet,
)
from pipeline.wire.milter_message import FilteredMessage
from rules.mail.header import scan
from rules.mail.message import Message

MAIL = b"From: a@away.example\r\nSubject: Hi\r\n\r\nbody\r\n"


def placed(place: int, *names: str) -> list[HeaderEdit]:
    return [HeaderEdit("add", one, raw=f"{one}: 1\r\n".encode(), place=place) for one in names]


def test_several_at_one_place_keep_their_order() -> None:
    """At the end as between fields, for the MTA as for what is signed."""
    own = [*placed(3, "X-Y", "X-Z"), *placed(2, "X-A", "X-B"), HeaderEdit("add", "X-Top", "1")]
    writer = Writer(WANTED, True, Message(MAIL))
    writer.header(own)
    packets = writer.packets()
    assert [one.name for one in packets if isinstance(one, AddHeader)] == [b"X-Y", b"X-Z"]
    left = FilteredMessage(scan(MAIL))
    left.apply([one for one in packets if isinstance(one, AddHeader | InsertHeader)])
    told = edits.apply(MAIL, left.edits())
    names = [one.name for one in scan(told).fields]
    assert names == [b"X-Top", b"From", b"X-A", b"X-B", b"Subject", b"X-Y", b"X-Z"]
    assert told == writer.result(None) == edits.apply(MAIL, own)


def told(edit: EnvelopeEdit, actions: Actions = WANTED) -> list[Packet]:
    writer = Writer(actions, True, Message(MAIL))
    writer.envelope(edit)
    return writer.packets()


def test_parameters_that_another_filter_gave_are_handed_on() -> None:
    given = (("X@far.example", "NOTIFY=NEVER"),)
    edit = EnvelopeEdit(("x@far.example", "y@far.example"), (), "new@far.example", given, "RET=HDRS")
    sender = ChangeFrom(b"<new@far.example>", b"RET=HDRS")
    plain = AddRecipient(b"<y@far.example>")
    assert told(edit) == [AddRecipientWith(b"<x@far.example>", b"NOTIFY=NEVER"), plain, sender]
    old = told(edit, WANTED & ~Actions.ADDRCPT_PAR)
    assert old == [AddRecipient(b"<x@far.example>"), plain, sender]
    assert told(EnvelopeEdit(reverse_path="")) == [ChangeFrom(b"<>")]
