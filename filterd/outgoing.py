"""What a message looks like when it leaves: privacy, reverse-path, loop marks, signature.

Order (HOUSE items 7 and 8): privacy strips what tells about the sender's machine, never a field that a passing signature
covers on forwarded mail; SRS rewrites the reverse-path of forwarded mail that really leaves; sealing (ARC, RFC 8617, of
what is forwarded) and signing come last.

All of it is plain computing. For a message over LARGE octets it is done ``aside``, in a thread, one piece of work a transaction at
a time: signing 30 MB takes 150 to 450 ms, of which the loop is held for 5 to 20 at a time (copies; the hashes let go of it).
Below, where it is 3 ms at most, a thread gains nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from filterd.deliverykey import DeliveryKeys
from filterd.queue.base import Outgoing
from filterd.queue.needs import wishes
from filterd.queue.rows import FORWARD, HOLD, TAGGED
from pipeline import edits
from pipeline.batv import Batv
from pipeline.envelope import Client
from pipeline.plan import Answer, Bounce, Send
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.srs import Rewritten, Srs, Unusable
from pipeline.stages import privacy
from pipeline.stages.privacy_client import Sender
from pipeline.transaction import Transaction
from rules.mail.message import Message

T = TypeVar("T")
LARGE = 256 * 1024  # octets that are not signed on the loop
# What is smaller but has so many fields, octets of header or lines that may begin a part takes more than a few milliseconds too.
HARD_FIELDS = 500
HARD_OCTETS = 32 * 1024
HARD_LINES = 200
_TURN = "departure-turn"

Sign = Callable[[bytes, str], bytes]  # (message, From domain) -> DKIM-Signature field or b""
Seal = Callable[[Transaction, bytes, str], bytes]  # (work, message, address of ours) -> ARC set or b""
Compose = Callable[
    [Message, str, str, Reply], bytes
]  # the DSN of a late, verified refusal: text, to whom, for whom


async def aside(work: Transaction, octets: int, make: Callable[[], T]) -> T:
    """What ``make`` makes of the message, of so many octets; in a thread when it is large or hard to read. The copies of one
    such message are made one after the other: that bounds the threads, and what the first one signed serves the others."""
    if octets <= LARGE and not _hard(work.message):
        return make()
    turn = work.state.setdefault(_TURN, asyncio.Lock())
    assert isinstance(turn, asyncio.Lock)
    async with turn:
        return await asyncio.to_thread(make)


def _hard(message: Message) -> bool:
    """Small, but made to keep whoever reads it busy."""
    return (
        len(message.header.fields) > HARD_FIELDS
        or message.header.end > HARD_OCTETS
        or message.data.count(b"\n--") > HARD_LINES
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """A submission as it leaves, kept with its transaction."""

    STATE: ClassVar[str] = "departure"

    base: Message
    data: bytes


@dataclass(slots=True)
class Departure:
    """One a worker. ``runner`` holds the outgoing list's message stages; ``srs`` None when it is off.

    ``trusted_authserv``: names of our other servers in Authentication-Results, which the reception believes only from them.
    """

    runner: Runner
    privacy_settings: privacy.PrivacySettings | None
    srs: Srs | None
    our_domains: frozenset[str]
    sign: Sign
    bounce: Compose
    seal: Seal | None = None
    trusted_authserv: frozenset[str] = frozenset()
    batv: Batv | None = None
    open_domains: frozenset[str] = frozenset()  # whose people want no privacy

    def outgoing(
        self,
        work: Transaction,
        base: Message,
        *,
        to: str,
        kind: str,
        key: bytes,
        params: Mapping[str, str],
        passed: str,
    ) -> Outgoing:
        """A submission (``kind`` "submission"), what is passed on as it is ("relay") or a forward by alias. ``passed`` is the
        address of ours it came by."""
        if kind == "relay":
            return self._passed_on(work, base, to, key, params)
        given = reverse_path = work.envelope.reverse_path
        if kind == "submission":
            data = self._submitted(work, base)
        else:
            data = self._clean(work, base.data, passed)
            data = self._sealed(work, f"Delivered-To: {passed}\r\n".encode() + data, passed)
            reverse_path = self._rewritten(reverse_path, to, passed)
        return Outgoing(
            key=key,
            reverse_path=reverse_path,
            recipient=to,
            data=data,
            kind=kind,
            trace=work.trace_id,
            params={
                **_params(work, base, params),
                **self._mark(work, reverse_path, to, ours=reverse_path == passed != given),
            },
            hold_until=float(work.envelope.mail_params.get(HOLD, 0)),
        )

    def _submitted(self, work: Transaction, base: Message) -> bytes:
        """What all recipients of a submission get: made and signed once, and the same octets for the spool."""
        made = work.state.get(_Made.STATE)
        if not isinstance(made, _Made) or made.base is not base:
            data = self._clean(work, base.data)
            made = work.state[_Made.STATE] = _Made(base, self.sign(data, self._from_domain(base)) + data)
        return made.data

    def _passed_on(
        self, work: Transaction, base: Message, to: str, key: bytes, params: Mapping[str, str]
    ) -> Outgoing:
        """To a store behind us, or on its way between two servers of ours: nothing is rewritten, and the next hop is told whom
        it came from."""
        facts = json.dumps(forward_facts(work.envelope.client, work.trace_id))
        return Outgoing(
            key=key,
            reverse_path=work.envelope.reverse_path,
            recipient=to,
            data=base.data,
            kind="relay",
            trace=work.trace_id,
            params={
                **_params(work, base, params),
                **self._mark(work, work.envelope.reverse_path, to, ours=True),
                FORWARD: facts,
            },
        )

    def redirected(self, work: Transaction, base: Message, step: Send, key: bytes, account: str) -> Outgoing:
        """A script's redirect."""
        body = step.data if step.data is not None else base.data
        data = self._clean(work, body, account)
        marks = f"X-Sieve-Redirected-From: {account}\r\nDelivered-To: {account}\r\n"
        params: dict[str, str] = {}
        if step.notify:
            params["NOTIFY"] = step.notify
        if step.ret:
            params["RET"] = step.ret
        if step.by_time is not None:
            params["BY"] = f"{step.by_time};{step.by_mode or 'N'}{'T' if step.by_trace else ''}"
        reverse_path = self._rewritten(step.reverse_path, step.to, account)
        ours = reverse_path == account != step.reverse_path
        # RFC 6009 6.1, 7.1: who asks for reports gets them, not the first sender
        if params and step.reverse_path:
            reverse_path, ours = account, True
        return Outgoing(
            key=key,
            reverse_path=reverse_path,
            recipient=step.to,
            data=self._sealed(work, marks.encode() + data, account),
            kind="redirect",
            trace=work.trace_id,
            params={
                **_params(work, base, params),
                **self._mark(work, reverse_path, step.to, ours),
            },
        )

    def generated(
        self, work: Transaction, base: Message, step: Answer | Bounce, keys: DeliveryKeys, account: str
    ) -> list[Outgoing]:
        """Mail of our own making: always with the null reverse-path."""
        if isinstance(step, Bounce):
            to: tuple[str, ...] = (step.reverse_path,)
            data, why = self.bounce(base, step.reverse_path, account, step.reply), "dsn"
        else:
            to, data, why = step.to, step.data, step.why
        data = self.sign(data, account.rpartition("@")[2]) + data
        return [
            Outgoing(
                key=keys.key(account, f"{why}:{address}"),
                reverse_path="",
                recipient=address,
                data=data,
                kind=why,
                trace=work.trace_id,
            )
            for address in to
        ]

    def plain(self, address: str) -> str:
        """An address as people know it: a tag of ours (BATV) taken off."""
        tagged = self.batv.open(address) if self.batv is not None else None
        return tagged.address if tagged is not None else address

    def _mark(self, work: Transaction, reverse_path: str, to: str, ours: bool = False) -> dict[str, str]:
        """What tells the queue to tag the reverse-path. A stranger who claims to be one of us gets none: a tag says that the
        message is ours. ``ours``: known without a log-in, or we put it there."""
        if self.batv is None or not (ours or work.envelope.client.auth):
            return {}
        leaves = to.rpartition("@")[2].lower() not in self.our_domains
        return {TAGGED: "1"} if leaves and reverse_path.rpartition("@")[2].lower() in self.our_domains else {}

    def _sealed(self, work: Transaction, data: bytes, passed: str) -> bytes:
        return self.seal(work, data, passed) + data if self.seal is not None else data

    def loops(self, base: Message, address: str) -> bool:
        """Did this message pass ``address`` of ours before?"""
        return _marked(base, b"delivered-to", address)

    def redirected_before(self, base: Message, account: str) -> bool:
        """Did a script of ``account`` send this message on before?"""
        return _marked(base, b"x-sieve-redirected-from", account)

    def private(self, address: str) -> bool:
        """Is what tells of their machines taken out of what the people of this domain of ours send, and have sent on?"""
        return address.rpartition("@")[2].lower() not in self.open_domains

    def _clean(self, work: Transaction, data: bytes, passed: str = "") -> bytes:
        """``passed``: the address of ours by which a forwarded message came; "" = a submission."""
        if self.privacy_settings is None or not self.private(passed or work.envelope.client.auth):
            return data
        signed = signed_fields(work) if passed else frozenset()
        submitted = not passed and bool(work.envelope.client.auth)
        ours = work.trace_id.encode("ascii") if submitted else b""
        sender = Sender.of(work.envelope.client, self.our_domains) if submitted else None
        stripped = privacy.strip(Message(data), self.privacy_settings, signed, submitted=ours, sender=sender)
        return edits.splice(data, stripped.splices)

    def _rewritten(self, reverse_path: str, to: str, fallback: str) -> str:
        """SRS, when a foreign sender's mail goes on to a foreign host; ``<>`` stays ``<>``. A sender that cannot be rewritten
        gives way to ``fallback``, the address of ours whose rule sends the message on."""
        if self.srs is None or not reverse_path:
            return reverse_path
        if to.rpartition("@")[2].lower() in self.our_domains:
            return reverse_path
        if reverse_path.rpartition("@")[2].lower() in self.our_domains:
            return reverse_path
        result = self.srs.forward(reverse_path)
        if isinstance(result, Rewritten):
            return result.address
        return fallback if isinstance(result, Unusable) else reverse_path

    @staticmethod
    def _from_domain(base: Message) -> str:
        addresses = base.from_addresses()
        return addresses[0].domain.lower() if addresses else ""


