"""Check one message or one sender as the server would: SPF, DKIM, ARC, DMARC.

Prints the Authentication-Results field and what stands behind it. FILE is a message, "-" for standard input. Exits with 0
whatever the result is; the result is the first word after the method.

Examples:
  filterd check spf --ip 192.0.2.1 --helo mx.shop.example --mail-from orders@shop.example
  filterd check dkim message.eml
  filterd check dmarc --ip 192.0.2.1 --helo mx.shop.example --mail-from orders@shop.example message.eml
  filterd check dkim --nameserver 127.0.0.1:5353 message.eml      asks that name server
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filterd.cli import OK, USAGE, CliError

if TYPE_CHECKING:
    from pipeline.checks import Report
    from pipeline.ports import Resolver
    from pipeline.registry import StageContext

METHODS = {
    "spf": "may this client send for that address? RFC 7208",
    "dkim": "do the signatures hold? RFC 6376",
    "arc": "is the chain of forwarders unbroken? RFC 8617",
    "dmarc": "do SPF and DKIM vouch for From, and what if not? RFC 7489",
}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="method", metavar="METHOD", required=True)
    for name, text in METHODS.items():
        method = actions.add_parser(name, help=text)
        spf = name == "spf"
        method.add_argument("--ip", required=spf, default="", help="the client's address")
        method.add_argument("--helo", default="", help="what it said in EHLO")
        method.add_argument(
            "--mail-from", default="", metavar="ADDRESS", help='the reverse-path; "" or <> = null'
        )
        add_resolver(method)
        method.add_argument(
            "--hostname", default="", metavar="NAME", help="our name in the field (default: this machine's)"
        )
        if not spf:
            method.add_argument("file", metavar="FILE", help='a message, "-" for standard input')


def add_resolver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nameserver",
        default="",
        metavar="HOST:PORT",
        help="ask this one instead of the system's name servers",
    )
    parser.add_argument("--zone", default="", metavar="FILE", help="a zone file instead of the DNS")


def run(arguments: argparse.Namespace) -> int:
    if arguments.method in ("spf", "dmarc") and arguments.ip and not _is_address(arguments.ip):
        raise CliError(f'--ip: "{arguments.ip}" is not an IPv4 or IPv6 address', USAGE)
    data = b"" if arguments.method == "spf" else read_message(arguments.file)
    report = asyncio.run(_check(arguments, data))
    print(report.header)
    for line in report.lines:
        print("  " + line)
    return OK


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


async def _check(arguments: argparse.Namespace, data: bytes) -> Report:
    from pipeline import checks

    who = checks.Sender(arguments.ip, arguments.helo, arguments.mail_from.strip().strip("<>"))
    context = context_of(arguments.hostname, resolver(arguments))
    match arguments.method:
        case "spf":
            return await checks.spf(context, who)
        case "dkim":
            return await checks.dkim(context, data)
        case "arc":
            return await checks.arc(context, data)
        case _:
            return await checks.dmarc(context, data, who)


def context_of(hostname: str, asked: Resolver) -> StageContext:
    from filterd.ports import SystemClock, SystemIds
    from pipeline.registry import StageContext

    return StageContext(SystemClock(), SystemIds(), asked, hostname or socket.gethostname())


def resolver(arguments: argparse.Namespace) -> Resolver:
    """What ``--nameserver`` or ``--zone`` name, else the system's name servers. Raises CliError."""
    from filterd.ports import SystemClock, SystemIds

    if arguments.zone:
        from pipeline.zone import Zone, ZoneError, ZoneResolver

        try:
            return ZoneResolver(Zone.parse(Path(arguments.zone).read_text("utf-8")))
        except (OSError, ZoneError, ValueError) as error:
            raise CliError(f"{arguments.zone}: {error}", USAGE) from None
    from pipeline.adapters.dnspython import DnsResolver

    servers = [server(arguments.nameserver)] if arguments.nameserver else []
    return DnsResolver(SystemClock(), SystemIds(), servers)


def server(text: str) -> tuple[str, int]:
    """HOST:PORT; HOST may be a name. Raises CliError."""
    from pipeline.adapters.dnspython import parse_server

    try:
        return parse_server(text)
    except ValueError:
        pass  # perhaps a name
    host, _, port = text.partition(":")
    try:
        return parse_server(f"{socket.gethostbyname(host)}:{port or 53}")
    except (OSError, ValueError):
        raise CliError(f'"{text}" is not HOST:PORT of a name server', USAGE) from None


def read_message(name: str) -> bytes:
    """Raises CliError."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CliError(f"{name}: {error.strerror}", USAGE) from None
