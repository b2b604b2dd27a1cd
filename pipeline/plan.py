"""What is to be done with one message for one recipient, as values: the layer above performs it.

``pipeline/planner.py`` turns the actions a script left behind into steps; prepare, commit and publish are then the
performer's (HOUSE item 10). Specification: RFC 5228 2.10 (implicit keep, repeated actions), RFC 5429 (reject),
RFC 5230 4 (vacation: null reverse-path), RFC 8580 (:fcc), RFC 6009 (DSN parameters of redirect).

Invariants:
* Every recipient has a recorded end: a plan has at least one step that ends the message's way here (``Store``,
  ``Send``, ``Refuse``, ``Bounce`` or ``Drop``). A run that left none means keep, whatever the reason.
* Nothing is refused after it was stored or sent: a reject beside a stored copy is left out, and the plan says so.
* Everything automatic (``Reply``, ``Bounce``) leaves with the null reverse-path, and never answers the null path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.envelope import Recipient
from pipeline.reply import Reply
from rules.actions import ListStore, Place

INBOX = "INBOX"


@dataclass(frozen=True, slots=True)
class Store:
    """Store into ``mailbox`` (Unicode, ``/``; or the one with ``special_use``/``mailbox_id`` when that exists).

    ``data`` None: the message as it is delivered (with the fields we add); else this text instead. When the mailbox
    does not exist and ``create`` is False, or cannot be stored into, the performer stores into ``INBOX`` instead.
    ``quarantine``: held back from the owner's mailboxes because of a late refusal or a message-level verdict.
    """

    mailbox: str
    flags: tuple[str, ...] = ()
    create: bool = False
    data: bytes | None = None
    special_use: str | None = None
    mailbox_id: str | None = None
    quarantine: bool = False
    generated: bool = False  # a copy of a message we made (:fcc), not the received one
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Send on to ``to``. ``reverse_path`` is the received one: SRS is applied by the performer when it really leaves.

    ``kind``: "redirect" (a script), "forward" (an alias). ``notify``/``ret``/``by_*``: DSN and DELIVERBY parameters.
    """

    to: str
    reverse_path: str
    data: bytes | None = None
    notify: str | None = None
    ret: str | None = None
    by_time: int | None = None
    by_mode: str | None = None
    by_trace: bool = False
    kind: str = "redirect"
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The house's "Reply": send a message we made; the reverse-path is always null.

    ``why``: "vacation", "notify", "report".
    """

    to: tuple[str, ...]
    data: bytes
    why: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer this recipient's delivery with ``reply`` (5xx): nothing is stored or sent."""

    reply: Reply
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Bounce:
    """Return a delivery status notification to ``reverse_path`` (never null): a late reject of a verified sender."""

    reverse_path: str
    reply: Reply
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Discarded; ``why`` names the rule for the trace."""

    why: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Execute:
    """vnd.dovecot.pipe: hand the text to an allow-listed program. When it fails the message is stored into ``mailbox``
    instead; with ``attempt`` only when nothing else became of it."""

    program: str
    arguments: tuple[str, ...] = ()
    attempt: bool = False
    mailbox: str = INBOX
    place: Place | None = None
    data: bytes | None = None  # as in Store


Step = Store | Send | Answer | Refuse | Bounce | Drop | Execute


@dataclass(frozen=True, slots=True)
class Plan:
    """All that happens for one recipient. ``outcome`` as in ``RecipientTrace.outcome``; ``decision`` one sentence.

    ``remember``: Sieve state, key -> seconds of life, commits with the delivery (HOUSE item 10). ``lists``: entries to
    add to or take from the account's lists, likewise.
    """

    recipient: Recipient
    steps: tuple[Step, ...]
    outcome: str
    decision: str
    remember: Mapping[bytes, int] = field(default_factory=dict)
    lists: tuple[ListStore, ...] = ()
    notes: tuple[str, ...] = ()  # what was left out or changed, for the trace
    held_by: str = (
        ""  # of a plan that holds the message back: the stage that asked for it, "sieve" for a script
    )

    @property
    def refusal(self) -> Reply | None:
        """The reply of a ``Refuse`` step."""
        for step in self.steps:
            if isinstance(step, Refuse):
                return step.reply
        return None
