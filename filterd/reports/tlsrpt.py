"""Once a day: how TLS went with the hosts of the domains that ask for it, built and put into our queue, or POSTed (``tlspost``).

Specification: RFC 8460 (3 the TXT record, 4.4 the JSON, 5.3 the mail, 5.4 https). Complete: yes.
A day (UTC) is reported when it is over, under keys that derive from day, domain and address, so that doing it again after a
crash sends nothing twice. When the DNS does not answer, the day is tried again at the next run.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import format_datetime

from filterd.queue.tlsdemand import Policy, TlsResult
from filterd.reports import tlspost
from filterd.reports import tlsrpt_data as data
from filterd.reports.aggregate import DAY, Reporter, target
from filterd.reports.daily import TARGETS, Daily, Told
from filterd.reports.tlspost import Post, Url, url_of
from filterd.reports.tlsrpt_data import Row
from pipeline.ports import DnsStatus

log = logging.getLogger("filterd.reports")


def wanted(records: Sequence[str]) -> list[str]:
    """Mail addresses that the one TLSRPTv1 record names (RFC 8460 3); none when there are several records."""
    found = [target(uri) for uri in _rua(records)]
    return list(dict.fromkeys(one.address for one in found if one is not None))[:TARGETS]


def wanted_urls(records: Sequence[str]) -> list[Url]:
    """The https: addresses that the record names; with the mail addresses not more than TARGETS."""
    found = [url_of(uri) for uri in _rua(records)]
    room = TARGETS - len(wanted(records))
    return list(dict.fromkeys(one for one in found if one is not None))[: max(0, room)]


def _rua(records: Sequence[str]) -> list[str]:
    """The URIs of the one TLSRPTv1 record."""
    ours = [text for text in records if text.split(";")[0].strip(" \t") == "v=TLSRPTv1"]
    if len(ours) != 1:
        return []
    for pair in ours[0].split(";")[1:]:
        name, _, value = pair.strip(" \t").partition("=")
        if name.strip(" \t") == "rua":
            return [uri.strip(" \t") for uri in value.split(",")]
    return []


def report_id(day: str, domain: str) -> str:
    """The same for the same day, so that a report sent twice is known as one."""
    return f"{day}.{domain}"


def report(who: Reporter, day: str, domain: str, found: dict[Policy, list[Row]]) -> dict[str, object]:
    """The JSON of RFC 8460 4.4."""
    return {
        "organization-name": who.org_name,
        "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
        "contact-info": who.email,
        "report-id": report_id(day, domain),
        "policies": [_policy(policy, rows) for policy, rows in found.items()],
    }


def _policy(policy: Policy, rows: Sequence[Row]) -> dict[str, object]:
    told: dict[str, object] = {
        "policy-type": policy.kind,
        "policy-domain": policy.base or policy.domain,
    }
    if policy.lines:
        told["policy-string"] = list(policy.lines)
    if policy.mx:
        told["mx-host"] = list(policy.mx)
    failed = [row for row in rows if row.result is not TlsResult.OK]
    good = sum(row.count for row in rows if row.result is TlsResult.OK)
    out: dict[str, object] = {
        "policy": told,
        "summary": {
            "total-successful-session-count": good,
            "total-failure-session-count": sum(row.count for row in failed),
        },
    }
    if failed:
        out["failure-details"] = [_failure(row) for row in failed]
    return out


def _failure(row: Row) -> dict[str, object]:
    out: dict[str, object] = {
        "result-type": row.result.value,
        "receiving-mx-hostname": row.mx,
        "failed-session-count": row.count,
    }
    if row.address:
        out["receiving-ip"] = row.address
    if row.detail:
        out["failure-reason-code"] = row.detail
    return out


def _begin(day: str) -> int:
    """Seconds since the epoch."""
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())


def packed(day: str, told: dict[str, object]) -> bytes:
    """application/tlsrpt+gzip; the same for the same report."""
    return gzip.compress(json.dumps(told, ensure_ascii=False).encode(), mtime=_begin(day))


def mail(who: Reporter, to: str, day: str, domain: str, told: dict[str, object], now: float) -> bytes:
    """The message that carries a report, CRLF line ends (RFC 8460 5.3)."""
    begin = _begin(day)
    unique = report_id(day, domain)
    carried = MIMEApplication(packed(day, told), "tlsrpt+gzip")
    name = f"{who.hostname}!{domain}!{begin}!{begin + DAY - 1}.json.gz"
    carried.add_header("Content-Disposition", "attachment", filename=name)
    message = MIMEMultipart("report")
    message.set_param("report-type", "tlsrpt")
    message["From"] = who.email
    message["To"] = to
    message["Subject"] = f"Report Domain: {domain} Submitter: {who.hostname} Report-ID: <{unique}>"
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Message-ID"] = f"<{unique}.tls.{int(now)}@{who.hostname}>"
    message["TLS-Report-Domain"] = domain
    message["TLS-Report-Submitter"] = who.hostname
    message["Auto-Submitted"] = "auto-generated"
    message.attach(
        MIMEText(
            f"This is a TLS report about mail to {domain}, made by {who.hostname}.\n"
            f"It covers {day} (UTC). The record _smtp._tls.{domain} asks for it.\n",
            "plain",
            "us-ascii",
        )
    )
    message.attach(carried)
    return message.as_bytes(policy=SMTP)


@dataclass(slots=True)
class TlsReporting(Daily):
    """Reports of RFC 8460. ``post`` None: https: addresses get none."""

    kind = "TLS"
    seen = data.SEEN + tlspost.POSTS

    post: Post | None = None

    async def _domain(self, db: sqlite3.Connection, day: str, domain: str) -> Told | None:
        answer = await self.resolver.query(f"_smtp._tls.{domain}", "TXT")
        if answer.status is DnsStatus.TEMPORARY:
            log.info("TLS report for %s of %s waits: %s", domain, day, answer.reason)
            return None
        addresses = wanted(answer.records)
        urls = wanted_urls(answer.records) if self.post is not None else []
        now = self.clock.time()
        text = b""
        if addresses or urls:
            found = await asyncio.to_thread(data.rows, db, day, domain)
            told = report(self.who, day, domain, found)
            text = packed(day, told)
        if addresses:
            await self.spool.enqueue(
                [
                    self._outgoing(mail(self.who, to, day, domain, told, now), to, f"tlsrpt|{day}|{domain}")
                    for to in addresses
                ]
            )
        ways = [f"queued for {', '.join(addresses)}"] if addresses else []
        ways += [f"to be sent to {url}" for url in urls]
        result = "; ".join(ways) or "nobody to report to"
        await asyncio.to_thread(tlspost.mark, db, day, domain, urls, text, now, result)
        if ways:
            log.info("TLS report for %s of %s: %s", domain, day, result)
        return Told(day, domain, result)

    async def _beside(self, db: sqlite3.Connection) -> list[Told]:
        if self.post is None:
            return []
        done = await tlspost.send_waiting(db, self.post, self.clock.time(), self.stop)
        return [Told(one.day, one.domain, text) for one, text in done]
