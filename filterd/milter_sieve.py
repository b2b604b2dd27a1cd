"""The administrator's Sieve scripts over mail that another MTA shows us (``stage.sieve.before``).

Specification: RFC 5228, as far as a filter can act: keep, discard, redirect (another recipient instead of this one, or
beside it with ``:copy``), reject, editheader, quarantine. Where mail is stored and who gets an automatic answer is the MTA's
business: a script with fileinto, vacation and the like is refused (``filterd/milter_profile.py``). A script that is edited
while we run and has errors then leaves its last good text in force.

A script runs once for each recipient; discard and redirect concern that recipient alone. A reject refuses the message when
all recipients' runs reject it; else those recipients keep it, since nobody could be told (HOUSE item 5). One run that wants it
held holds it: the other server's quarantine takes whole messages. Header edits count when all runs whose recipients get the
message agree on them. However many recipients there are, none is left out: a rule that a hundred cannot pass nobody passes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from filterd.milter_profile import compile_for_milter
from filterd.sieve_host import AccountHost
from pipeline import edits
from pipeline.envelope import Envelope, Recipient
from pipeline.planner import reject_reply
from pipeline.ports import Clock
from pipeline.reply import Reply
from pipeline.trace import Span
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, EnvelopeEdit, HeaderEdit, Verdict
from rules import interpreter
from rules.actions import Discard, Keep, Quarantine, Redirect, Reject, RunResult, SetScore
from rules.compiler import CompiledScript
from rules.errors import ScriptErrors
from rules.host import ScriptEnvelope
from rules.limits import DEFAULT, Limits
from rules.mail.header import HeaderBlock
from rules.mail.message import Message

log = logging.getLogger("filterd.milter")

# Capabilities by which a script tells recipients apart; without them one run speaks for all.
PERSONAL = frozenset(
    {"envelope", "envelope-deliverby", "envelope-dsn", "environment", "vnd.dovecot.environment"}
)
FIELDS = 2000  # fields of a header whose edits are looked for


@dataclass(frozen=True, slots=True)
class Screening:
    """What the scripts want. ``edits``: all header edits of the message as it came, ours included; None: none more."""

    span: Span
    reject: Reply | None = None
    discard: bool = False
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    edits: tuple[HeaderEdit, ...] | None = None
    hold: str | None = None  # why it is to be held

    def over(self, verdict: Verdict) -> Verdict:
        """The stages' verdict with what the scripts add to it."""
        if self.reject is not None:
            return replace(verdict, stage="sieve", disposition=Disposition.REJECT, reply=self.reject)
        if self.discard:
            return replace(verdict, stage="sieve", disposition=Disposition.DISCARD, summary=self.span.summary)
        if self.hold is not None and verdict.disposition < Disposition.QUARANTINE:
            verdict = replace(
                verdict,
                stage="sieve",
                disposition=Disposition.QUARANTINE,
                summary=self.hold or "a script held it",
            )
        if not (self.add or self.remove):
            return verdict
        known = verdict.envelope or EnvelopeEdit()
        return replace(
            verdict,
            envelope=replace(known, add=(*known.add, *self.add), remove=(*known.remove, *self.remove)),
        )


class Screen:
    """``scripts`` in order; read again when they change. One a worker, asked by several threads: at worst two compile the
    same text at once."""

    def __init__(
        self, scripts: Sequence[Path], hostname: str, clock: Clock, limits: Limits = DEFAULT
    ) -> None:
        self._paths = tuple(scripts)
        self._hostname = hostname
        self._clock = clock
        self._limits = limits
        self._known: dict[Path, tuple[tuple[int, int], CompiledScript | None]] = {}  # with the last good text

    def run(
        self, work: Transaction, own: Sequence[HeaderEdit], cuts: Sequence[edits.Splice]
    ) -> Screening | None:
        """None when there is no script. ``own`` and ``cuts`` are done first: scripts see the stages' fields."""
        scripts = [found for path in self._paths if (found := self._script(path)) is not None]
        if not scripts:
            return None
        started, clock = self._clock.time(), self._clock.monotonic()
        seen = Message(edits.apply(work.message.data, own, cuts, work.message.header))
        wishes = _Wishes()
        one_for_all = not any(script.uses & PERSONAL for script in scripts)
        result: RunResult | None = None
        for recipient in work.envelope.recipients:
            if result is None or not one_for_all:
                envelope = _script_envelope(work.envelope, recipient)
                result = interpreter.run(scripts, seen, envelope, self._host(work), limits=self._limits)
            wishes.note(recipient.address, result)
        changed = wishes.text()
        edited = diff(work.message.header, Message(changed).header) if changed is not None else None
        span = Span("sieve", started, self._clock.monotonic() - clock, wishes.word, wishes.summary(scripts))
        everyone = len(work.envelope.recipients)
        all_reject = bool(wishes.rejects) and len(wishes.rejects) == everyone
        all_gone = len(wishes.gone) == everyone and not wishes.added
        return Screening(
            span,
            reject=reject_reply(wishes.rejects[0], "SMTPUTF8" in work.envelope.mail_params)
            if all_reject
            else None,
            discard=all_gone,
            add=tuple(dict.fromkeys(wishes.added)),
            remove=tuple(wishes.gone),
            edits=edited,
            hold=wishes.holds[0] if wishes.holds else None,
        )

    def _host(self, work: Transaction) -> AccountHost:
        tags, client = work.tags(), work.envelope.client
        score, threshold, virus = tags.get("spam.score"), tags.get("spam.threshold"), tags.get("virus.status")
        items = {
            "host": self._hostname,
            "domain": self._hostname.partition(".")[2],
            "location": "MTA",
            "name": "filterd",
            "phase": "pre",
            "remote-host": client.name,
            "remote-ip": client.ip or "",
            "vnd.filterd.trace": work.trace_id,
        }
        items.update((f"vnd.filterd.{name}", verdict.result) for name, verdict in work.verdicts.items())
        return AccountHost(
            at=self._clock.time(),
            hostname=self._hostname,
            environment_items=items,
            own=(),
            spam=(float(score), float(threshold)) if score and threshold else None,
            virus=int(virus) if virus and virus.isdigit() else None,
        )

    def _script(self, path: Path) -> CompiledScript | None:
        try:
            facts = path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                text = path.read_text("utf-8")
                known = self._known[path] = (stamp, compile_for_milter(text, path.stem, self._limits))
        except (OSError, UnicodeDecodeError) as error:
            log.warning("script %s: %s", path, error)
            known = self._known.get(path)
            return known[1] if known is not None else None
        except ScriptErrors as failure:
            first = failure.errors[0]
            log.error("script %s is not used: line %d: %s", path, first.line, first.message)
            known = self._known[path] = (stamp, known[1] if known is not None else None)
        return known[1]


