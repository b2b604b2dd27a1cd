"""TLS reports to ``https:`` addresses: the request, and what is remembered until it was taken or given up.

Specification: RFC 8460 (3: reports are POSTed to https: URIs; 5.4; 5.5: tried again for up to 24 hours). The certificate must be
good for the host (the RFC lets senders ignore that; what they then send goes to anybody). Redirects are followed with the report
to other https: URIs, MAX_REDIRECTS of them. Host names are looked up by our resolver, and addresses that are not public are not
asked: the TXT record is a stranger's.

``tls.db`` has ``post(day, domain, url, data, began, tries, next_at)``: reports that wait; a row is written in the transaction that
marks the day as done, and goes when the report was taken or given up. A crash between the answer and that sends it again;
receivers know it by its report-id.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import sqlite3
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urljoin, urlsplit

from filterd.net import https
from filterd.reports import days
from filterd.wal import transaction
from pipeline.dns_name import normalise
from pipeline.ports import DnsStatus, Resolver

SECONDS = 30.0  # one request, all of it
LOOKUP_SECONDS = 20.0
MAX_REDIRECTS = 3
URL_LENGTH = 2_000
ANSWER_OCTETS = 65_536  # read, so that the other side is not cut off; not looked at
AT_ONCE = 8
GIVE_UP_SECONDS = 86_400.0  # RFC 8460 5.5
FIRST_PAUSE = 1_800.0  # then twice as long each time
REDIRECTS = (301, 302, 307, 308)
CONTENT_TYPE = "application/tlsrpt+gzip"
POSTS = """
create table if not exists post(day text, domain text, url text, data blob, began real, tries integer, next_at real,
  primary key(day, domain, url)) without rowid;
