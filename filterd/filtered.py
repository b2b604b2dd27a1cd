"""What filters (milters) changed about the envelope: recipients taken out, put in or refused, another reverse-path.

A refusal of one recipient comes after RCPT was answered. By LMTP it is that recipient's reply. By SMTP there is one reply
for all: a local recipient's copy is quarantined (HOUSE item 5), and when the refused recipient is elsewhere the whole message
is refused, so that its sender is told and nothing is lost. The same holds for mail of our own people.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from filterd.accounts.directory import Foreign, Forward, Local, Resolution, Targets, ToOutlet, TryLater
from filterd.delivery import Destination
from filterd.proto.smtp_parse import MAIL_PARAMETERS, RCPT_PARAMETERS, SyntaxFault
from pipeline.envelope import Envelope, Profile, Recipient
from pipeline.reply import Reply
from pipeline.verdict import Verdict

Resolve = Callable[[str], Awaitable[Resolution]]
RCPT = RCPT_PARAMETERS
MAIL = {name: MAIL_PARAMETERS[name] for name in ("RET", "ENVID")}
LATER = Reply(451, "4.3.0", "Temporary failure, please try again later")

log = logging.getLogger("filterd.reception")


@dataclass(frozen=True, slots=True)
class Filtered:
    """``destinations`` go with ``envelope.recipients``. ``origin``: for each recipient the client named, its place there, or
    the reply it gets. ``held``: places of recipients whose copy is quarantined. ``refusal``: of the whole message."""

    envelope: Envelope
    destinations: list[tuple[Destination, ...]]
    origin: list[int | Reply]
    held: frozenset[int] = frozenset()
    refusal: Reply | None = None
    notes: tuple[str, ...] = ()


async def readdress(
    envelope: Envelope, destinations: Sequence[tuple[Destination, ...]], verdict: Verdict, resolve: Resolve
) -> Filtered:
    """``resolve`` is asked for each address that a filter put in. One that cannot be looked up now refuses the whole message for
    now: it may be the only recipient left."""
    edit = verdict.envelope
    taken = {address.lower() for address in edit.remove} if edit is not None else set()
    said = (
        {address.lower(): parameters(text, RCPT) for address, text in edit.rcpt_params}
        if edit is not None
        else {}
    )
    refused = {address.lower(): reply for address, reply in verdict.recipients.items()}
    recipients: list[Recipient] = []
    where: list[tuple[Destination, ...]] = []
    origin: list[int | Reply] = []
    held: set[int] = set()
    notes: list[str] = []
    refusal: Reply | None = None
    nowhere: Reply | None = None
    for recipient, leads in zip(envelope.recipients, destinations, strict=True):
        name = recipient.address.lower()
        reply = refused.get(name)
        if name in taken:
            notes.append(f"{recipient.address} taken out by a filter")
            origin.append(Reply(250, "2.1.5", "Ok"))
            continue
        if reply is not None and envelope.profile is Profile.LMTP:
            origin.append(reply)
            notes.append(f"{recipient.address} refused by a filter")
            continue
        if reply is not None:
            if envelope.profile is Profile.MX and all(one.local is not None for one in leads):
                held.add(len(recipients))
                notes.append(f"{recipient.address} refused by a filter: quarantined")
            else:
                refusal = refusal or reply
        origin.append(len(recipients))
        if name in said:
            recipient = replace(recipient, params={**recipient.params, **said[name]})
        recipients.append(recipient)
        where.append(leads)
    for address in edit.add if edit is not None else ():
        if any(one.address.lower() == address.lower() for one in recipients):
            continue
        found = await resolve(address)
        if isinstance(found, TryLater):
            refusal = refusal or LATER
        elif leads := _leads(found, address):
            account = next((one.local.account.id for one in leads if one.local is not None), "")
            recipients.append(Recipient(address, said.get(address.lower(), {}), account))
            where.append(leads)
            notes.append(f"{address} put in by a filter")
        else:
            log.warning("a filter put in a recipient that leads nowhere: %s", address)
            notes.append(f"{address}, put in by a filter, leads nowhere")
            nowhere = Reply(550, "5.1.1", "No such recipient here")
    if not recipients:  # nobody would have it, and nobody would be told
        refusal = refusal or nowhere
    changed = replace(envelope, recipients=tuple(recipients))
    if edit is not None and edit.reverse_path is not None:
        notes.append(f"reverse-path <{edit.reverse_path}> set by a filter")
        of_mail = {**changed.mail_params, **parameters(edit.mail_params, MAIL)}
        changed = replace(changed, reverse_path=edit.reverse_path, mail_params=of_mail)
    return Filtered(changed, where, origin, frozenset(held), refusal, tuple(notes))


def parameters(text: str, known: Mapping[str, Callable[[str], None]]) -> dict[str, str]:
    """ESMTP parameters that a filter gave, as far as they are ``known`` and right (Postfix takes the same ones)."""
    out = {}
    for word in text.split():
        name, _, value = word.partition("=")
        try:
            known[name.upper()](value)
        except (KeyError, SyntaxFault):
            log.warning("a filter gave a parameter that is not taken: %.100r", word)
        else:
            out[name.upper()] = value
    return out


def _leads(found: Resolution, address: str) -> tuple[Destination, ...]:
    """A foreign address is forwarded to; (): nowhere."""
    match found:
        case Local() | Forward() | ToOutlet():
            return (Destination.of(found, address),)
        case Targets(targets=targets):
            return tuple(Destination.of(target, address, group=True) for target in targets)
        case Foreign(address=foreign):
            return (Destination(address=address, forward=foreign),)
    return ()