class _Text:
    """The text that all runs agree on: one is held, however many there are."""

    def __init__(self) -> None:
        self.seen = False
        self.text: bytes | None = None

    def note(self, text: bytes | None) -> None:
        if not self.seen:
            self.seen, self.text = True, text
        elif self.text is not None and text != self.text:
            self.text = None


class _Wishes:
    """What the runs for all recipients come to."""

    def __init__(self) -> None:
        self.rejects: list[str] = []
        self.gone: list[str] = []
        self.added: list[str] = []
        self.holds: list[str] = []
        self.notes: list[str] = []
        self.kept = _Text()
        self.sent = _Text()
        self.word = ""
        self.last = ""

    def note(self, address: str, result: RunResult) -> None:
        if result.error:
            self.word = "error"
            self.notes.append(result.error)
        kept, gone = False, False
        for action in result.actions:
            match action:
                case Keep(message=text):
                    kept = True
                    self.kept.note(text)
                case Redirect(address=target, copy=copy, message=text):
                    self.added.append(target)
                    gone = gone or not copy
                    self.sent.note(text)
                case Discard():
                    gone = True
                case Reject(reason=reason):
                    self.rejects.append(reason)
                    kept = True
                    self.kept.note(None)
                case Quarantine(reason=reason, message=text):
                    self.holds.append(reason)
                    kept = True
                    self.kept.note(text)
                case SetScore():
                    continue  # evidence only
                case _:
                    kept = True
                    self.notes.append(f"{type(action).__name__.lower()} is not possible here: kept")
        if not kept and (gone or not result.actions):
            self.gone.append(address)
        step = next((one for one in reversed(result.trace) if one.result is None), None)
        if step is not None:
            self.last = f"{step.script}:{step.line}  {step.what} {step.value}".rstrip()

    def text(self) -> bytes | None:
        """The edited message, when all runs that let it through edited it alike; what is sent elsewhere counts only where
        nobody keeps it."""
        return (self.kept if self.kept.seen else self.sent).text

    def summary(self, scripts: Sequence[CompiledScript]) -> str:
        words = [self.last or f"{scripts[-1].name}: no rule applied", *dict.fromkeys(self.notes)]
        return "; ".join(words)[:300]


def diff(before: HeaderBlock, after: HeaderBlock) -> tuple[HeaderEdit, ...] | None:
    """The edits that make one header of the other; None when there are too many fields to compare, or odd ones moved."""
    old = [before.raw(field) for field in before.fields]
    new = [after.raw(field) for field in after.fields]
    if len(old) > FIELDS or len(new) > FIELDS:
        return None
    out: list[HeaderEdit] = []
    for word, start, end, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if word == "equal":
            continue
        for place in range(start, end):
            name = before.fields[place].name.decode("ascii", "replace")
            out.append(HeaderEdit("remove", name, place=place + 1))
        for raw in new[first:last]:
            try:
                edits.whole_field(raw)
            except ValueError:
                return None
            name = raw.partition(b":")[0].decode("ascii", "replace")
            out.append(HeaderEdit("add", name, raw=raw, place=start + 1))
    return tuple(out)


def _script_envelope(envelope: Envelope, recipient: Recipient) -> ScriptEnvelope:
    return ScriptEnvelope(
        mail_from=envelope.reverse_path,
        rcpt_to=recipient.address,
        orig_to=recipient.params.get("ORCPT", "").partition(";")[2] or recipient.address,
        auth=envelope.client.auth,
        mail_params=envelope.mail_params,
        rcpt_params=recipient.params,
    )
