"""MTA-STS: the policy by which a domain without DNSSEC asks for verified TLS, fetched by HTTPS and remembered.

Specification: RFC 8461. Complete: yes, except that no proactive refresh runs for domains nobody writes to.

Remembered in ``mtasts.db`` beside the queue (SQLite): ``policy(domain, id, mode, mx, fetched, expires)``, mx separated by
blanks. Invariants: a policy that is remembered and not expired is used when the TXT record is gone or a fetch fails (an
attacker can do both, section 5.1, 10.2); a redirect is not followed (3.3); the certificate must be the system's (or tls_ca)
for ``mta-sts.DOMAIN``; after a failure the next fetch waits FAILED_SECONDS (3.3).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import re
import sqlite3
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from filterd.net import https
from filterd.net.tls import name_fits
from filterd.queue.tlsdemand import TlsResult
from filterd.wal import enter_wal
from pipeline.dns_name import NAME_LIMIT
from pipeline.ports import Clock, DnsStatus, Resolver

POLICY_OCTETS = 65_536  # RFC 8461 3.3
FETCH_SECONDS = 30.0  # all of it; RFC 8461 3.3 suggests a minute
AT_ONCE = 8  # fetches
FAILED_SECONDS = 300.0
MAX_AGE = 31_557_600  # RFC 8461 3.2
REMEMBERED = 2_000  # domains kept in memory
MAX_MX = 100
BUSY_SECONDS = 5.0
WELL_KNOWN = "/.well-known/mta-sts.txt"
HOST = re.compile(r"(\*\.)?(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+\Z")
RECORD_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
DATABASE = "mtasts.db"
SCHEMA = """
create table if not exists policy(domain text primary key, id text not null, mode text not null, mx text not null,
  fetched real not null, expires real not null) without rowid;
"""

log = logging.getLogger("filterd.queue")

Fetch = Callable[
    [str, Sequence[str]], str
]  # (domain, addresses of its mta-sts host) -> text; in a thread; PolicyError


class Mode(Enum):
    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class PolicyError(Exception):
    """There is no usable policy; ``result`` is what a report says."""

    def __init__(self, text: str, result: TlsResult = TlsResult.STS_INVALID) -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """``mx``: patterns in lower case. ``max_age`` in seconds."""

    mode: Mode
    mx: tuple[str, ...]
    max_age: int

    def allows(self, host: str) -> bool:
        """RFC 8461 4.1: ``*.`` stands for exactly one label."""
        return any(name_fits(pattern, host) for pattern in self.mx)

    @property
    def lines(self) -> tuple[str, ...]:
        mx = tuple(f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode.value}", *mx, f"max_age: {self.max_age}")


def parse_record(records: tuple[str, ...]) -> str:
    """The id of the one STSv1 record, "" when there is none or more than one (RFC 8461 3.1)."""
    ours = [text for text in records if re.match(r"v=STSv1[ \t]*(;|\Z)", text)]
    if len(ours) != 1:
        return ""
    found = ""
    for pair in ours[0].split(";")[1:]:
        name, equals, value = pair.strip().partition("=")
        if name.strip() == "id" and equals and not found:
            found = value.strip()
    return found if RECORD_ID.match(found) else ""


def parse_policy(text: str) -> StsPolicy:
    """RFC 8461 3.2; unknown fields are read over, of a repeated one the first counts. Raises PolicyError."""
    fields: dict[str, str] = {}
    mx: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(" \t"), value.strip(" \t")
        if not colon or not name:
            raise PolicyError(f"not a policy: {line[:60]!r}")
        if name == "mx":
            pattern = value.lower().rstrip(".")
            if HOST.match(pattern) is None or len(pattern) > NAME_LIMIT:
                raise PolicyError(f"not a host or pattern: {value[:60]!r}")
            mx.append(pattern)
        else:
            fields.setdefault(name, value)
    if fields.get("version") != "STSv1":
        raise PolicyError("the version is not STSv1")
    mode = next((one for one in Mode if one.value == fields.get("mode")), None)
    if mode is None:
        raise PolicyError(f"there is no mode {fields.get('mode', '')[:20]!r}")
    age = fields.get("max_age", "")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise PolicyError("max_age is missing or no number")
    if not mx and mode is not Mode.NONE:
        raise PolicyError("there is no mx")
    return StsPolicy(mode, tuple(mx[:MAX_MX]), min(int(age), MAX_AGE))


@dataclass(frozen=True, slots=True)
class HttpsFetcher:
    """Fetches in the calling thread. ``now``: monotonic seconds; ``context`` may raise OSError."""

    context: Callable[[], ssl.SSLContext]
    now: Callable[[], float]
    port: int = 443

    def fetch(self, domain: str, addresses: Sequence[str]) -> str:
        """The text of the policy. Raises PolicyError."""
        host = f"mta-sts.{domain}"
        deadline = self.now() + FETCH_SECONDS
        connection = http.client.HTTPConnection(host, self.port, timeout=FETCH_SECONDS)
        try:
            plain = https.connect(addresses, self.port, deadline, self.now)
            with https.ends_at(plain, deadline - self.now()):
                connection.sock = plain
                connection.sock = self.context().wrap_socket(plain, server_hostname=host)
                connection.request("GET", WELL_KNOWN, headers={"Connection": "close", "Accept": "text/plain"})
                text = self._read(connection.getresponse(), host)
            if self.now() >= deadline:  # we hung up: what looks like the end may be none
                raise PolicyError(f"{host}: too slow", TlsResult.STS_FETCH)
            return text
        except ssl.SSLCertVerificationError as error:
            raise PolicyError(
                f"the certificate of {host}: {error.verify_message}", TlsResult.STS_WEBPKI
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = "too slow" if self.now() >= deadline else ""
            raise PolicyError(
                f"{host}: {late or error or type(error).__name__}", TlsResult.STS_FETCH
            ) from error
        finally:
            connection.close()

    def _read(self, answer: http.client.HTTPResponse, host: str) -> str:
        if answer.status != 200:
            raise PolicyError(f"{host} answers {answer.status}", TlsResult.STS_FETCH)
        kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "text/plain":
            raise PolicyError(f"{host} sends {kind[:40] or 'no type'}, not text/plain", TlsResult.STS_FETCH)
        data = answer.read(POLICY_OCTETS + 1)
        if len(data) > POLICY_OCTETS:
            raise PolicyError(f"the policy of {host} is larger than 64 KiB", TlsResult.STS_FETCH)
        if answer.length:
            raise PolicyError(f"the policy of {host} is cut short", TlsResult.STS_FETCH)
        return data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one domain. ``problem``: the last fetch failed so, ``result`` in a report's words."""

    id: str = ""
    policy: StsPolicy | None = None
    expires: float = 0.0
    problem: str = ""
    result: TlsResult = TlsResult.OK
    retry_at: float = 0.0

    def stale(self, now: float) -> bool:
        """Half of its life is over: asked for again while the old one still protects (RFC 8461 3.3)."""
        return self.policy is not None and self.expires - self.policy.max_age / 2 <= now


