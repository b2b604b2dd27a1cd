"""Who comes back: reports to addresses that we have written into reverse-paths (BATV tags, SRS).

Refused as forged is only what certainly is: a report from the null path, by an outside server, for a person of ours whose mail
leaves by us, without a tag or with a wrong or old one. Somebody must be reached whatever happens: ``postmaster`` and ``abuse``
take everything. A tagged address that comes with a real sender is somebody's answer to the envelope, and passes without its tag.
How many reports an hour go back to one first sender of what we forwarded is limited (for each worker): more shall come later.

Mail that leaves is marked in its queue row (``rows.TAGGED``) and tagged when it is sent, so that the queue, its reports and its
commands know the plain address, and each try has a fresh tag.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from filterd.accounts.directory import Local, Resolution, SrsReturn, Targets
from filterd.accounts.relayed import DUTY
from filterd.servers.ports import SmtpSession
from pipeline.batv import Batv, Tagged
from pipeline.envelope import Profile
from pipeline.ports import Clock
from pipeline.reply import Reply
from rules.mail.address import split

FORGED = Reply(550, "5.7.1", "This is a report about a message that was not sent from here")
TOO_MANY = Reply(450, "4.7.1", "Too many reports for this address, please try again later")
HOUR = 3600.0
REPORTS_AN_HOUR = 100  # back to one first sender
SENDERS_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """An address of RCPT: ``address`` without its tag."""

    address: str
    tagged: Tagged | None = None


@dataclass(slots=True)
class Returns:
    """One a worker. ``batv`` None: off. ``refuse``: reports without a good tag are refused."""

    clock: Clock
    batv: Batv | None = None
    refuse: bool = True
    _times: dict[str, deque[float]] = field(default_factory=dict)

    def asked(self, address: str) -> Asked:
        tagged = self.batv.open(address) if self.batv is not None else None
        return Asked(tagged.address, tagged) if tagged is not None else Asked(address)

    def judged(
        self, reply: Reply, session: SmtpSession, reverse_path: str, asked: Asked, found: Resolution
    ) -> Reply:
        """``reply``, or the refusal of a report that must not come in."""
        if not reply.positive or reverse_path:
            return reply
        if isinstance(found, SrsReturn):
            return TOO_MANY if self._too_many(found.address.lower()) else reply
        return FORGED if self._forged(session, asked, found) else reply

    def _forged(self, session: SmtpSession, asked: Asked, found: Resolution) -> bool:
        if self.batv is None or not self.refuse:
            return False
        if session.profile is not Profile.MX or session.account is not None:
            return False
        if asked.tagged is not None and not asked.tagged.why:
            return False
        if split(asked.address)[0].lower() in DUTY:
            return False
        # an address that only leads elsewhere, or to a store behind us, may send by other ways than ours
        targets = found.targets if isinstance(found, Targets) else (found,)
        return any(isinstance(target, Local) and not target.catch_all for target in targets)

    def _too_many(self, sender: str) -> bool:
        now = self.clock.monotonic()
        times = self._times.get(sender)
        if times is None:
            if len(self._times) >= SENDERS_KNOWN:
                self._times = {who: when for who, when in self._times.items() if when[-1] > now - HOUR}
            if len(self._times) >= SENDERS_KNOWN:
                return True
            times = self._times[sender] = deque(maxlen=REPORTS_AN_HOUR)
        if len(times) == REPORTS_AN_HOUR and times[0] > now - HOUR:
            return True
        times.append(now)
        return False
