"""DMARC reports: those that others send us, and those that we send.

`reports` looks for DMARC aggregate reports and SMTP TLS reports in the mail of an account (default: of all accounts), or in
files, and shows what they say. Ours go out once a day when
`stage.dmarc.reports.send` is on; `send` does it now, `sent` shows what went out.

Examples:
  filterd dmarc reports                            the reports in our mailboxes
  filterd dmarc reports --days 7 --lines           with each sending host
  filterd dmarc reports report.xml.gz mail.eml
  filterd dmarc send                               what is due, for example from cron
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError
from filterd.cli.options import add_config, add_json, load_config, print_json

if TYPE_CHECKING:
    from filterd.config.schema import Config
    from filterd.reports.daily import Told
    from filterd.reports.incoming import DmarcReport, Report, TlsReport
    from filterd.store.base import AccountStore

LOOKED_AT = 20_000  # messages of one mailbox, the newest


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    reports = actions.add_parser("reports", help="reports that others sent us")
    reports.add_argument(
        "files", nargs="*", metavar="FILE", help="messages or reports; default: our mailboxes"
    )
    reports.add_argument("--account", default="", help="look in this account's mail only")
    reports.add_argument("--domain", default="", help="only reports about this domain")
    reports.add_argument("--days", type=int, default=0, help="only reports of the last days")
    reports.add_argument("--lines", action="store_true", help="each sending host too")
    send = actions.add_parser("send", help="queue the reports that are due now")
    sent = actions.add_parser("sent", help="what we reported")
    for one in (reports, send, sent):
        add_config(one)
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    match arguments.action:
        case "reports":
            return reports(arguments)
        case "send":
            return send(arguments)
        case _:
            return sent(arguments)


# -- incoming ------------------------------------------------------------------------------------------------------------


def reports(arguments: argparse.Namespace) -> int:
    if arguments.files:
        found = list(_of_files(arguments.files))
    else:
        found = list(_of_mail(load_config(arguments), arguments.account))
    found = [(where, one) for where, one in found if _wanted(one, arguments)]
    found.sort(key=lambda pair: _begin(pair[1]))
    if arguments.json:
        print_json([{"where": where, "kind": one.kind, **asdict(one)} for where, one in found])
        return OK
    if not found:
        print("No reports found.")
        return FOUND
    for where, one in found:
        print("\n".join(describe(one, arguments.lines)) + f"\n  in {where}")
    print(_sum([one for _, one in found]))
    return OK


def _of_files(names: list[str]) -> Iterator[tuple[str, Report]]:
    from filterd.cli.check import read_message
    from filterd.reports.incoming import recognise

    for name in names:
        found = recognise(read_message(name))
        if found is None:
            raise CliError(f"{name}: neither a DMARC nor a TLS report is in there", FOUND)
        yield name, found


def _of_mail(config: Config, account: str) -> Iterator[tuple[str, Report]]:
    from filterd.cli.storage import open_store
    from filterd.store.base import StoreError

    store = open_store(config)
    seen: set[tuple[str, str]] = set()
    try:
        for name in [account.lower()] if account else _accounts(config):
            try:
                for where, one in _of_account(store.account(name)):
                    mark = (one.org, one.report_id)
                    if mark not in seen:
                        seen.add(mark)
                        yield f"{name}/{where}", one
            except StoreError as error:
                raise CliError(f"{name}: {error}", TRY_AGAIN) from None
    finally:
        store.close()


def _of_account(opened: AccountStore) -> Iterator[tuple[str, Report]]:
    from filterd.reports.incoming import likely, recognise

    for info in opened.mailboxes():
        uids = opened.snapshot(info.name).uids[-LOOKED_AT:]
        for at in range(0, len(uids), 500):
            for row in opened.rows(info.name, uids[at : at + 500], cold=True):
                if not likely(row.bodystructure):
                    continue
                data = opened.read(info.name, row.uid)
                found = recognise(data) if data is not None else None
                if found is not None:
                    yield f"{info.name}/{row.uid}", found


def _accounts(config: Config) -> list[str]:
    """All accounts of this server."""
    from filterd.accounts.database import AccountDatabase
    from filterd.accounts.places import database_path
    from filterd.ports import SystemClock

    database = AccountDatabase(database_path(config), SystemClock())
    try:
        return list(database.records())
    finally:
        database.close()


def _wanted(one: Report, arguments: argparse.Namespace) -> bool:
    from filterd.reports.incoming import DmarcReport

    domains = [one.domain] if isinstance(one, DmarcReport) else [policy.domain for policy in one.policies]
    if arguments.domain and arguments.domain.lower() not in domains:
        return False
    return not arguments.days or _begin(one) >= time.time() - arguments.days * 86_400


def _begin(one: Report) -> float:
    from filterd.reports.incoming import DmarcReport

    if isinstance(one, DmarcReport):
        return float(one.begin)
    try:
        return datetime.fromisoformat(one.begin).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def describe(one: Report, lines: bool) -> list[str]:
    """A report for people."""
    from filterd.reports.incoming import DmarcReport

    return _describe_dmarc(one, lines) if isinstance(one, DmarcReport) else _describe_tls(one)


def _describe_dmarc(one: DmarcReport, lines: bool) -> list[str]:
    day = datetime.fromtimestamp(one.begin, UTC).strftime("%Y-%m-%d")
    out = [
        f"{day}  DMARC  {_clean(one.domain)} (p={_clean(one.policy)}) seen by {_clean(one.org)}: "
        f"{one.messages} messages, {one.failed} without a pass"
    ]
    for line in one.lines if lines else [x for x in one.lines if x.dkim != "pass" and x.spf != "pass"]:
        out.append(
            f"  {line.count:>6}  {_clean(line.ip):<39}  dkim {_clean(line.dkim)}, spf {_clean(line.spf)}: "
            f"{_clean(line.disposition)}  {_clean(', '.join(line.results))}"
        )
    return out


def _describe_tls(one: TlsReport) -> list[str]:
    out = []
    for policy in one.policies:
        out.append(
            f"{_clean(one.begin[:10])}  TLS    {_clean(policy.domain)} ({_clean(policy.kind)}) seen by {_clean(one.org)}: "
            f"{policy.succeeded} sessions with TLS, {policy.failed} failed"
        )
        out += [f"  {_clean(failure)}" for failure in policy.failures]
    return out or [f"{_clean(one.begin[:10])}  TLS    an empty report by {_clean(one.org)}"]


def _sum(found: list[Report]) -> str:
    from filterd.reports.incoming import DmarcReport

    dmarc = [one for one in found if isinstance(one, DmarcReport)]
    messages, failed = sum(one.messages for one in dmarc), sum(one.failed for one in dmarc)
    many = f"{len(found)} report{'' if len(found) == 1 else 's'}"
    return f"{many}; DMARC: {messages} message{'' if messages == 1 else 's'}, {failed} without a pass"


def _clean(text: str) -> str:
    """Others wrote it: nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


