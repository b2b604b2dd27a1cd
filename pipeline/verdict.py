"""What a stage says about a message: a frozen value, never a deed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pipeline.reply import Reply


class Disposition(IntEnum):
    """Ordered by strength: the strongest of several wins (``combine``).

    ACCEPT is weaker than the refusals on purpose: one stage's white-listing never silences another's REJECT; a stage
    that wants later stages skipped says so by tags.
    """

    CONTINUE = 0
    ACCEPT = 1
    QUARANTINE = 2
    DISCARD = 3
    TEMPFAIL = 4
    REJECT = 5


@dataclass(frozen=True, slots=True)
class HeaderEdit:
    """One edit of whole header lines: ``add`` prepends ``name: value``; ``remove`` drops fields by name, and when
    ``match`` is given only those whose unfolded value contains it (bytes, case-insensitive).

    A milter says more: ``raw`` is the whole field with its CRLF, written as it is instead of name and value; ``place``
    counts the fields of the message as it came, from 1. ``remove`` with a place drops that field alone, ``add`` with one
    puts the field before it (behind the last one: at the end of the header).
    """

    kind: str  # "add" | "remove"
    name: str
    value: str = ""
    match: str = ""
    raw: bytes = b""
    place: int = 0


@dataclass(frozen=True, slots=True)
class EnvelopeEdit:
    """What a milter changed about the envelope: recipients without brackets, ``reverse_path`` None when it stays.

    ESMTP parameters as the filter wrote them, blank separated: ``rcpt_params`` by address, ``mail_params`` of the new sender.
    """

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    reverse_path: str | None = None
    rcpt_params: tuple[tuple[str, str], ...] = ()
    mail_params: str = ""


@dataclass(frozen=True, slots=True)
class AuthResult:
    """One method's result for Authentication-Results (RFC 8601): ``properties`` like ("smtp.mailfrom", "a@b")."""

    method: str  # "spf", "dkim", "dmarc", "arc"
    result: str  # "pass", "fail", ...
    reason: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A stage's answer. ``evidence`` is for people (`filterd explain`), keys short, values text.

    ``summary`` is the one line that explain prints after the stage's name ("pass  example.org allows 192.0.2.1").
    ``tags`` are machine-readable facts for later stages and for Sieve ("spam.score": "6.2").
    """

    stage: str
    disposition: Disposition = Disposition.CONTINUE
    result: str = ""  # "pass", "clean", "skipped", ...
    summary: str = ""
    reply: Reply | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    authres: tuple[AuthResult, ...] = ()
    edits: tuple[HeaderEdit, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    recipients: Mapping[str, Reply] = field(default_factory=dict)  # refusals that concern one recipient only
    body: bytes | None = (
        None  # a new body (a milter's): the message becomes another generation (HOUSE item 7)
    )
    envelope: EnvelopeEdit | None = None


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The decision of several stages: the strongest disposition, with the reply of the first stage that has it.

    Associative, with ``Verdict("")`` as identity: combining in groups equals combining at once. ``evidence`` stays
    with the stages (empty here); authres, edits concatenate in order; tags and recipients: the first entry of a key wins,
    and so do the first new body and the first changed envelope.
    """
    stage, reply, result, summary = "", None, "", ""
    disposition = Disposition.CONTINUE
    authres: list[AuthResult] = []
    edits: list[HeaderEdit] = []
    tags: dict[str, str] = {}
    recipients: dict[str, Reply] = {}
    body: bytes | None = None
    envelope: EnvelopeEdit | None = None
    for verdict in verdicts:
        if verdict.disposition > disposition:
            disposition = verdict.disposition
            stage, reply, result, summary = verdict.stage, verdict.reply, verdict.result, verdict.summary
        authres.extend(verdict.authres)
        edits.extend(verdict.edits)
        for key, value in verdict.tags.items():
            tags.setdefault(key, value)
        for address, refusal in verdict.recipients.items():
            recipients.setdefault(address, refusal)
        body = verdict.body if body is None else body
        envelope = envelope or verdict.envelope
    return Verdict(
        stage=stage,
        disposition=disposition,
        result=result,
        summary=summary,
        reply=reply,
        authres=tuple(authres),
        edits=tuple(edits),
        tags=tags,
        recipients=recipients,
        body=body,
        envelope=envelope,
    )