@dataclass(slots=True)
class StsCache:
    """The policies, one object a process. ``fetch`` and the database run in threads."""

    path: Path
    resolver: Resolver
    clock: Clock
    fetch: Fetch
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _known: dict[str, Known] = field(default_factory=dict)
    _busy: dict[str, asyncio.Task[Known]] = field(default_factory=dict)

    async def policy(self, domain: str) -> Known:
        """The policy that holds now (None: there is none) and what was wrong with getting it. Raises nothing."""
        task = self._busy.get(domain)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find(domain))
            self._busy[domain] = task
            task.add_done_callback(lambda _: self._busy.pop(domain, None))
        return await asyncio.shield(task)

    async def _find(self, domain: str) -> Known:
        now = self.clock.time()
        known = self._known.get(domain)
        if known is None:
            known = await asyncio.to_thread(self._load, domain)
        if known.policy is not None and known.expires <= now:
            known = Known(retry_at=known.retry_at)
        answer = await self.resolver.query(f"_mta-sts.{domain}", "TXT")
        wanted = parse_record(answer.records) if answer.status is DnsStatus.OK else ""
        if wanted and known.retry_at <= now and (wanted != known.id or known.stale(now)):
            known = await self._fetch(domain, wanted, known)
        self._remember(domain, known)
        return known

    async def _fetch(self, domain: str, wanted: str, known: Known) -> Known:
        try:
            async with asyncio.timeout(FETCH_SECONDS + 5):
                addresses = await self._addresses(f"mta-sts.{domain}")
                policy = parse_policy(await self._fetched(domain, addresses))
        except (PolicyError, TimeoutError) as error:
            result = error.result if isinstance(error, PolicyError) else TlsResult.STS_FETCH
            text = str(error) or "no answer in time"
            log.info("the MTA-STS policy of %s: %s", domain, text)
            again = self.clock.time() + FAILED_SECONDS
            return Known(known.id, known.policy, known.expires, text, result, again)
        now = self.clock.time()
        fresh = Known(wanted, policy, now + policy.max_age)
        await asyncio.to_thread(self._save, domain, fresh, now)
        return fresh

    async def _fetched(self, domain: str, addresses: Sequence[str]) -> str:
        async with self._slots:
            return await https.in_thread("mta-sts", lambda: self.fetch(domain, addresses))

    async def _addresses(self, host: str) -> list[str]:
        found = [await self.resolver.query(host, kind) for kind in ("A", "AAAA")]
        addresses = [address for answer in found for address in answer.records]
        if not addresses:
            raise PolicyError(f"{host} has no address", TlsResult.STS_FETCH)
        return addresses

    def _remember(self, domain: str, known: Known) -> None:
        self._known.pop(domain, None)
        self._known[domain] = known
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    # -- in a thread ---------------------------------------------------------------------------
    def _database(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        enter_wal(db, BUSY_SECONDS)
        db.executescript(SCHEMA)
        return db

    def _load(self, domain: str) -> Known:
        try:
            with contextlib.closing(self._database()) as db:
                row = db.execute(
                    "select id, mode, mx, fetched, expires from policy where domain=?", (domain,)
                ).fetchone()
                if row is None:
                    return Known()
                mode, mx = Mode(row[1]), tuple(str(row[2]).split())
                return Known(str(row[0]), StsPolicy(mode, mx, int(row[4] - row[3])), float(row[4]))
        except (sqlite3.Error, OSError, ValueError) as error:
            log.warning("MTA-STS policies cannot be read: %s", error)
            return Known()

    def _save(self, domain: str, known: Known, now: float) -> None:
        policy = known.policy
        if policy is None:
            return
        row = (domain, known.id, policy.mode.value, " ".join(policy.mx), now, known.expires)
        try:
            with contextlib.closing(self._database()) as db:
                db.execute("delete from policy where expires<=?", (now,))
                db.execute("insert or replace into policy values(?,?,?,?,?,?)", row)
        except (sqlite3.Error, OSError) as error:
            log.warning("an MTA-STS policy cannot be remembered: %s", error)