# -- outgoing ------------------------------------------------------------------------------------------------------------


def send(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    if not config.stage.dmarc.reports.send:
        raise CliError("stage.dmarc.reports.send is off: nothing was kept to report", USAGE)
    try:
        told = asyncio.run(_send(config))
    except sqlite3.Error as error:
        raise CliError(f"reports.db: {error}", TRY_AGAIN) from None
    if arguments.json:
        print_json([asdict(one) for one in told])
        return OK
    for one in told:
        print(f"{one.day}  {one.domain}: {one.result}")
    if not told:
        print("Nothing is due: a day is reported when it is over.")
    return OK


async def _send(config: Config) -> list[Told]:
    from filterd import assembly
    from filterd.ports import SystemClock, SystemIds
    from filterd.queue.spool import GroupSpool

    clock = SystemClock()
    spool = GroupSpool(Path(config.server.data_dir) / "queue", clock)
    try:
        asked = assembly.dns(config, clock, SystemIds())
        return await assembly.reporting(config, asked, spool, clock).send_due()
    finally:
        spool.close()


def sent(arguments: argparse.Namespace) -> int:
    from filterd.reports import data, days

    path = Path(load_config(arguments).server.data_dir) / data.REPORTS
    rows = []
    if path.exists():
        db = data.connect(path)
        rows = days.sent(db)
        db.close()
    if arguments.json:
        print_json(
            [{"day": day, "domain": name, "at": at, "result": result} for day, name, at, result in rows]
        )
        return OK
    for day, name, _, result in rows:
        print(f"{day}  {name}: {result}")
    if not rows:
        print("Nothing was reported yet.")
    return OK
