"""Teach what is spam and what is not; see what was learned.

Each message is learned once by every engine (`stage.spamassassin.engine`, and always the builtin classifier); saying the opposite
later takes the first lesson back. PATH is a message, an mbox, a Maildir, a folder of messages, or `-`. Without --account the
lesson is everybody's. The server learns the same way from moves into and out of Junk by IMAP.

Examples:
  filterd learn spam --account ann@example.org junk.eml
  filterd learn ham ~/Maildir                        everybody's: wanted mail
  filterd learn forget --account ann@example.org odd.eml
  filterd learn status                               what each engine knows, and what waits

See also: filterd help spam
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from filterd.accounts.errors import BadAccount
from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError
from filterd.cli.options import add_config, add_json, load_config, print_json
from filterd.config.schema import Config
from filterd.learning.journal import FOLDER, Journal, journal_path
from filterd.learning.learner import engines_of, learner_of, settings_of, table_of, work_of
from filterd.learning.lesson import HAM, NONE, SPAM
from filterd.ports import SystemClock
from filterd.store.base import StoreUnavailable

KINDS = {"spam": SPAM, "ham": HAM, "forget": NONE}
WAIT_SECONDS = 50.0
PAUSE_SECONDS = 0.1
BLOCK = 100  # messages noted in one transaction
EVERYBODY = "(everybody)"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    texts = {
        "spam": "this is spam",
        "ham": "this is wanted mail",
        "forget": "take back what was learned of it",
    }
    for name, text in texts.items():
        one = actions.add_parser(name, help=text)
        one.add_argument("paths", nargs="+", metavar="PATH", help="a message, mbox, Maildir, folder, or -")
        one.add_argument(
            "--account", default="", metavar="ADDRESS", help="whose lesson; default: everybody's"
        )
        add_config(one)
        add_json(one)
    status = actions.add_parser("status", help="what was learned, and what waits")
    status.add_argument("--account", default="", metavar="ADDRESS", help="only this account")
    add_config(status)
    add_json(status)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    account = _account(config, arguments.account) if arguments.account else ""
    try:
        if arguments.action == "status":
            return status(config, account, bool(arguments.account), arguments.json)
        return learn(config, account, KINDS[arguments.action], arguments)
    except (sqlite3.Error, StoreUnavailable) as error:
        raise CliError(f"cannot be learned now: {error}", TRY_AGAIN) from None


def _account(config: Config, address: str) -> str:
    from filterd.accounts.database import AccountDatabase
    from filterd.accounts.names import account_id
    from filterd.accounts.places import database_path

    try:
        account = account_id(address, config.accounts.subaddress)
    except BadAccount as error:
        raise CliError(str(error), USAGE) from None
    database = AccountDatabase(database_path(config), SystemClock())
    try:
        known = account in database.records()
    finally:
        database.close()
    if not known:
        raise CliError(f"there is no account {account}; see `filterd account list`", FOUND)
    return account


# -- learning -------------------------------------------------------------------------------------------------------------


def learn(config: Config, account: str, kind: str, arguments: argparse.Namespace) -> int:
    engines = engines_of(config)
    if not engines:
        raise CliError(
            "nobody learns: stage.spamassassin.enabled or stage.spamassassin.learn is false", FOUND
        )
    before = _counted(config, account)
    learner = learner_of(config, SystemClock())
    read = taken = 0
    try:
        block: list[bytes] = []
        for path in arguments.paths:
            for text in messages(path):
                read += 1
                block.append(text)
                if len(block) >= BLOCK:
                    taken += _note(config, learner.learn_many(account, kind, block), len(block))
                    block = []
        taken += _note(config, learner.learn_many(account, kind, block), len(block))
    finally:
        learner.close()
    left = asyncio.run(_work(config))
    _keep_owner(config)
    after = _counted(config, account)
    changes = {
        engine: {what: n - before.get(engine, {}).get(what, 0) for what, n in counts.items()}
        for engine, counts in after.items()
    }
    changes = {engine: {what: n for what, n in counts.items() if n} for engine, counts in changes.items()}
    if arguments.json:
        print_json({"messages": read, "waiting": left, "engines": changes})
    else:
        print(f"{read} message(s) read")
        for engine in engines:
            print(f"  {engine:<8} {_line(changes.get(engine, {}))}")
        if left:
            print(f"{left} lesson(s) wait; the server gives them (`filterd learn status` says why they wait)")
    return OK if read and taken == read else FOUND


def _note(config: Config, taken: int, wanted: int) -> int:
    """A full journal: work it off first."""
    if taken < wanted:
        raise CliError("too much waits to be learned already; see `filterd learn status`", TRY_AGAIN)
    return taken


async def _work(config: Config) -> int:
    """Give the lessons ourselves, or wait while the server does; how many are left."""
    clock = SystemClock()
    work = work_of(config, clock, None)
    journal = Journal(journal_path(Path(config.server.data_dir)))
    deadline = clock.monotonic() + WAIT_SECONDS
    try:
        while not journal.idle(clock.time()) and clock.monotonic() < deadline:
            if not await work.step():
                await asyncio.sleep(PAUSE_SECONDS)
        return journal.left()
    finally:
        journal.close()
        await work.close()


def _counted(config: Config, account: str) -> dict[str, dict[str, int]]:
    path = journal_path(Path(config.server.data_dir))
    if not path.exists():
        return {}
    journal = Journal(path)
    try:
        return {engine: counts for (owner, engine), counts in journal.counters().items() if owner == account}
    finally:
        journal.close()


def _keep_owner(config: Config) -> None:
    """Root may have made the files; the server must be able to write them."""
    if config.server.user and os.geteuid() == 0:
        from filterd.cli.ownership import hand_over

        hand_over(config, str(Path(config.server.data_dir) / FOLDER))


def messages(name: str) -> Iterator[bytes]:
    """Every message of a PATH. Raises CliError."""
    from filterd.cli.check import read_message

    path = Path(name)
    if name == "-" or not path.is_dir():
        yield from split(read_message(name))
        return
    parts = [path / part for part in ("cur", "new") if (path / part).is_dir()]
    found = 0
    for folder in parts or [path]:
        for file in sorted(folder.iterdir() if parts else folder.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                found += 1
                yield from split(read_message(str(file)))
    if not found:
        raise CliError(f"{name}: no messages in there", FOUND)


def split(data: bytes) -> Iterator[bytes]:
    """The messages of an mbox (mboxrd: quoted From_ lines lose a ">"), or the one that it is."""
    if not data.startswith(b"From "):
        if data.strip():
            yield data
        return
    lines = data.splitlines(keepends=True)
    start = 0
    for at in range(1, len(lines) + 1):
        if at == len(lines) or (lines[at].startswith(b"From ") and not lines[at - 1].strip()):
            body = [
                line[1:] if line.startswith(b">") and line.lstrip(b">").startswith(b"From ") else line
                for line in lines[start + 1 : at]
            ]
            text = b"".join(body)
            if text.strip():
                yield text
            start = at


# -- status -----------------------------------------------------------------------------------------------------------------


def status(config: Config, account: str, chosen: bool, as_json: bool) -> int:
    root = Path(config.server.data_dir)
    path = journal_path(root)
    rows: list[dict[str, object]] = []
    waiting: list[dict[str, object]] = []
    if path.exists():
        journal = Journal(path)
        try:
            counters, known, waits = journal.counters(), journal.known(), journal.waiting()
        finally:
            journal.close()
        for owner, engine in sorted({*counters, *known}):
            if chosen and owner != account:
                continue
            now = known.get((owner, engine), {})
            row: dict[str, object] = {"account": owner, "engine": engine}
            row |= {"spam": now.get(SPAM, 0), "ham": now.get(HAM, 0)}
            row["lessons"] = counters.get((owner, engine), {})
            if engine == "builtin":
                row |= table_of(config, owner)
            rows.append(row)
        waiting = [
            {"account": one.account, "engine": one.engine, "kind": one.kind, "tries": one.tries, "error": one.error,
             "next_in": max(0, round(one.next_at - time.time()))}
            for one in waits if not chosen or one.account == account
        ]  # fmt: skip
    if as_json:
        print_json({"engines": list(engines_of(config)), "learned": rows, "waiting": waiting})
        return OK
    print(f"Engines that learn: {', '.join(engines_of(config)) or 'none'}")
    for row in rows:
        ready = (
            "" if row.get("ready", True) else f"  (judges from {settings_of(config).min_learned} of each on)"
        )
        print(f"{row['account'] or EVERYBODY}  {row['engine']}: {row['spam']} spam, {row['ham']} ham{ready}")
    for one in waiting[:20]:
        why = f": {one['error']}" if one["error"] else ""
        print(
            f"waits: {one['account'] or EVERYBODY}  {one['kind']} for {one['engine']}, {one['tries']} tries{why}"
        )
    print(f"{len(waiting)} lesson(s) wait")
    return OK


def _line(counts: dict[str, int]) -> str:
    words = {
        "spam": "learned as spam", "ham": "learned as ham", "changed": "learned the other way round",
        "forgotten": "forgotten", "again": "known already", "skipped": "skipped", "failed": "given up",
    }  # fmt: skip
    return (
        ", ".join(f"{counts[what]} {text}" for what, text in words.items() if counts.get(what))
        or "nothing yet"
    )
