"""See what would happen to mail for a domain: its hosts, what is demanded of TLS with them and by whom, how it goes.

Connects to each host as the queue would, says EHLO and STARTTLS, and hangs up; no mail is sent. DOMAIN may be a host name
too. Exits with 0 when the mail would go, 1 when it would come back, 75 when it would wait.

Examples:
  filterd probe smtp example.org
  filterd probe smtp example.org --nameserver 127.0.0.1:5353 --json

See also: filterd help transport
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError
from filterd.cli.check import add_resolver, server
from filterd.cli.check import resolver as named_resolver
from filterd.cli.options import add_config, add_json, config_path, load_config, print_json

if TYPE_CHECKING:
    from filterd.config.schema import Config
    from filterd.queue.link import Link
    from filterd.queue.outbound import Dialer
    from filterd.queue.route import Hop
    from pipeline.ports import Clock, Resolver

MAX_HOPS = 8
GOES, WAITS, RETURNS = "goes", "waits", "comes back"
CODES = {GOES: OK, WAITS: TRY_AGAIN, RETURNS: FOUND}


@dataclass(slots=True)
class Certificate:
    subject: str
    issuer: str
    names: list[str]
    until: str


@dataclass(slots=True)
class HostReport:
    """One address of one host. ``demand``: in the words of the manual; ``why``: who demands it. ``problem`` "" = it is good."""

    host: str
    address: str
    port: int
    demand: str
    why: str
    tlsa: list[str]
    problem: str = ""
    result: str = ""
    tls: str = ""
    verified: str = ""
    certificates: list[Certificate] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    domain: str
    mx: list[str]
    dnssec: bool
    mta_sts: list[str]
    mta_sts_problem: str
    hosts: list[HostReport] = field(default_factory=list)
    outcome: str = WAITS
    text: str = ""
    note: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    smtp = actions.add_parser("smtp", help="the hosts that take a domain's mail")
    smtp.add_argument("domain", metavar="DOMAIN")
    smtp.add_argument(
        "--port", type=int, default=25, metavar="N", help="where the hosts listen (default: 25)"
    )
    smtp.add_argument("--first", action="store_true", help="stop at the first host that would take the mail")
    add_resolver(smtp)
    add_config(smtp)
    add_json(smtp)


def run(arguments: argparse.Namespace) -> int:
    from filterd.config.values import BadValue, host_name

    if not 0 < arguments.port < 65536:
        raise CliError("--port: from 1 to 65535", USAGE)
    try:
        host_name(arguments.domain)
    except BadValue as error:
        raise CliError(str(error), USAGE) from None
    report = asyncio.run(_probe(arguments, _config(arguments)))
    if arguments.json:
        print_json(asdict(report))
    else:
        _print(report)
    return CODES[report.outcome]


def _config(arguments: argparse.Namespace) -> Config:
    """The one named, the usual one, or the defaults: probing needs no server of one's own."""
    from filterd.config.schema import Config

    try:
        config_path(arguments.config)
    except CliError:
        return Config()
    return load_config(arguments)


def _resolver(arguments: argparse.Namespace, config: Config, clock: Clock) -> Resolver:
    from filterd.assembly import dns
    from filterd.ports import SystemIds
    from pipeline.adapters.dnspython import DnsResolver

    if arguments.zone:
        return named_resolver(arguments)
    if arguments.nameserver:
        servers = [server(arguments.nameserver)]
        return DnsResolver(clock, SystemIds(), servers, trust_ad=config.dns.trust_ad)
    return dns(config, clock, SystemIds())


