"""Tell why a message went where it is: every stage's verdict and time, the script line that decided, the file it is in.

WHAT is a trace id (from the header X-Filterd-Trace or the SMTP reply), a queue id, a Message-ID, ACCOUNT/FOLDER/UID,
a message file, or: last from ADDRESS.

Examples:
  filterd explain 7K3QM-2XNPA
  filterd explain last from billing@shop.example
  filterd explain ann@example.org/Junk/881
  filterd explain --steps '<1042@shop.example>'         shows every test of the script too

See also: filterd help explain
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from filterd.accounts.places import account_folder
from filterd.cli import FOUND, OK, CliError
from filterd.cli.options import add_config, add_json, load_config, print_json
from filterd.cli.storage import open_store
from filterd.config.schema import Config
from filterd.config.values import show_duration
from filterd.explain import owner, partial
from filterd.explain.text import explain
from filterd.explain.traces import TraceReader
from filterd.store.base import Store, StoreError
from pipeline.trace import MessageTrace, RecipientTrace, Span

TRACE = re.compile(r"[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{5}-?[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{5}(\.[0-9]+)?\Z")
HELD_PLACE = "quarantine "
QUEUED_PLACE = owner.QUEUED
PLACE = re.compile(r"(?P<mailbox>.+) uid (?P<uid>[0-9]+)\Z")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="+",
        metavar="WHAT",
        help="trace id, queue id, Message-ID, ACCOUNT/FOLDER/UID, file, last from X",
    )
    parser.add_argument("--account", default="", help="only what the owner of this account may see")
    parser.add_argument("--steps", action="store_true", help="every evaluated test of the script too")
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    path = Path(config.server.data_dir) / "traces.db"
    if not path.exists():
        raise CliError(f"no message has been traced here yet ({path} does not exist)", FOUND)
    reader = TraceReader(path)
    try:
        with _store(config) as store:
            found = _find(_spelt_out(arguments.what, config), arguments.account, reader, store)
            if found is None:
                found = _from_folders(" ".join(arguments.what), arguments.account, config, store)
            if found is None:
                wanted = " ".join(arguments.what)
                raise CliError(_unknown(wanted, config), FOUND)
            trace, only = found
            parts = [only] if only is not None else trace.recipients
            if arguments.account:
                parts = [part for part in parts if part.account == arguments.account.lower()]
                if not parts:
                    raise CliError(f"{arguments.account} was no recipient of that message", FOUND)
            events = reader.events(trace.id)
            told = owner.events_of(parts, events) if arguments.account else events
            now_at = _now(trace, parts, told, store, Path(config.server.data_dir))
            if arguments.account:
                trace, events = owner.view(trace, parts), told
            else:
                trace = replace(trace, recipients=parts)
            if arguments.json:
                print_json({**asdict(trace), "events": [asdict(event) for event in events], "now": now_at})
            else:
                sys.stdout.write(explain(trace, events, None, now_at, arguments.steps))
    except sqlite3.Error as error:
        raise CliError(f"the traces cannot be read: {error}", 75) from None
    finally:
        reader.close()
    return OK


class _store:
    """The store, closed at the end."""

    def __init__(self, config: Config) -> None:
        self._store = open_store(config)

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def _spelt_out(what: list[str], config: Config) -> list[str]:
    """``ann/Junk/881`` is a place too, when one of our domains has an account of that name; a file goes first."""
    place = " ".join(what).split("/")
    if len(place) < 3 or not place[-1].isdigit() or "@" in place[0] or place[0] in ("", ".", ".."):
        return what
    if os.path.exists("/".join(place)):
        return what
    for domain in config.domain:
        account = f"{place[0]}@{domain.name}"
        if os.path.isdir(account_folder(config, account)):
            return ["/".join([account, *place[1:]])]
    return what


def _find(
    what: list[str], account: str, reader: TraceReader, store: Store
) -> tuple[MessageTrace, RecipientTrace | None] | None:
    if len(what) == 3 and what[0].lower() == "last" and what[1].lower() == "from":
        return _whole(reader.last_from(what[2], account.lower()))
    word = " ".join(what)
    if TRACE.match(word):
        return _part(reader, word)
    if os.path.isfile(word):
        return _of_header(Path(word).read_bytes(), reader)
    place = word.split("/")
    if len(place) >= 3 and place[-1].isdigit() and "@" in place[0]:
        return _of_place(place[0].lower(), "/".join(place[1:-1]), int(place[-1]), reader, store)
    queued = reader.by_queue_id(word.upper())
    if queued is not None:
        return queued, None
    matches = reader.by_message_id(word)
    mine = (
        one for one in matches if not account or any(r.account == account.lower() for r in one.recipients)
    )
    return _whole(next(mine, None))


def _whole(trace: MessageTrace | None) -> tuple[MessageTrace, None] | None:
    return (trace, None) if trace is not None else None


def _part(reader: TraceReader, name: str) -> tuple[MessageTrace, RecipientTrace | None] | None:
    """``ID.2`` is the second recipient's part."""
    trace = reader.get(name)
    if trace is None:
        return None
    number = name.partition(".")[2]
    if number.isdigit() and 1 <= int(number) <= len(trace.recipients):
        return trace, trace.recipients[int(number) - 1]
    return trace, None


def _of_header(data: bytes, reader: TraceReader) -> tuple[MessageTrace, RecipientTrace | None] | None:
    from rules.mail.header import scan

    header = scan(data)
    mark = header.first(b"x-filterd-trace")
    if mark:
        return _part(reader, mark.decode("ascii", "replace"))
    name = header.first(b"message-id")
    matches = reader.by_message_id(name.decode("utf-8", "replace")) if name else []
    return (matches[0], None) if matches else None


