"""What the filters we call are told of the message before we have written anything."""

from __future__ import annotations

import pytest

from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.registry import StageContext
from pipeline.stages.milters import MiltersSettings, MiltersStage
from pipeline.transaction import Transaction
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message
from tests.house import TestClock, TestIds

NAMES = ("mx.home.example", "auth.home.example", "home.example", "mx2.home.example", "else.example")
FIELDS = "".join(f"Authentication-Results: {name}; spf=pass\r\n" for name in NAMES).encode()


@pytest.mark.parametrize(
    ("client", "hidden"),
    [
        (Client(ip="192.0.2.1"), NAMES[:4]),
        (Client(ip="10.0.0.1", facts_trusted=False), NAMES[:3]),  # a hop of ours: believed
        (Client(ip="192.0.2.1", auth="ann@home.example"), ()),
    ],
)
def test_results_that_strangers_wrote_in_our_names_are_hidden(
    client: Client, hidden: tuple[str, ...]
) -> None:
    context = StageContext(
        TestClock(),
        TestIds(),
        ZoneResolver(Zone()),
        NAMES[0],
        NAMES[1],
        frozenset({NAMES[2]}),
        frozenset({NAMES[3]}),
    )
    message = Message(FIELDS + b"\r\n")
    envelope = Envelope("a@else.example", (Recipient("ann@home.example"),), client, Profile.MX)
    stage = MiltersStage(MiltersSettings(), context)
    starts = stage._forged(Transaction(message, envelope, "7K3QM-2XNPA", 25.0))
    told = [field for field in message.header.fields if field.start not in starts]
    ids = [message.header.raw(field).split(b":")[1].split(b";")[0].strip().decode() for field in told]
    assert ids == [name for name in NAMES if name not in hidden]