def _marked(base: Message, name: bytes, address: str) -> bool:
    mark = address.lower().encode("utf-8", "surrogateescape")
    return any(value.strip().lower() == mark for value in base.header.get_all(name))


def forward_facts(client: Client, ident: str) -> dict[str, str]:
    """What XFORWARD tells a next hop of ours about the first client ("" = unavailable). A hop of ours is not that client."""
    local = client.told.startswith("XFORWARD") and not client.facts_trusted  # a client of the server in front
    ip = client.ip or "" if client.facts_trusted or local else ""
    return {
        "NAME": client.name if ip else "",
        "ADDR": f"IPV6:{ip}" if ":" in ip else ip,
        "PORT": str(client.port) if ip and client.port else "",
        "PROTO": "ESMTP" if client.esmtp else "SMTP",
        "HELO": client.helo if ip else "",
        "IDENT": ident,
        "SOURCE": "LOCAL" if local and ip else "REMOTE",
    }


def _params(work: Transaction, base: Message, rcpt_params: Mapping[str, str]) -> dict[str, str]:
    """What goes on to the next hop, and how the message wants to come there."""
    params = relayed(work.envelope.mail_params, rcpt_params)
    return {**params, **wishes(base.header, params)}


def relayed(mail_params: Mapping[str, str], rcpt_params: Mapping[str, str]) -> dict[str, str]:
    """The ESMTP parameters that go on to the next hop (RFC 3461 5.2, RFC 6152, RFC 6531)."""
    out = {
        name: mail_params[name]
        for name in ("RET", "ENVID", "BODY", "SMTPUTF8", "REQUIRETLS")
        if name in mail_params
    }
    out.update({name: rcpt_params[name] for name in ("NOTIFY", "ORCPT", "BY", "RET") if name in rcpt_params})
    return out


def signed_fields(work: Transaction) -> frozenset[bytes]:
    """Lower-case names of the fields that a passing DKIM signature or a passing ARC chain covers."""
    found: set[bytes] = set()
    for name in ("dkim", "arc"):
        verdict = work.verdicts.get(name)
        if verdict is not None:
            found.update(verdict.tags.get(f"{name}.signed", "").lower().encode().split())
    return frozenset(found)
