"""Which of our own fields came along from outside."""

from __future__ import annotations

from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile
from pipeline.forged import from_outside, removals
from rules.mail.message import Message


def test_every_name_with_the_prefix_goes_once() -> None:
    data = b"X-Spam-Flag: YES\r\nx-SPAM-flag : NO\r\nX-Spam-Whatever: 1\r\nX-Spamming: 2\r\n\r\nX-Spam-Flag: body"
    edits = removals(Message(data), b"x-spam-")
    assert [edit.name for edit in edits] == ["x-spam-flag", "x-spam-whatever"]
    assert apply(data, edits) == b"X-Spamming: 2\r\n\r\nX-Spam-Flag: body"


def test_outside() -> None:
    outside = {profile for profile in Profile if from_outside(Envelope("", (), Client(), profile))}
    assert outside == {Profile.MX, Profile.SUBMISSION}
