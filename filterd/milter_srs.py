"""SRS for mail that another server forwards, and the way back for its bounces (``milter.srs``).

Specification: pipeline/srs.py. A milter sees one envelope for all recipients, and CHGFROM changes the sender for all of them
(SMFIR_CHGFROM): so the sender is rewritten only when no recipient is in a domain of ours, and only where the operator says so.
A bounce (null path) to one of our SRS addresses gets the original sender as its recipient instead; a forged or expired one
stays, and is refused by whoever knows no such person.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from pipeline.envelope import Envelope
from pipeline.ports import Clock
from pipeline.srs import Original, Rewritten, Srs, Unusable
from pipeline.trace import Span
from pipeline.verdict import EnvelopeEdit, Verdict
from rules.mail.address import split


@dataclass(frozen=True, slots=True)
class MilterSrs:
    """``ours``: domains, lower case, whose mail is not sent on."""

    srs: Srs
    ours: Collection[str]
    clock: Clock

    def over(self, envelope: Envelope, verdict: Verdict) -> tuple[Verdict, Span | None]:
        """The verdict with the sender rewritten or the recipients turned back, and what the trace says of it."""
        known = verdict.envelope or EnvelopeEdit()
        if not envelope.reverse_path:
            return self._back(envelope, verdict, known)
        gone = {address.lower() for address in known.remove}
        left = [one.address for one in envelope.recipients if one.address.lower() not in gone]
        left += known.add
        if not left or any(self._local(address) for address in left):
            return verdict, None
        sender = known.reverse_path if known.reverse_path is not None else envelope.reverse_path
        match self.srs.forward(sender):
            case Rewritten(address):
                edit = replace(known, reverse_path=address)
                return replace(verdict, envelope=edit), self._span("rewritten", f"{sender} is now {address}")
            case Unusable(why):
                return verdict, self._span("unchanged", f"{sender} cannot be rewritten: {why}")
            case _:
                return verdict, None

    def _back(self, envelope: Envelope, verdict: Verdict, known: EnvelopeEdit) -> tuple[Verdict, Span | None]:
        found: dict[str, str] = {}
        for recipient in envelope.recipients:
            if self._local(recipient.address) and recipient.address not in known.remove:
                match self.srs.reverse(recipient.address):
                    case Original(address):
                        found[recipient.address] = address
                    case _:
                        continue
        if not found:
            return verdict, None
        edit = replace(known, add=(*known.add, *found.values()), remove=(*known.remove, *found))
        text = ", ".join(f"{one} is for {other}" for one, other in found.items())
        return replace(verdict, envelope=edit), self._span("turned back", text)

    def _local(self, address: str) -> bool:
        domain = split(address)[1].lower()
        return not domain or domain in self.ours or domain == self.srs.domain.lower()

    def _span(self, result: str, text: str) -> Span:
        return Span("srs", self.clock.time(), 0.0, result, text)
