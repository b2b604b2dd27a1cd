"""Look at and steer what is waiting to leave.

Examples:
  filterd queue list                     what waits, since when, and why
  filterd queue why KQ7XN2MPLA5B         every attempt with the whole dialogue
  filterd queue retry KQ7XN2MPLA5B       try now;  `retry all` for everything
  filterd queue hold ID | release ID | drop ID

See also: filterd help queue
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from filterd.cli import FOUND, OK, CliError
from filterd.cli.options import add_config, add_json, confirm, load_config, print_json
from filterd.queue.journal import Item, Journal
from filterd.queue.spool import WAKE_SOCKET

ACTIONS = ("list", "show", "why", "retry", "hold", "release", "drop")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "id", nargs="?", default="", metavar="ID", help="a queue id; `all` for retry, hold, release"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--ended", action="store_true", help="list: what ended in the last days too")
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    directory = Path(config.server.data_dir) / "queue"
    journal = Journal(directory)
    try:
        if arguments.action == "list":
            return _list(journal, arguments)
        items = _chosen(journal, arguments)
        if arguments.action in ("show", "why"):
            return _show(journal, items, arguments)
        if arguments.action == "drop":
            confirm(f"{len(items)} message(s) will be lost, nobody is told.", arguments.yes)
        _change(journal, items, arguments.action)
    finally:
        journal.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake, contextlib.suppress(OSError):
        wake.sendto(b"1", str(directory / WAKE_SOCKET))
    print(f"{arguments.action}: {len(items)} message(s)")
    return OK


def _chosen(journal: Journal, arguments: argparse.Namespace) -> list[Item]:
    if arguments.id == "all" and arguments.action in ("retry", "hold", "release"):
        return journal.items()
    item = journal.item(arguments.id)
    if item is None:
        raise CliError(
            f"the queue knows no {arguments.id or 'message without an id'}; see `filterd queue list`", FOUND
        )
    return [item]


def _change(journal: Journal, items: list[Item], action: str) -> None:
    states = {"retry": "queued", "hold": "held", "release": "queued", "drop": "dropped"}
    now = time.time()
    journal.begin()
    try:
        for item in items:
            if item.state in ("queued", "held"):
                journal.set_state(item.id, states[action], now)
        journal.commit()
    except BaseException:
        journal.rollback()
        raise


def _list(journal: Journal, arguments: argparse.Namespace) -> int:
    states = ("queued", "held") + (("sent", "bounced", "expired", "dropped") if arguments.ended else ())
    items = journal.items(states)
    if arguments.json:
        print_json([asdict(item) for item in items])
        return OK
    for item in items:
        age = _age(time.time() - item.created)
        why = item.last_reply or "not tried yet"
        print(f"{item.id}  {item.state:<7} {age:>5}  <{item.reverse_path}> → {item.recipient}  {why[:90]}")
    print(f"{len(items)} message(s)")
    return OK


def _show(journal: Journal, items: list[Item], arguments: argparse.Namespace) -> int:
    item = items[0]
    attempts = journal.attempts(item.id)
    if arguments.json:
        rows = [dict(zip(("at", "host", "reply", "dialogue"), row, strict=True)) for row in attempts]
        print_json({**asdict(item), "tries": rows})
        return OK
    print(f"{item.id}  {item.kind}  <{item.reverse_path}> → {item.recipient}  trace {item.trace}")
    print(f"  {item.state}, {item.attempts} tries, here since {_when(item.created)}")
    if item.state == "queued":
        print(f"  next try {_when(item.next_at)}")
    for at, host, reply, dialogue in attempts:
        print(f"  {_when(at)}  {host}: {reply}")
        if arguments.action == "why":
            for line in dialogue.splitlines():
                print(f"      {line}")
    return OK


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
