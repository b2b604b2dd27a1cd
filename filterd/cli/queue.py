"""Look at and steer what is waiting to leave.

Examples:
  filterd queue list                     what waits, since when, and why
  filterd queue why KQ7XN2MPLA5B         every attempt with the whole dialogue, and what can be done
  filterd queue retry KQ7XN2MPLA5B       try now; `retry all` for everything
  filterd queue flush example.org        try everything for one domain now
  filterd queue hold ID | release ID     keep it here; let it go again
  filterd queue bounce ID | drop ID      give it back to its sender; throw it away
  filterd queue reroute ID --to smtp://mx2.example.net     by another host; `--to auto`: its own way again
  filterd queue hold --sender ann@example.org --older 1h   instead of an ID: all that is of all of these

Actions: list, stats, show, why, retry, flush, hold, release, bounce, drop, reroute. ID may be `all` for retry, hold, release and
reroute. Instead of it --domain, --sender (an address, @domain or <>) and --older choose.

See also: filterd help queue
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError
from filterd.cli.options import add_config, add_json, confirm, load_config, print_json
from filterd.cli.queuelist import there
from filterd.config.schema import Config
from filterd.config.values import BadValue, duration
from filterd.queue.advice import advice
from filterd.queue.bell import LOOK, RETRY, Bell
from filterd.queue.journal import Journal
from filterd.queue.routing import BY_HAND, by_hand, is_outlet
from filterd.queue.rows import ENDS, LIVE, Item, domain_of, held_until
from filterd.queue.steering import Choice
from filterd.store.base import StoreUnavailable

ACTIONS = {
    "list": "what waits, since when, and why",
    "stats": "how many, in which state",
    "show": "one message and its tries",
    "why": "one message, each try with the whole dialogue, and what can be done",
    "retry": "try it now",
    "flush": "try everything for a domain now",
    "hold": "keep it here until it is released",
    "release": "let it go again",
    "bounce": "give it back to its sender",
    "drop": "throw it away; nobody is told",
    "reroute": "send it by another host",
}
FOR_ALL = ("retry", "hold", "release", "reroute")
CHOOSING = (*FOR_ALL, "bounce", "drop")
DONE = {
    "retry": "tried now",
    "flush": "tried now",
    "hold": "held",
    "release": "released",
    "bounce": "given back to the sender",
    "drop": "dropped",
    "reroute": "sent another way",
}
REPLY_SHOWN = 90  # characters of the last reply in a list


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        one = actions.add_parser(name, help=text)
        if name == "flush":
            one.add_argument("id", metavar="DOMAIN")
        elif name in CHOOSING:
            every = "`all` for everything" if name in FOR_ALL else None
            one.add_argument("id", metavar="ID", nargs="?", default="", help=every)
            one.add_argument("--domain", default="", metavar="DOMAIN", help="what is for this domain")
            one.add_argument(
                "--sender", default="", metavar="ADDRESS", help="what is from an address, @domain or <>"
            )
            one.add_argument("--older", default="", metavar="AGE", help="what came longer ago, as 2h or 1d")
        elif name not in ("list", "stats"):
            one.add_argument("id", metavar="ID")
        if name == "reroute":
            one.add_argument(
                "--to", required=True, metavar="URL", help="smtp://HOST, lmtp:unix:PATH; auto = its own way"
            )
        if name == "list":
            one.add_argument("--ended", action="store_true", help="what ended in the last days too")
        if name in ("drop", "bounce"):
            help_ = "do not ask" if name == "drop" else "as with drop; nothing is asked here"
            one.add_argument("--yes", action="store_true", help=help_)
        add_config(one)
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    directory = Path(config.server.data_dir) / "queue"
    try:
        return _run(arguments, config, directory)
    except StoreUnavailable as error:
        raise CliError(f"the queue cannot be read: {error}", TRY_AGAIN) from None


def _run(arguments: argparse.Namespace, config: Config, directory: Path) -> int:
    if not there(directory):
        if arguments.action in ("list", "stats"):
            return _nothing(arguments)
        raise CliError(f"there is no queue in {directory} yet", FOUND)
    journal = Journal(directory)
    try:
        if arguments.action == "list":
            return _list(journal, arguments)
        if arguments.action == "stats":
            return _stats(journal, arguments)
        if arguments.action in ("show", "why"):
            return _show(journal, _chosen(journal, arguments), arguments)
        count = _change(journal, arguments, config)
    finally:
        journal.close()
        _keep_owner(config, directory)
    bell = Bell(directory)
    bell.ring(RETRY if arguments.action in ("retry", "flush", "reroute") else LOOK)
    bell.close()
    if arguments.json:
        print_json({"action": arguments.action, "messages": count})
    else:
        print(f"{count} message(s) {DONE[arguments.action]}")
    return OK if count else FOUND


def retry_now(config: Config, choice: Choice) -> int:
    """``sendmail -q``: try what is chosen now; how many. Raises StoreUnavailable."""
    directory = Path(config.server.data_dir) / "queue"
    if not there(directory):
        return 0
    journal = Journal(directory)
    try:
        with journal.transaction():
            count = journal.steer(
                "retry", time.time(), name=choice.name, domain=choice.domain, sender=choice.sender
            )
    finally:
        journal.close()
        _keep_owner(config, directory)
    bell = Bell(directory)
    bell.ring(RETRY)
    bell.close()
    return count


def _keep_owner(config: Config, directory: Path) -> None:
    """Root may have made the database's files; the server must be able to write them."""
    if config.server.user and os.geteuid() == 0:
        from filterd.cli.ownership import hand_over

        hand_over(config, str(directory))


