"""A DMARC aggregate report: the XML, and the mail that carries it.

Specification: RFC 7489 7.2 and appendix C (schema), 7.2.1.1 (mail: gzip, file name, Subject), 6.2 (rua= with a size limit),
7.1 (asking a foreign destination whether it wants them). Complete: mail only; other URIs are not reported to.
Invariant: what strangers put into names and addresses stands in the XML as text, without characters that XML forbids.
"""

from __future__ import annotations

import gzip
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from urllib.parse import unquote
from xml.sax.saxutils import escape

from filterd.reports.data import Identity, Policy, Row
from pipeline.adapters.publicsuffix import organisational
from pipeline.dmarc import parse
from pipeline.dns_name import normalise
from pipeline.ports import DnsStatus, Resolver

DAY = 86_400
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$&'*+/=?^_`{|}~-]+@[A-Za-z0-9_.-]+")
_SCOPES = {"mailfrom": "mfrom", "helo": "helo"}


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: a name, the address that mail is from, our host name."""

    org_name: str
    email: str
    hostname: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a report goes. ``limit``: the largest message it takes, 0 = any size."""

    address: str
    limit: int = 0


def target(uri: str) -> Target | None:
    """Read one ``mailto:`` URI of rua=; None when it is none that we can use."""
    scheme, _, rest = uri.partition(":")
    text, mark, size = rest.rpartition("!")
    if not mark:
        text, size = rest, ""
    address = unquote(text.partition("?")[0]).strip()
    if scheme.strip().lower() != "mailto" or not _ADDRESS.fullmatch(address):
        return None
    number, unit = (size[:-1], size[-1:].lower()) if size[-1:].lower() in _UNITS else (size, "")
    if size and not (number.isascii() and number.isdigit() and len(number) < 10):
        return None
    return Target(address, int(number) * _UNITS.get(unit, 1) if size else 0)


async def verified(resolver: Resolver, policy_domain: str, wanted: Target) -> Target | None:
    """The target when it is the domain's own or says that it wants these reports (RFC 7489 7.1); None when not."""
    host = normalise(wanted.address.rpartition("@")[2])
    if host is None:
        return None
    if organisational(host) == organisational(policy_domain):
        return wanted
    answer = await resolver.query(f"{policy_domain}._report._dmarc.{host}", "TXT")
    if answer.status is DnsStatus.TEMPORARY:
        raise Unsure(f"{host}: {answer.reason}")
    for text in answer.records:
        record = parse(text, host)
        if record is None:
            continue
        instead = [found for uri in record.rua if (found := target(uri)) is not None]
        same = [one for one in instead if normalise(one.address.rpartition("@")[2]) == host]
        return same[0] if same else wanted
    return None


class Unsure(Exception):
    """The DNS did not say whether a destination wants reports: try again later."""


def report_id(day: str, policy: Policy, number: int) -> str:
    """The same for the same day, so that a report sent twice is known as one."""
    return f"{day.replace('-', '')}.{policy.domain}" + (f".{number}" if number else "")


def xml(
    reporter: Reporter, day: str, policy: Policy, rows: Iterable[tuple[Row, int]], number: int = 0
) -> bytes:
    """The report of one day and one policy."""
    begin = _begin(day)
    out = ['<?xml version="1.0" encoding="UTF-8" ?>', "<feedback>", "  <version>1.0</version>"]
    out += ["  <report_metadata>", _tag("org_name", reporter.org_name, 4), _tag("email", reporter.email, 4)]
    out += [_tag("report_id", report_id(day, policy, number), 4), "    <date_range>"]
    out += [_tag("begin", str(begin), 6), _tag("end", str(begin + DAY - 1), 6), "    </date_range>"]
    out += ["  </report_metadata>", "  <policy_published>", _tag("domain", policy.domain, 4)]
    out += [_tag(name, getattr(policy, name), 4) for name in ("adkim", "aspf", "p", "sp")]
    out += [_tag("pct", str(policy.pct), 4), _tag("fo", policy.fo, 4), "  </policy_published>"]
    for row, count in rows:
        out += _record(row, count)
    out.append("</feedback>\n")
    return "\n".join(out).encode("utf-8")


def _source(ip: str) -> str:
    """The schema knows IPv6 addresses of eight groups only (appendix C, IPAddress): no ``::``."""
    try:
        address = ipaddress.IPv6Address(ip.partition("%")[0])
    except ValueError:
        return ip
    return ":".join(f"{int(group, 16):x}" for group in address.exploded.split(":"))


def _reason(override: str) -> list[str]:
    """RFC 7489 appendix C has no word for t=y; its successor calls it policy_test_mode."""
    if override == "policy_test_mode":
        return [_tag("type", "other", 10), _tag("comment", override, 10)]
    return [_tag("type", override, 10)]


def _record(row: Row, count: int) -> list[str]:
    out = ["  <record>", "    <row>", _tag("source_ip", _source(row.ip), 6), _tag("count", str(count), 6)]
    out += ["      <policy_evaluated>", _tag("disposition", row.disposition, 8)]
    out += [_tag("dkim", row.dkim, 8), _tag("spf", row.spf, 8)]
    if row.override:
        out += ["        <reason>", *_reason(row.override), "        </reason>"]
    out += ["      </policy_evaluated>", "    </row>", "    <identifiers>"]
    out += [_tag("envelope_from", row.envelope_from, 6), _tag("header_from", row.header_from, 6)]
    out += ["    </identifiers>", "    <auth_results>"]
    spf = [one for one in row.identities if one.method == "spf"]
    for one in row.identities:
        if one.method == "dkim":
            out += ["      <dkim>", _tag("domain", one.domain, 8), _tag("selector", one.note, 8)]
            out += [_tag("result", one.result, 8), "      </dkim>"]
    for one in spf or [Identity("spf", row.envelope_from or row.header_from, "none", "mailfrom")]:
        out += ["      <spf>", _tag("domain", one.domain, 8)]
        out += [
            _tag("scope", _SCOPES.get(one.note, "mfrom"), 8),
            _tag("result", one.result, 8),
            "      </spf>",
        ]
    return [*out, "    </auth_results>", "  </record>"]


def _tag(name: str, value: str, indent: int) -> str:
    return f"{' ' * indent}<{name}>{escape(_FORBIDDEN.sub('?', value))}</{name}>"


def _begin(day: str) -> int:
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())


def mail(
    reporter: Reporter, to: str, day: str, policy: Policy, number: int, text: bytes, now: float
) -> bytes:
    """The message that carries a report, CRLF line ends."""
    begin = _begin(day)
    name = f"{reporter.hostname}!{policy.domain}!{begin}!{begin + DAY - 1}"
    name += f"!{number}.xml.gz" if number else ".xml.gz"
    unique = report_id(day, policy, number)
    message = EmailMessage(policy=SMTP)
    message["From"] = f"{reporter.email}"
    message["To"] = to
    message["Subject"] = (
        f"Report Domain: {policy.domain} Submitter: {reporter.hostname} Report-ID: <{unique}>"
    )
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Message-ID"] = f"<{unique}.{int(now)}@{reporter.hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        f"This is a DMARC aggregate report for {policy.domain}, made by {reporter.hostname}.\n"
        f"It covers {day} (UTC). Its domain's DMARC record asks for it (rua=).\n"
    )
    message.add_attachment(
        gzip.compress(text, mtime=begin), maintype="application", subtype="gzip", filename=name
    )
    return message.as_bytes()


def targets(policies: Sequence[Policy]) -> list[str]:
    """The rua= of the day's last policy."""
    return list(policies[-1].rua) if policies else []
