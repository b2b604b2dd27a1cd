"""Tell where mail for an address goes, step by step: aliases, accounts, routes, mail exchangers.

Examples:
  filterd route info@example.org
  filterd route bob@example.net --from ann@example.org     some routes ask who sends
  filterd route bob@example.net --offline                  without asking the DNS

Exit code: 0 it goes somewhere, 1 nobody takes it, 75 that cannot be said now.

See also: filterd help accounts, filterd help queue
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filterd.accounts.builtin import BuiltinDirectory
from filterd.accounts.directory import (
    Foreign,
    Forward,
    Local,
    Resolution,
    SrsReturn,
    Targets,
    ToOutlet,
    TryLater,
    Unknown,
)
from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError
from filterd.cli.options import add_config, add_json, load_config, print_json
from filterd.config.schema import Config

if TYPE_CHECKING:
    from filterd.accounts.outlets import Outlet
    from filterd.queue.route import Hop, NoRoute
    from pipeline.batv import Batv
    from pipeline.ports import Clock

ADDRESSES_SHOWN = 4  # of a domain's hosts


@dataclass(slots=True)
class Step:
    """One line of the story. ``kind``: batv, alias, forward, here, program, file, nobody, relay, route, mx, srs, refused, later."""

    address: str
    kind: str
    text: str


@dataclass(slots=True)
class Story:
    steps: list[Step] = field(default_factory=list)
    code: int = OK

    def add(self, address: str, kind: str, text: str) -> None:
        if not any((step.address, step.kind) == (address, kind) for step in self.steps):
            self.steps.append(Step(address, kind, text))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument(
        "--from", dest="sender", default="", metavar="ADDRESS", help="who sends it; <> = a bounce"
    )
    parser.add_argument("--offline", action="store_true", help="do not ask the DNS")
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    address = arguments.address.strip().removeprefix("<").removesuffix(">")
    if not address:
        raise CliError("which address?", USAGE)
    sender = arguments.sender.strip().removeprefix("<").removesuffix(">")
    story = told(config, address, sender, arguments.offline)
    if arguments.json:
        steps = [{"address": step.address, "kind": step.kind, "text": step.text} for step in story.steps]
        print_json({"address": address, "code": story.code, "steps": steps})
        return story.code
    print(address)
    width = max((len(step.address) for step in story.steps), default=0)
    for step in story.steps:
        print(f"  {step.kind:<8} {step.address:<{width}}  {step.text}")
    return story.code


def told(config: Config, address: str, sender: str, offline: bool) -> Story:
    from filterd.accounts.database import AccountDatabase
    from filterd.accounts.password import Passwords
    from filterd.accounts.places import database_path
    from filterd.app import srs_verifier
    from filterd.assembly import srs_of
    from filterd.cli.ownership import hand_over
    from filterd.ports import SystemClock

    clock = SystemClock()
    # without a secret nothing was ever rewritten, and none is made here
    made = config.srs.secrets or (Path(config.server.data_dir) / "secrets" / "srs").exists()
    database = AccountDatabase(database_path(config), clock)
    try:
        verifier = srs_verifier(srs_of(config, clock)) if made else None
        directory = BuiltinDirectory(config, database, Passwords(clock), verifier)
        tagged = _tags(config, clock)
        found = tagged.open(address) if tagged is not None else None
        if found is None:
            return _told(config, directory, address, sender, offline)
        story = _told(config, directory, found.address, sender, offline)
        text = f"refused for reports: {found.why}" if found.why else "a tag of ours (BATV), good for reports"
        story.steps.insert(0, Step(address, "batv", f"{text}; {found.address}"))
        return story
    finally:
        database.close()
        hand_over(config, *(database_path(config) + end for end in ("", "-wal", "-shm")))


def _tags(config: Config, clock: Clock) -> Batv | None:
    """Without a secret nothing was ever tagged, and none is made here."""
    from filterd.assembly import batv_of

    known = config.batv.secrets or (Path(config.server.data_dir) / "secrets" / "batv").exists()
    return batv_of(config, clock) if known else None


def _told(config: Config, directory: BuiltinDirectory, address: str, sender: str, offline: bool) -> Story:
    story = Story()
    found = directory.lookup(address)
    leaving: list[str] = []
    for target in found.targets if isinstance(found, Targets) else (found,):
        _one(config, directory, target, address, story, leaving)
    for one in directory.missing(address):
        story.add(one, "nobody", "no such user here: this copy comes to nothing")
    for one in leaving:
        _way(config, one, sender, offline, story)
    return story


def _one(
    config: Config,
    directory: BuiltinDirectory,
    target: Resolution,
    address: str,
    story: Story,
    leaving: list[str],
) -> None:
    if isinstance(target, (Local, Forward, ToOutlet)):
        for passed in target.via:
            entry = directory.alias_of(passed)
            text = f"→ {entry.told}   ({entry.source})" if entry is not None else "catch-all"
            story.add(passed, "alias", text)
    match target:
        case Local(account=account, detail=detail):
            text = "mailbox here" + (f', detail "{detail}"' if detail else "")
            entry = directory.forward_of(account.id)
            if entry is not None and entry.refused:
                story.add(account.id, "forward", f"{entry.source} is not followed: {entry.refused}")
            story.add(account.id, "here", text if account.enabled else f"{text}, disabled")
        case Forward(address=there, relayed=True):
            domain = next(one for one in config.domain if there.endswith(f"@{one.name}"))
            story.add(there, "relay", f"its store is behind us: {domain.relay}")
        case Forward(address=there) | Foreign(address=there):
            leaving.append(there)
        case ToOutlet(outlet=outlet):
            _outlet(config, outlet, target.via[-1], story)
        case SrsReturn(address=there):
            story.add(
                address, "srs", f"a return address of ours; bounces go to {there}, other mail is refused"
            )
            leaving.append(there)
        case TryLater(reason=reason):
            story.add(address, "later", reason)
            story.code = TRY_AGAIN
        case Unknown(reason=reason):
            story.add(address, "refused", reason)
            story.code = FOUND


def _outlet(config: Config, outlet: Outlet, address: str, story: Story) -> None:
    """A program or a file, and whether that works now."""
    from filterd.accounts.outlets import NOTHING, Permits
    from filterd.execclient import reachable
    from filterd.outlets import written

    if outlet.path == NOTHING:
        story.add(address, "file", f"{outlet}: thrown away")
        return
    if outlet.program:
        program = os.path.join(config.exec.directory, outlet.program)
        why = "" if os.access(program, os.X_OK) else f"{program} cannot be run"
        if not reachable(config.exec.socket):
            why = f"filterd-exec does not answer at {config.exec.socket}"
    else:
        why = written(outlet.path, Permits.of(config).folder(outlet))
    story.add(
        address,
        "program" if outlet.program else "file",
        str(outlet) if not why else f"{outlet}: waits, {why}",
    )
    if why:
        story.code = TRY_AGAIN


def _way(config: Config, address: str, sender: str, offline: bool, story: Story) -> None:
    """How mail that leaves is sent."""
    from filterd.app import routes_of
    from filterd.queue.rows import domain_of

    rule = routes_of(config).rule_for(sender, address)
    bind = (rule.bind if rule is not None else ()) or config.queue.bind
    source = f", from {', '.join(bind)}" if bind else ""
    if rule is not None and rule.relay is not None:
        number = routes_of(config).rules.index(rule)
        story.add(address, "route", f"queue.route {number + 1}: {config.queue.route[number].via}{source}")
        return
    if rule is None and config.queue.relay is not None:
        story.add(address, "route", f"queue.relay: {config.queue.relay}{source}")
        return
    domain = domain_of(address)
    if offline:
        story.add(address, "mx", f"by the mail exchangers of {domain}{source}")
        return
    found = asyncio.run(_hops(config, domain))
    if isinstance(found, Sequence):
        shown = [f"{hop.name} [{hop.address}]" for hop in found[:ADDRESSES_SHOWN]]
        more = f" and {len(found) - ADDRESSES_SHOWN} more" if len(found) > ADDRESSES_SHOWN else ""
        story.add(address, "mx", ", ".join(shown) + more + source)
        return
    story.add(address, "refused" if found.permanent else "later", found.text)
    story.code = max(story.code, FOUND if found.permanent else TRY_AGAIN)


async def _hops(config: Config, domain: str) -> Sequence[Hop] | NoRoute:
    from filterd.assembly import dns
    from filterd.ports import SystemClock, SystemIds
    from filterd.queue.route import route

    resolver = dns(config, SystemClock(), SystemIds())
    return await route(domain, resolver, None, frozenset({config.server.hostname}))
