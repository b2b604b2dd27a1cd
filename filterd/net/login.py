"""Failed log-ins cost time: a delay that grows with the failures of one network, and one answer for every reason.

``LoginGuard`` stands between the doors and the directory; it implements ``filterd.servers.ports.LoginService`` and is
what ``SmtpService.authenticate`` asks too. Invariants: a log-in that fails is answered no sooner than ``FLOOR`` after it
was asked for, whoever was named; failures of one network delay nobody else; what is remembered is bounded. Failures count wherever
they happen: each process of a server writes its own on the board (``filterd.board``) and adds up those of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from filterd.accounts.directory import Account
from filterd.board import Desk
from filterd.net.limits import network_key
from filterd.proto.sasl import Evidence, Granted
from pipeline.envelope import Client
from pipeline.ports import Clock

FLOOR = 1.0  # seconds from question to refusal, at least
CEILING = 15.0  # the longest delay
GRACE = 2  # failures that cost FLOOR only: people mistype
FORGIVE = 900.0  # seconds without a failure until a network is forgotten
REMEMBERED = 10_000  # networks
# Log-ins of one network that has failed before which may be under way at once; more are refused without being checked.
# A network without failures is not held back: after a restart a whole office comes back at once.
WAITING = 8

Check = Callable[[str, str], Awaitable[Account | None]]
Judge = Callable[[Evidence], Awaitable[Account | None]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last: float = 0.0
    waiting: int = 0
    forgiven: float = 0.0  # when a log-in succeeded


class LoginGuard:
    """``check(login, password)`` asks the directory (in its pool), ``judge`` is told of everything else that a client may
    show. ``sleep`` is asyncio's but in tests. ``failed`` is told the service of each log-in that failed."""

    def __init__(
        self,
        check: Check,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        desk: Desk | None = None,
        judge: Judge | None = None,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        self._failed = failed
        self._judge = judge
        self._desk = desk
        self._check = check
        self._clock = clock
        self._sleep = sleep
        self._records: dict[str, _Record] = {}

    async def authenticate(self, login: str, password: str, client: Client, service: str) -> Account | None:
        """None after the delay for wrong, unknown, disabled and too many at once alike."""
        return self._told(service, await self._guarded(client, lambda: self._check(login, password)))

    async def judge(self, evidence: Evidence, client: Client, service: str) -> Account | None:
        """The same for what was shown by another mechanism; ``Granted`` was judged before."""
        if isinstance(evidence, Granted):
            return evidence.account
        judging = self._judge
        account = await self._guarded(client, lambda: judging(evidence) if judging else _nobody())
        return self._told(service, account)

    def _told(self, service: str, account: Account | None) -> Account | None:
        if account is None and self._failed is not None:
            self._failed(service)
        return account

    async def _guarded(self, client: Client, ask: Callable[[], Awaitable[Account | None]]) -> Account | None:
        key = network_key(client.ip)
        began = self._clock.monotonic()
        record = self._record(key, began)
        failures, waiting = self._elsewhere(key, record, began)
        if record.waiting + waiting >= WAITING and record.failures + failures > GRACE:
            await self._sleep(FLOOR)
            return None
        record.waiting += 1
        self._note(key, record)
        try:
            account = await ask()
            if account is not None:
                record.failures, record.forgiven = 0, self._clock.monotonic()
                return account
            now = self._clock.monotonic()
            failures, _ = self._elsewhere(key, record, now)
            record.failures += 1
            record.last = now
            self._note(key, record)
            await self._sleep(max(0.0, self.delay(record.failures + failures) - (now - began)))
            return None
        finally:
            record.waiting -= 1
            self._note(key, record)

    def _elsewhere(self, key: str, record: _Record, now: float) -> tuple[int, int]:
        """(failures, log-ins under way) of this network in other processes; a log-in that succeeded there forgives ours."""
        if self._desk is None:
            return 0, 0
        others = self._desk.logins(key)
        forgiven = max((one[3] for one in others), default=0.0)
        if forgiven > record.last:
            record.failures = 0
        forgiven = max(forgiven, record.forgiven)
        failures = sum(one[0] for one in others if one[2] > forgiven and now - one[2] <= FORGIVE)
        return failures, sum(one[1] for one in others)

    def _note(self, key: str, record: _Record) -> None:
        if self._desk is not None:
            self._desk.note_logins(key, record.failures, record.waiting, record.last, record.forgiven)

    @staticmethod
    def delay(failures: int) -> float:
        """Seconds that failure number ``failures`` (from 1) takes."""
        doublings = min(max(0, failures - GRACE), 10)
        return min(CEILING, FLOOR * float(1 << doublings))

    def _record(self, key: str, now: float) -> _Record:
        record = self._records.pop(key, None)
        if record is None or (now - record.last > FORGIVE and not record.waiting):
            record = _Record(last=now)
        self._records[key] = record  # moved to the end: the least recent go first
        if len(self._records) > REMEMBERED:
            for old in list(self._records)[: REMEMBERED // 10]:
                if not self._records[old].waiting:
                    del self._records[old]
        return record


async def _nobody() -> Account | None:
    return None
