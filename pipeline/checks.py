"""One check of one message or identity, as `filterd check spf|dkim|arc|dmarc` prints it.

The stages themselves do the work, so that what this says is what the server would say. Each function gives a Report: the
result's word, the Authentication-Results field, and lines for people. Nothing raises for what the DNS or the message says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline import authres
from pipeline.adapters.pyspf import SpfResult
from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stage import Stage
from pipeline.stages.arc import ArcSettings, ArcStage
from pipeline.stages.dkim import DkimSettings, DkimStage
from pipeline.stages.dmarc import DmarcSettings, DmarcStage
from pipeline.stages.spf import SpfSettings, SpfStage
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Verdict
from rules.mail.message import Message


@dataclass(frozen=True, slots=True)
class Sender:
    """The SMTP facts to check with; ``ip`` "" when they are not known."""

    ip: str = ""
    helo: str = ""
    mail_from: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """``result``: pass, fail, ...; ``header``: the whole field, one line; ``lines``: what stands behind it."""

    result: str
    header: str
    lines: tuple[str, ...] = ()


def crlf(data: bytes) -> bytes:
    """A message read from a file: LF line ends become CRLF when the file has no CRLF at all."""
    return data if b"\r\n" in data else data.replace(b"\n", b"\r\n")


async def spf(context: StageContext, sender: Sender) -> Report:
    """RFC 7208 for one client, HELO name and reverse-path ("" = null)."""
    transaction = _transaction(b"", sender)
    verdict = await SpfStage(SpfSettings(reverse=False), context).check(transaction)
    found = transaction.state.get("spf")
    lines = list(_lines(verdict))
    if isinstance(found, SpfResult) and found.explanation:
        lines.append(f"the domain explains: {found.explanation}")
    return _report(context, verdict, [verdict], lines)


async def dkim(context: StageContext, data: bytes) -> Report:
    """All signatures of one message."""
    verdict = await DkimStage(DkimSettings(), context).check(_transaction(data, Sender()))
    return _report(context, verdict, [verdict], _lines(verdict))


async def arc(context: StageContext, data: bytes) -> Report:
    """The ARC chain of one message."""
    verdict = await ArcStage(ArcSettings(), context).check(_transaction(data, Sender()))
    if (
        not verdict.authres
    ):  # on mail nothing is said of a chain that is not there; whoever asks gets an answer
        verdict = replace(verdict, authres=(AuthResult("arc", verdict.result),))
    return _report(context, verdict, [verdict], _lines(verdict))


async def dmarc(
    context: StageContext, data: bytes, sender: Sender, settings: DmarcSettings | None = None
) -> Report:
    """SPF (when the sender is known), DKIM, ARC and what DMARC makes of them; without an address, of DKIM alone."""
    transaction = _transaction(data, sender)
    stages: list[Stage] = [DkimStage(DkimSettings(), context), ArcStage(ArcSettings(), context)]
    if sender.ip:
        stages.insert(0, SpfStage(SpfSettings(reverse=False), context))
    stages.append(DmarcStage(settings or DmarcSettings(), context))
    verdicts = []
    for stage in stages:
        verdict = transaction.verdicts[stage.name] = await stage.check(transaction)
        verdicts.append(verdict)
    lines = [f"{verdict.stage:<6}{line}" for verdict in verdicts for line in _lines(verdict)]
    if not sender.ip:
        lines.insert(0, "spf   not looked at: the client's address was not given")
    return _report(context, verdicts[-1], verdicts, lines)


def _transaction(data: bytes, sender: Sender) -> Transaction:
    client = Client(ip=sender.ip, helo=sender.helo)
    return Transaction(Message(crlf(data)), Envelope(sender.mail_from, (), client, Profile.MX), "", 0.0)


def _lines(verdict: Verdict) -> list[str]:
    return [
        f"{verdict.result}: {verdict.summary}",
        *(f"  {key}: {text}" for key, text in verdict.evidence.items()),
    ]


def _report(context: StageContext, verdict: Verdict, verdicts: list[Verdict], lines: list[str]) -> Report:
    results = [result for one in verdicts for result in one.authres]
    value = authres.value(context.authserv_id or context.hostname or "localhost", results)
    return Report(verdict.result, f"{authres.NAME}: {value}", tuple(lines))
