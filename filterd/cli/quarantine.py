"""Look at what was held back, let it through or throw it away.

A copy has the id that `filterd explain` takes: TRACE.N; TRACE alone means all copies of that message. A release runs the rest of
the pipeline (the person's script, privacy, SRS) and delivers once, however often it is asked for; the server does it, or will when
it runs.

Examples:
  filterd quarantine list                          what is held, for whom, why, until when
  filterd quarantine list ann@example.org --all    also what was released, dropped or became too old
  filterd quarantine show 7K3QM-2XNPA.1            one copy; --raw prints the message itself
  filterd quarantine release 7K3QM-2XNPA.1         deliver it after all
  filterd quarantine release 7K3QM-2XNPA.1 --learn   and teach that it is ham
  filterd quarantine learn spam 7K3QM-2XNPA.1      teach only
  filterd quarantine drop 7K3QM-2XNPA.1            throw it away; nobody is told
  filterd quarantine digest ann@example.org --send   mail ann what is held for her

See also: filterd help quarantine
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from filterd.cli import FOUND, OK, TRY_AGAIN, CliError
from filterd.cli.options import add_config, add_json, confirm, load_config, print_json
from filterd.config.schema import Config
from filterd.quarantine.base import ASKED, HELD, RELEASED, Held
from filterd.quarantine.database import FOLDER, QuarantineDatabase, database_path

ACTIONS = {
    "list": "what is held, for whom, why, until when",
    "show": "one copy",
    "release": "deliver it after all",
    "learn": "teach what it is, without releasing it",
    "drop": "throw it away; nobody is told",
    "digest": "the mail that tells people what is held for them; --send sends it",
}
WAIT_SECONDS = 15.0
POLL_SECONDS = 0.1
LATER = "asked for: the server delivers it as soon as it runs"
SHOWN = 60  # characters of a subject or reason in the list


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        one = actions.add_parser(name, help=text)
        if name == "learn":
            one.add_argument("kind", choices=("ham", "spam"))
        if name in ("list", "digest"):
            one.add_argument(
                "account", nargs="?", default="", metavar="ADDRESS", help="only what is held for this account"
            )
        else:
            one.add_argument("id", nargs=None if name == "show" else "+", metavar="ID")
            one.add_argument("--account", default="", help="only what the owner of this account may touch")
        if name == "list":
            one.add_argument("--all", action="store_true", help="what came to its end, too")
        if name == "digest":
            one.add_argument("--send", action="store_true", help="queue it now, to each person")
        if name == "show":
            one.add_argument("--raw", action="store_true", help="print the message, as it was held")
        if name == "release":
            one.add_argument(
                "--no-wait", action="store_true", help="do not wait until the server has done it"
            )
            one.add_argument("--learn", action="store_true", help="it is ham: teach that, too")
            one.add_argument(
                "--token", action="store_true", help="ID is what stands behind /q/ in the link of a digest"
            )
        if name == "drop":
            one.add_argument("--yes", action="store_true", help="do not ask")
        add_config(one)
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    path = database_path(Path(config.server.data_dir))
    if not path.exists():
        if arguments.action == "list":
            return _print([], arguments)
        raise CliError("nothing was ever held here", FOUND)
    try:
        with closing(QuarantineDatabase(path)) as database:
            match arguments.action:
                case "list":
                    return _print(database.rows(arguments.account.lower(), arguments.all), arguments)
                case "show":
                    return _show(database, arguments)
                case "release":
                    return _release(database, arguments, config)
                case "learn":
                    return _learn(database, arguments, config)
                case "digest":
                    return _digest(database, arguments, config)
                case _:
                    return _drop(database, arguments)
    finally:
        _keep_owner(config)


def _keep_owner(config: Config) -> None:
    """Root may have made the database's files; the server must be able to write them."""
    if config.server.user and os.geteuid() == 0:
        from filterd.cli.ownership import hand_over

        root = Path(config.server.data_dir)
        hand_over(config, *(str(root / name) for name in (FOLDER, "queue", "learning", "secrets")))


def _find(database: QuarantineDatabase, names: Sequence[str], account: str) -> list[Held]:
    out: list[Held] = []
    for name in names:
        found = database.find(name, account.lower())
        if not found:
            raise CliError(f"the quarantine knows no {name}; see `filterd quarantine list`", FOUND)
        out.extend(row for row in found if row not in out)
    return out


def facts(row: Held) -> dict[str, object]:
    """For programs."""
    return {**asdict(row), "trace": row.trace}