def _of_place(
    account: str, mailbox: str, uid: int, reader: TraceReader, store: Store
) -> tuple[MessageTrace, RecipientTrace | None] | None:
    try:
        opened = store.account(account)
        data = opened.read(mailbox, uid)
        rows = opened.rows(mailbox, [uid], cold=True)
    except StoreError as error:
        raise CliError(f"{account}/{mailbox}/{uid}: {error}", FOUND) from None
    if data is None:
        return None
    found = _of_header(data, reader)
    return found if found is not None or not rows else partial.of_row(rows[0], account, mailbox)


def _unknown(wanted: str, config: Config) -> str:
    """Why there may be no trace of it."""
    kept = show_duration(config.pipeline.keep_traces)
    return (
        f"nothing is known of “{wanted}”; traces are kept for {kept} (pipeline.keep_traces). What is refused before its text came,"
        " for an unknown recipient or as relaying, leaves none: `filterd route ADDRESS` tells what happens to an address"
    )


def _now(
    trace: MessageTrace, parts: Sequence[RecipientTrace], events: Sequence[Span], store: Store, data_dir: Path
) -> str:
    """Where the message is today: still there, moved (found by its trace mark), on its way, or gone."""
    out = []
    for number, recipient in enumerate(trace.recipients, 1):
        if not any(recipient is part for part in parts):
            continue
        for place in recipient.places:
            match = PLACE.match(place)
            queued = QUEUED_PLACE.match(place)
            if queued:
                out.append(_way(queued["address"], queued["id"], events))
            elif place.startswith(HELD_PLACE):
                held = _held(data_dir, place.removeprefix(HELD_PLACE))
                out += [held] if held else []
            elif match and recipient.account:
                out.append(
                    _look(
                        store, recipient.account, match["mailbox"], int(match["uid"]), f"{trace.id}.{number}"
                    )
                )
    return ", ".join(out)


def _way(address: str, queue_id: str, events: Sequence[Span]) -> str:
    """What the queue last said of what it has for ``address``."""
    last = next((one for one in reversed(events) if owner.concerns(one, address, queue_id)), None)
    match last.result if last is not None else "":
        case "sent":
            return f"handed over for {address}"
        case "expired" | "bounced" | "failed":
            return f"given up for {address}; its sender was told"
        case "dropped":
            return f"thrown away for {address}"
        case _:
            return f"in the queue for {address}; filterd queue why {queue_id}"


def _held(data_dir: Path, name: str) -> str:
    """What became of a copy in the quarantine; "" when another place tells."""
    from filterd.quarantine.base import HELD, RELEASED
    from filterd.quarantine.database import QuarantineDatabase, database_path

    path = database_path(data_dir)
    if not path.exists():
        return f"no longer in the quarantine (was {name})"
    try:
        with closing(QuarantineDatabase(path)) as database:
            found = database.find(name)
    except StoreError as error:
        return f"quarantine {name} ({error})"
    if not found:
        return f"no longer in the quarantine (was {name})"
    row = found[0]
    if row.state == HELD:
        until = datetime.fromtimestamp(row.expires, UTC).strftime("%Y-%m-%d")
        return f"in the quarantine until {until}; filterd quarantine release {row.id}"
    return "" if row.state == RELEASED else f"quarantine {row.id}: {row.state}"


def _look(store: Store, account: str, mailbox: str, uid: int, mark: str) -> str:
    try:
        opened = store.account(account)
        if any(info.name == mailbox for info in opened.mailboxes()) and opened.rows(mailbox, [uid]):
            return f"{account}/{mailbox} uid {uid}"
        for info in opened.mailboxes():
            for row in _rows(store, account, info.name):
                if row[1] == mark:
                    return f"{account}/{info.name} uid {row[0]} (moved from {mailbox})"
    except StoreError as error:
        return f"{account}/{mailbox} uid {uid} ({error})"
    return f"no longer in {account}'s folders (was {mailbox} uid {uid})"


def _from_folders(
    word: str, account: str, config: Config, store: Store
) -> tuple[MessageTrace, RecipientTrace | None] | None:
    """A crash took the details of this trace: the decision stands with the message, in whose folder it is."""
    if not TRACE.match(word):
        return None
    mark = word.upper().split(".", 1)[0].replace("-", "")
    accounts = [account.lower()] if account else _accounts(config)
    for name in accounts:
        for info in store.account(name).mailboxes():
            for uid, trace in _rows(store, name, info.name):
                if trace.split(".", 1)[0].replace("-", "") == mark:
                    rows = store.account(name).rows(info.name, [uid], cold=True)
                    return partial.of_row(rows[0], name, info.name) if rows else None
    return None


def _accounts(config: Config) -> list[str]:
    from filterd.accounts.database import AccountDatabase
    from filterd.accounts.places import database_path
    from filterd.ports import SystemClock

    database = AccountDatabase(database_path(config), SystemClock())
    try:
        return sorted(database.records())
    finally:
        database.close()


def _rows(store: Store, account: str, mailbox: str) -> list[tuple[int, str]]:
    opened = store.account(account)
    uids = opened.snapshot(mailbox).uids
    out: list[tuple[int, str]] = []
    for at in range(0, len(uids), 1000):
        out.extend((row.uid, row.trace) for row in opened.rows(mailbox, uids[at : at + 1000], cold=True))
    return out