def _nothing(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json([] if arguments.action == "list" else {})
    else:
        print("0 message(s)")
    return OK


def _chosen(journal: Journal, arguments: argparse.Namespace) -> Item:
    item = journal.item(arguments.id)
    if item is None:
        raise CliError(f"the queue knows no {arguments.id}; see `filterd queue list`", FOUND)
    return item


def _change(journal: Journal, arguments: argparse.Namespace, config: Config) -> int:
    """How many were changed."""
    action, now = arguments.action, time.time()
    if action == "flush":
        with journal.transaction():
            return journal.steer("retry", now, domain=arguments.id)
    choice = _choice(journal, arguments, now)
    if action == "drop":
        what = choice.name or f"All of {_told(arguments)} in the queue"
        confirm(f"{what} will be lost, nobody is told.", arguments.yes)
    if action == "reroute":
        from filterd.app import routes_of

        with journal.transaction():
            return journal.reroute(now, choice, _next_hop(arguments.to), routes_of(config).lane)
    with journal.transaction():
        return journal.steer(
            action, now, name=choice.name, domain=choice.domain, sender=choice.sender, before=choice.before
        )


def _choice(journal: Journal, arguments: argparse.Namespace, now: float) -> Choice:
    """What the words of the command choose."""
    before = 0.0
    if arguments.older:
        try:
            before = now - duration(arguments.older)
        except BadValue as error:
            raise CliError(f"--older {arguments.older}: {error}", USAGE) from None
    narrow = arguments.domain or arguments.sender or arguments.older
    if arguments.id and arguments.id != "all":
        if narrow:
            raise CliError("an ID is one message: it goes without --domain, --sender and --older", USAGE)
        return Choice(_chosen(journal, arguments).id)
    if not arguments.id and not narrow:
        raise CliError("which? Name an ID, or --domain, --sender or --older", USAGE)
    if arguments.id == "all" and not narrow and arguments.action not in FOR_ALL:
        raise CliError(f"`all` is too much for {arguments.action}: name one message", USAGE)
    return Choice("", arguments.domain, arguments.sender, before)


def _told(arguments: argparse.Namespace) -> str:
    words = (("for", arguments.domain), ("from", arguments.sender), ("older than", arguments.older))
    return " ".join(f"{word} {value}" for word, value in words if value)


def _next_hop(url: str) -> str:
    """As the queue keeps it; "" = the way it takes by itself."""
    if url in ("auto", "mx", ""):
        return ""
    if by_hand(url) is None:
        text = "write smtp://HOST[:PORT], smtps://, lmtp:// or lmtp:unix:/PATH; a log-in belongs into [[queue.route]]"
        raise CliError(f"--to {url}: {text}", USAGE)
    return url


def _list(journal: Journal, arguments: argparse.Namespace) -> int:
    items = journal.items(LIVE + (ENDS if arguments.ended else ()))
    if arguments.json:
        print_json([_facts(item) for item in items])
        return OK
    for item in items:
        age = _age(time.time() - item.created)
        why = item.last_reply or _untried(item)
        print(
            f"{item.id}  {item.state:<7} {age:>5}  <{item.reverse_path}> → {item.recipient}  {why[:REPLY_SHOWN]}"
        )
    print(f"{len(items)} message(s)")
    return OK


def _untried(item: Item) -> str:
    until = held_until(item.params)
    return f"held until {_when(until)}, as its sender asked" if until > time.time() else "not tried yet"


def _stats(journal: Journal, arguments: argparse.Namespace) -> int:
    counts = journal.counts()
    waiting = journal.items(limit=1)
    facts: dict[str, object] = {state: counts.get(state, 0) for state in (*LIVE, *ENDS)}
    facts["oldest_seconds"] = int(time.time() - waiting[0].created) if waiting else 0
    if arguments.json:
        print_json(facts)
        return OK
    for name, value in facts.items():
        print(f"{name:<15} {value}")
    return OK


def _facts(item: Item) -> dict[str, object]:
    facts = {"id": item.id, **asdict(item)}
    del facts["body"], facts["number"]
    facts["advice"], facts["domain"] = advice(item.last_reply), domain_of(item.recipient)
    facts["route"] = item.domain[1:] if item.domain.startswith(BY_HAND) else ""
    facts["outlet"] = item.domain if is_outlet(item.domain) else ""
    return facts


def _show(journal: Journal, item: Item, arguments: argparse.Namespace) -> int:
    attempts = journal.attempts(item.id)
    if arguments.json:
        rows = [dict(zip(("at", "host", "reply", "dialogue"), row, strict=True)) for row in attempts]
        print_json({**_facts(item), "tries": rows})
        return OK
    print(f"{item.id}  {item.kind}  <{item.reverse_path}> → {item.recipient}  trace {item.trace}")
    print(f"  {item.state}, {item.attempts} tries, here since {_when(item.created)}")
    if item.domain.startswith(BY_HAND):
        print(f"  rerouted by hand to {item.domain[1:]}")
    if is_outlet(item.domain):
        print(f"  for the {item.kind} {item.domain.removeprefix('|')}")
    if not item.attempts and held_until(item.params) > time.time():
        print(f"  {_untried(item)}")
    elif item.state == "queued":
        print(f"  next try {_when(item.next_at)}")
    for at, host, reply, dialogue in attempts:
        print(f"  {_when(at)}  {f'{host}: ' if host else ''}{reply}")
        if arguments.action == "why":
            for line in dialogue.splitlines():
                print(f"      {line}")
    if not attempts and item.last_reply:
        print(f"  {item.last_reply}")
    hint = advice(item.last_reply)
    if hint and arguments.action == "why":
        print(f"  → {hint}")
    return OK


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
