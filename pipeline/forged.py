"""Fields that only our own stages may write, found on a message that came from outside (RELIABILITY 3.11).

From outside (profiles mx and submission) they always go. Behind another MTA they may be that MTA's honest results: they
go only when a stage of ours puts its own in their place.
"""

from __future__ import annotations

from pipeline.envelope import Envelope, Profile
from pipeline.verdict import HeaderEdit
from rules.mail.message import Message

OUTSIDE = frozenset({Profile.MX, Profile.SUBMISSION})


def from_outside(envelope: Envelope) -> bool:
    """Nobody of ours has had the message before."""
    return envelope.profile in OUTSIDE


def removals(message: Message, prefix: bytes) -> tuple[HeaderEdit, ...]:
    """One ``remove`` for each field name of the message that begins with ``prefix`` (lower case), in order."""
    names = dict.fromkeys(field.lname for field in message.header.fields if field.lname.startswith(prefix))
    return tuple(HeaderEdit("remove", name.decode("ascii", "replace")) for name in names)
