"""What is held, as values, and what the delivery needs of a quarantine.

States of a held copy: ``held`` -> ``asked`` (somebody wants it out; the server does it, once) -> ``released``; or ``dropped``, or
``expired``. Its id is the trace id and the recipient's number in it, ``7K3QM-2XNPA.2``: what `filterd explain` takes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict

HELD, ASKED, RELEASED, DROPPED, EXPIRED = "held", "asked", "released", "dropped", "expired"
ENDS = (RELEASED, DROPPED, EXPIRED)
PLAIN_STAGES = frozenset(
    {"sieve", "loop"}
)  # the account's own script, or its forwarding, held it: not asked again
TEXT_LIMIT = 500  # characters of a subject, a reason


@dataclass(frozen=True, slots=True)
class Facts:
    """The envelope and the verdicts as they were: what the rest of the pipeline looks at when the copy is released."""

    reverse_path: str
    address: str
    client: Client
    profile: Profile
    mail_params: Mapping[str, str] = field(default_factory=dict)
    rcpt_params: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    verdicts: tuple[Verdict, ...] = ()

    @classmethod
    def of(cls, work: Transaction, address: str) -> Facts:
        recipient = next((one for one in work.envelope.recipients if one.address == address), None)
        return cls(
            work.envelope.reverse_path,
            address,
            work.envelope.client,
            work.envelope.profile,
            dict(work.envelope.mail_params),
            dict(recipient.params) if recipient is not None else {},
            recipient.detail if recipient is not None else "",
            tuple(
                Verdict(name, one.disposition, one.result, one.summary, tags=dict(one.tags))
                for name, one in work.verdicts.items()
            ),
        )

    def envelope(self, account: str) -> Envelope:
        recipient = Recipient(self.address, self.rcpt_params, account, self.detail)
        return Envelope(self.reverse_path, (recipient,), self.client, self.profile, self.mail_params)

    def by_stage(self) -> dict[str, Verdict]:
        return {verdict.stage: verdict for verdict in self.verdicts}


@dataclass(frozen=True, slots=True)
class Hold:
    """A copy that is to be held. ``data``: the text with our fields, without those of the final delivery."""

    id: str
    account: str
    stage: str
    reason: str
    data: bytes
    key: bytes
    facts: Facts
    sender: str = ""  # of From
    subject: str = ""
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """How it was held. ``duplicate``: this delivery had been held before, as ``id`` at ``at``; its reply was lost."""

    id: str
    at: float
    expires: float
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """One row, without the text."""

    id: str
    account: str
    address: str
    stage: str
    reason: str
    sender: str
    subject: str
    message_id: str
    reverse_path: str
    size: int
    created: float
    expires: float
    state: str = HELD
    learn: str = ""  # what is to be learned from it when it is released: "ham"
    learned: str = ""  # how that went
    tries: int = 0
    next_at: float = 0.0
    ended: float = 0.0
    note: str = ""  # where it went, or why not yet

    @property
    def trace(self) -> str:
        return self.id.partition(".")[0]

    @property
    def number(self) -> int:
        tail = self.id.partition(".")[2]
        return int(tail) if tail.isdigit() else 1


class Keeper(Protocol):
    """The delivery's side of the quarantine."""

    def takes(self, stage: str) -> bool:
        """Is what this stage holds back kept here? Else it goes to the Junk folder."""
        ...

    async def put(self, hold: Hold) -> Kept:
        """On disk on return. Raises StoreUnavailable."""
        ...

    def acknowledge(self, keys: Sequence[bytes]) -> None:
        """The client went on after our reply."""
        ...


def facts_plain(facts: Facts) -> dict[str, object]:
    """For JSON."""
    client = facts.client
    return {
        "reverse_path": facts.reverse_path,
        "address": facts.address,
        "profile": facts.profile.value,
        "mail_params": dict(facts.mail_params),
        "rcpt_params": dict(facts.rcpt_params),
        "detail": facts.detail,
        "client": {
            "ip": client.ip,
            "port": client.port,
            "helo": client.helo,
            "name": client.name,
            "tls": client.tls,
            "auth": client.auth,
            "esmtp": client.esmtp,
            "facts_trusted": client.facts_trusted,
            "told": client.told,
        },
        "verdicts": [
            [one.stage, int(one.disposition), one.result, one.summary, dict(one.tags)]
            for one in facts.verdicts
        ],
    }


def _texts(value: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def facts_of(plain: Mapping[str, object]) -> Facts:
    """From JSON that ``facts_plain`` made; what is missing takes its default."""
    told = plain.get("client")
    who: dict[str, object] = told if isinstance(told, dict) else {}
    port, ip = who.get("port"), who.get("ip")
    rows = plain.get("verdicts")
    return Facts(
        str(plain.get("reverse_path", "")),
        str(plain.get("address", "")),
        Client(
            ip if isinstance(ip, str) else None,
            port if isinstance(port, int) else 0,
            str(who.get("helo", "")),
            str(who.get("name", "")),
            str(who.get("tls", "")),
            str(who.get("auth", "")),
            bool(who.get("esmtp", True)),
            bool(who.get("facts_trusted", False)),
            str(who.get("told", "")),
        ),
        Profile(str(plain.get("profile", "mx"))),
        _texts(plain.get("mail_params")),
        _texts(plain.get("rcpt_params")),
        str(plain.get("detail", "")),
        tuple(
            Verdict(str(row[0]), Disposition(int(row[1])), str(row[2]), str(row[3]), tags=_texts(row[4]))
            for row in (rows if isinstance(rows, list) else [])
        ),
    )