def _print(rows: Sequence[Held], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json([facts(row) for row in rows])
        return OK
    for row in rows:
        state = "" if row.state == HELD else f"  [{row.state}{f': {row.note}' if row.note else ''}]"
        print(
            f"{row.id:<13} {_day(row.created)}  {row.account}  from {row.sender or '<>'}  "
            f"“{row.subject[:SHOWN]}”  {row.stage}  until {_day(row.expires)}{state}"
        )
    print(f"{len(rows)} message(s)")
    return OK


def _show(database: QuarantineDatabase, arguments: argparse.Namespace) -> int:
    rows = _find(database, [arguments.id], arguments.account)
    if arguments.raw:
        data = database.data(rows[0].id)
        if data is None:
            raise CliError(f"{rows[0].id} is {rows[0].state}: its text is not kept", FOUND)
        sys.stdout.buffer.write(data)
        return OK
    if arguments.json:
        print_json([facts(row) for row in rows])
        return OK
    for row in rows:
        print(f"{row.id}  {row.state}{f': {row.note}' if row.note else ''}")
        print(f"  for      {row.account}" + (f" ({row.address})" if row.address != row.account else ""))
        print(f"  from     {row.sender or '?'}, reverse-path <{row.reverse_path}>")
        print(f"  subject  {row.subject}")
        print(f"  why      {row.reason}")
        print(f"  held     {_when(row.created)}, until {_when(row.expires)}, {row.size} octets")
        if row.ended:
            print(f"  ended    {_when(row.ended)}")
        if row.state == HELD:
            print(f"Next: filterd quarantine release {row.id}   filterd explain {row.id}")
    return OK


def _release(database: QuarantineDatabase, arguments: argparse.Namespace, config: Config) -> int:
    if arguments.token:
        rows = _opened(database, arguments.id, config)
    else:
        rows = _find(database, arguments.id, arguments.account)
    for row in rows:
        database.ask(row.id, time.time(), "ham" if arguments.learn else "")
    return _wait(database, rows, 0.0 if arguments.no_wait else WAIT_SECONDS, arguments.json)


def _wait(database: QuarantineDatabase, rows: Sequence[Held], seconds: float, as_json: bool) -> int:
    """What became of them; 75 when the server has not done it yet."""
    deadline = time.monotonic() + seconds
    while True:
        now = [database.find(row.id)[0] for row in rows]
        waiting = [row for row in now if row.state == ASKED and not row.note]
        if not waiting or time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    if as_json:
        print_json([facts(row) for row in now])
    else:
        for row in now:
            print(f"{row.id}  {_said(row)}")
    if any(row.state == ASKED for row in now):
        return TRY_AGAIN if seconds else OK
    return OK if all(row.state == RELEASED for row in now) else FOUND


def _said(row: Held) -> str:
    match row.state:
        case "released":
            return f"released: {row.note}" + (f"; {row.learned}" if row.learned else "")
        case "asked":
            return f"not delivered yet ({row.note}); tried again by itself" if row.note else LATER
        case "held":
            return f"still held: {row.note}"
        case _:
            return f"too late: {row.state} {_when(row.ended)}"


def _opened(database: QuarantineDatabase, tokens: Sequence[str], config: Config) -> list[Held]:
    from filterd.assembly import links_of

    links, out = links_of(config), []
    for token in tokens:
        row = links.opens(token, time.time(), database.find)
        if row is None:
            raise CliError("this token opens nothing: it is not complete, or too old", FOUND)
        out.append(row)
    return out


def _learn(database: QuarantineDatabase, arguments: argparse.Namespace, config: Config) -> int:
    from filterd.learning.learner import learner_of
    from filterd.ports import SystemClock

    rows = _find(database, arguments.id, arguments.account)
    with closing(learner_of(config, SystemClock())) as learner:
        for row in rows:
            data = database.data(row.id)
            if data is None:
                raise CliError(f"{row.id} is {row.state}: its text is not kept", FOUND)
            print(f"{row.id}  {learner.learn(row.account, arguments.kind, data)}")
    return OK


def _digest(database: QuarantineDatabase, arguments: argparse.Namespace, config: Config) -> int:
    from filterd.assembly import links_of
    from filterd.quarantine.digest import text

    account = arguments.account.lower()
    if arguments.send:
        sent = asyncio.run(_send(config, account))
        if arguments.json:
            print_json(sent)
        else:
            print("".join(f"queued for {name}\n" for name in sent) + f"{len(sent)} mail(s)")
        return OK
    waiting: dict[str, list[Held]] = {}
    for row in database.rows(account):
        if row.state == HELD:
            waiting.setdefault(row.account, []).append(row)
    if arguments.json:
        print_json({name: [facts(row) for row in rows] for name, rows in waiting.items()})
        return OK
    for name, rows in waiting.items():
        print(f"To: {name}\n\n{text(rows, links_of(config))}")
    print(f"{len(waiting)} mail(s), not sent (--send does that)")
    return OK


async def _send(config: Config, account: str) -> list[str]:
    from filterd.accounts.builtin import BuiltinDirectory
    from filterd.accounts.database import AccountDatabase
    from filterd.accounts.password import Passwords
    from filterd.accounts.places import database_path as accounts_path
    from filterd.assembly import digests, quarantine_of
    from filterd.ports import SystemClock
    from filterd.queue.spool import GroupSpool

    clock = SystemClock()
    accounts = AccountDatabase(accounts_path(config), clock)
    spool, quarantine = (
        GroupSpool(Path(config.server.data_dir) / "queue", clock),
        quarantine_of(config, clock),
    )
    try:
        directory = BuiltinDirectory(config, accounts, Passwords(clock))
        return await digests(config, quarantine, directory, spool, clock).send_now(account)
    finally:
        spool.close()
        quarantine.close()
        accounts.close()


def _drop(database: QuarantineDatabase, arguments: argparse.Namespace) -> int:
    rows = [row for row in _find(database, arguments.id, arguments.account) if row.state == HELD]
    if rows:
        names = ", ".join(row.id for row in rows)
        confirm(f"{names} will be lost, nobody is told.", arguments.yes)
    count = sum(database.drop(row.id, time.time()) for row in rows)
    if arguments.json:
        print_json({"dropped": count})
    else:
        print(f"{count} message(s) dropped")
    return OK if count else FOUND


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