async def _probe(arguments: argparse.Namespace, config: Config) -> Report:
    from filterd.ports import SystemClock
    from filterd.queue.route import NoRoute, route
    from filterd.transport import dialer, tls_policies
    from pipeline.dns_name import normalise

    clock = SystemClock()
    resolver = _resolver(arguments, config, clock)
    domain = normalise(arguments.domain) or arguments.domain
    policies = tls_policies(config, resolver, clock, Path(":memory:"))
    answer = await resolver.query(domain, "MX")
    known = await policies.sts.policy(domain) if policies.sts is not None else None
    lines = list(known.policy.lines) if known is not None and known.policy is not None else []
    problem = known.problem if known is not None else ""
    report = Report(domain, sorted(answer.records), answer.authentic, lines, problem)
    if config.queue.relay is not None:
        report.note = f"the configuration sends by {config.queue.relay}; this is the direct way"
    hops = await route(domain, resolver, None, frozenset(), arguments.port)
    if isinstance(hops, NoRoute):
        report.outcome, report.text = RETURNS if hops.permanent else WAITS, hops.text
        return report
    dial = dialer(config, clock)
    for hop in (await policies.guard(domain, hops))[:MAX_HOPS]:
        report.hosts.append(await _host(dial, hop))
        if arguments.first and not report.hosts[-1].problem:
            break
    _judge(report)
    return report


async def _host(dial: Dialer, hop: Hop) -> HostReport:
    from filterd.queue.dialogue import Refused
    from filterd.queue.link import Broken, Untrusted

    demand = hop.demand
    report = HostReport(
        hop.name,
        hop.address,
        hop.port,
        demand.level.value if demand else "opportunistic",
        demand.why if demand else "",
        [one.full for one in demand.tlsa] if demand else [],
    )
    try:
        link = await dial.dial(hop)
    except Untrusted as error:
        report.problem, report.result = str(error), error.result.value
        return report
    except Broken as error:
        report.problem = str(error)
        return report
    except Refused as error:
        report.problem = f"refused: {error.reply.text}"
        return report
    _describe(report, link)
    await link.close()
    return report


def _describe(report: HostReport, link: Link) -> None:
    from filterd.net.tls import chain_of, describe, names_of

    report.keywords = [f"{name} {value}".strip() for name, value in link.talk.features.items()]
    session = link.wire.tls
    if session is None:
        return
    cipher = session.cipher()
    report.tls = f"{cipher[1]} {cipher[0]}" if cipher else "TLS"
    report.verified = link.verified
    for der in chain_of(session):
        try:
            subject, issuer, until = describe(der)
        except ValueError:
            continue
        day = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M UTC")
        report.certificates.append(Certificate(subject, issuer, names_of(der, common_name=True), day))


def _judge(report: Report) -> None:
    """The queue takes the first host that is good."""
    good = next((one for one in report.hosts if not one.problem), None)
    if good is None:
        report.text = report.hosts[-1].problem if report.hosts else "no host"
        return
    how = f"over {good.tls}" if good.tls else "in clear text"
    who = good.verified or (
        "nobody knows for sure whose host it is" if good.tls else "everybody on the way can read it"
    )
    report.outcome, report.text = GOES, f"to {good.host} {how}; {who}"


def _print(report: Report) -> None:
    secure = "secured by DNSSEC" if report.dnssec else "not secured by DNSSEC"
    print(f"{report.domain}")
    print(f"  MX       {', '.join(report.mx) or 'none'} ({secure})")
    policy = "; ".join(report.mta_sts) or report.mta_sts_problem or "none"
    print(f"  MTA-STS  {policy}")
    for one in report.hosts:
        _print_host(one)
    if report.note:
        print(f"  note: {report.note}")
    print(f"the mail {report.outcome}: {report.text}")


def _print_host(one: HostReport) -> None:
    print(f"  {one.host} [{one.address}]:{one.port}")
    rows: list[tuple[str, Sequence[str]]] = [
        ("demand", [f"{one.demand}{f' ({one.why})' if one.why else ''}"]),
        ("TLSA", one.tlsa),
        ("problem", [one.problem] if one.problem else []),
        ("TLS", [one.tls or "none"] if not one.problem else []),
        ("proof", [one.verified] if one.verified else []),
        ("cert", [f"{c.subject}; from {c.issuer}; until {c.until}" for c in one.certificates]),
        ("names", [", ".join(one.certificates[0].names)] if one.certificates else []),
        ("offers", [", ".join(one.keywords)] if one.keywords else []),
    ]
    for name, texts in rows:
        for text in texts:
            print(f"    {name:<8} {text}")