"""

log = logging.getLogger("filterd.reports")


class PostFailed(Exception):
    """The text says why. ``final``: trying again does not help."""

    def __init__(self, text: str, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


@dataclass(frozen=True, slots=True)
class Url:
    """Where a report goes. ``host`` in A-labels; ``path`` with its query."""

    host: str
    port: int
    path: str

    def __str__(self) -> str:
        port = "" if self.port == 443 else f":{self.port}"
        return f"https://{self.host}{port}{self.path}"


def url_of(text: str) -> Url | None:
    """None for what is no https: URI with a host name, or has a log-in in it."""
    if (
        len(text) > URL_LENGTH
        or not text.isascii()
        or any(ch.isspace() or not ch.isprintable() for ch in text)
    ):
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    name = normalise(host)
    odd = parts.username is not None or parts.password is not None or port == 0
    if parts.scheme.lower() != "https" or not name or "." not in name or odd or name[-1:].isdigit():
        return None
    path = parts.path or "/"
    return Url(name, port or 443, f"{path}?{parts.query}" if parts.query else path)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    location: str = ""


Request = Callable[[Url, Sequence[str], bytes], Answer]  # in a thread; raises PostFailed
Post = Callable[[Url, bytes], Awaitable[str]]  # what came of it, for people; raises PostFailed


@dataclass(frozen=True, slots=True)
class HttpsPoster:
    """Asks in the calling thread. ``now``: monotonic seconds; ``context`` may raise OSError."""

    context: Callable[[], ssl.SSLContext]
    now: Callable[[], float]

    def request(self, url: Url, addresses: Sequence[str], data: bytes) -> Answer:
        """Raises PostFailed."""
        deadline = self.now() + SECONDS
        connection = http.client.HTTPConnection(url.host, url.port, timeout=SECONDS)
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": "filterd", "Connection": "close"}
        try:
            plain = https.connect(addresses, url.port, deadline, self.now)
            with https.ends_at(plain, deadline - self.now()):
                connection.sock = plain
                connection.sock = self.context().wrap_socket(plain, server_hostname=url.host)
                connection.request("POST", url.path, data, headers)
                answer = connection.getresponse()
                answer.read(ANSWER_OCTETS)
            if self.now() >= deadline:  # we hung up: what looks like an answer may be half of one
                raise PostFailed(f"{url.host}: too slow")
            return Answer(answer.status, answer.getheader("Location", ""))
        except ssl.SSLCertVerificationError as error:
            raise PostFailed(f"the certificate of {url.host}: {error.verify_message}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = "too slow" if self.now() >= deadline else ""
            raise PostFailed(f"{url.host}: {late or error or type(error).__name__}") from error
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Poster:
    """``public``: may this address be asked?"""

    resolver: Resolver
    request: Request
    public: Callable[[str], bool] = https.is_public

    async def post(self, url: Url, data: bytes) -> str:
        """What came of it, for people. Raises PostFailed."""
        for _ in range(MAX_REDIRECTS + 1):
            addresses = await self._addresses(url.host)
            answer = await https.in_thread("tls-report", partial(self.request, url, addresses, data))
            if 200 <= answer.status < 300 or answer.status == 303:  # 303: taken, and told of elsewhere
                return f"taken by {url.host} ({answer.status})"
            if answer.status not in REDIRECTS:
                # RFC 9110 15.5: 4xx are the sender's fault; but these pass
                final = 400 <= answer.status < 500 and answer.status not in (401, 403, 404, 408, 425, 429)
                raise PostFailed(f"{url.host} answers {answer.status}", final)
            further = url_of(urljoin(str(url), answer.location)) if answer.location else None
            if further is None:
                raise PostFailed(f"{url.host} sends it on to where no report goes")
            url = further
        raise PostFailed(f"more than {MAX_REDIRECTS} redirects")

    async def _addresses(self, host: str) -> list[str]:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = [await self.resolver.query(host, kind) for kind in ("A", "AAAA")]
        except TimeoutError:
            raise PostFailed(f"{host}: the DNS does not answer") from None
        addresses = [
            address for answer in found for address in answer.records if answer.status is DnsStatus.OK
        ]
        if not addresses:
            raise PostFailed(f"{host} has no address")
        public = [address for address in addresses if self.public(address)]
        if not public:
            raise PostFailed(f"{host} has no public address: {addresses[0]} is not asked")
        return public


# -- what waits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    day: str
    domain: str
    url: str
    data: bytes
    began: float
    tries: int


def mark(
    db: sqlite3.Connection, day: str, domain: str, urls: Sequence[Url], data: bytes, now: float, result: str
) -> None:
    """This day of this domain is done with (``days.mark``), and its report waits for these."""
    with transaction(db):
        db.executemany(
            "insert or ignore into post values(?,?,?,?,?,0,?)",
            [(day, domain, str(url), data, now, now) for url in urls],
        )
        days.mark(db, day, domain, now, result)


def due(db: sqlite3.Connection, now: float, limit: int = AT_ONCE) -> list[Waiting]:
    query = "select day, domain, url, data, began, tries from post where next_at<=? order by next_at, day, domain, url limit ?"
    return [Waiting(*row) for row in db.execute(query, (now, limit))]


def end(db: sqlite3.Connection, one: Waiting, told: str) -> None:
    """It was taken, or given up; what is told of the day says so."""
    with transaction(db):
        db.execute("delete from post where day=? and domain=? and url=?", (one.day, one.domain, one.url))
        db.execute(
            "update sent set result=result || '; ' || ? where day=? and domain=?", (told, one.day, one.domain)
        )


def again(db: sqlite3.Connection, one: Waiting, now: float) -> bool:
    """Wait for another try; False when the time for that is over."""
    last = one.began + GIVE_UP_SECONDS
    if now >= last:
        return False
    pause = FIRST_PAUSE * 2 ** min(one.tries, 10)
    with transaction(db):
        db.execute(
            "update post set tries=tries+1, next_at=? where day=? and domain=? and url=?",
            (min(now + pause, last), one.day, one.domain, one.url),
        )
    return True


async def send_waiting(
    db: sqlite3.Connection, post: Post, now: float, stop: asyncio.Event
) -> list[tuple[Waiting, str]]:
    """Try all that is due, AT_ONCE at a time; what came of each. ``stop``: what has no answer yet waits. Raises sqlite3.Error."""
    out: list[tuple[Waiting, str]] = []
    while batch := await asyncio.to_thread(due, db, now):
        answers = await _all(post, batch, stop)
        for one, told in zip(batch, answers, strict=False):
            if isinstance(told, PostFailed):
                waits = not told.final and await asyncio.to_thread(again, db, one, now)
                text = f"{one.url}: {told}" if waits else f"given up: {one.url}: {told}"
                log.info("TLS report for %s of %s: %s", one.domain, one.day, text)
                if waits:
                    out.append((one, text))
                    continue
            else:
                text = told
            await asyncio.to_thread(end, db, one, text)
            out.append((one, text))
        if stop.is_set():
            break
    return out


async def _all(post: Post, batch: Sequence[Waiting], stop: asyncio.Event) -> list[str | PostFailed]:
    """Of none when we are told to stop before all have answered."""
    work = asyncio.gather(*(_one(post, one) for one in batch))
    stopping = asyncio.create_task(_stopped(stop))
    both: list[asyncio.Future[list[str | PostFailed]]] = [work, stopping]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else []
    finally:
        stopping.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait([work])


async def _stopped(stop: asyncio.Event) -> list[str | PostFailed]:
    await stop.wait()
    return []


async def _one(post: Post, one: Waiting) -> str | PostFailed:
    url = url_of(one.url)
    if url is None:
        return PostFailed("is no address for reports", final=True)
    try:
        return await post(url, one.data)
    except PostFailed as failed:
        return failed
    except Exception:  # a bug: the others are sent all the same
        log.exception("TLS report for %s of %s", one.domain, one.day)
        return PostFailed("an internal error")
