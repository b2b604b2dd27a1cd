"""``python -m pipeline run MESSAGE``: what the stages say about one message, without a server.

    python -m pipeline run mail.eml --ip 192.0.2.1 --helo mx.example.net --from a@example.net --rcpt b@example.org
    python -m pipeline run - --stages spf,dkim --zone zone.txt --json < mail.eml
    python -m pipeline stages

Nothing is stored, sent or refused: the verdicts are printed, with ``--edited`` the message as it would be filed.
Exit: 0 accepted (or quarantined, discarded), 1 rejected, 75 deferred, 64 wrong usage, 66 unreadable message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import authres, edits
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.errors import PipelineError
from pipeline.ports import Clock, Ids, Resolver
from pipeline.registry import StageContext, build, documentation
from pipeline.runner import Runner, RunOutcome
from pipeline.stage import Phase
from pipeline.stages import STAGES
from pipeline.trace import trace_id
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition
from pipeline.zone import Zone, ZoneError, ZoneResolver
from rules.mail.message import Message

EX_USAGE, EX_NOINPUT, EX_TEMPFAIL = 64, 66, 75  # sysexits(3)
DEFAULT = ",".join(entry.name for entry in STAGES if entry.create is not None)


class _Clock(Clock):
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class _Ids(Ids):
    def token(self, octets: int) -> str:
        return secrets.token_hex(octets)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as error:
        return EX_USAGE if error.code else 0
    if options.command == "stages":
        _print_stages()
        return 0
    try:
        data = sys.stdin.buffer.read() if options.message == "-" else Path(options.message).read_bytes()
    except OSError as error:
        print(f"{options.message}: {error.strerror}", file=sys.stderr)
        return EX_NOINPUT
    data = re.sub(rb"\r?\n", b"\r\n", data)  # files of this system; on the wire and in here lines end in CRLF
    try:
        return asyncio.run(_run(options, data))
    except (PipelineError, ZoneError, OSError, ValueError) as error:
        print(str(error), file=sys.stderr)
        return EX_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description="Run the filter stages on one message."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("stages", help="list the stages and their settings")
    run = commands.add_parser("run", help="run the stages on a message")
    run.add_argument("message", metavar="MESSAGE", help='a file, or "-" for standard input')
    run.add_argument("--ip", help="the client's address")
    run.add_argument("--helo", default="", help="what it said in EHLO")
    run.add_argument("--from", dest="sender", default="", help='the reverse-path, "" for null')
    run.add_argument("--rcpt", action="append", default=[], help="a recipient (may be repeated)")
    run.add_argument("--profile", default="mx", choices=[profile.value for profile in Profile])
    run.add_argument("--auth", default="", help="as if this log-in were authenticated")
    run.add_argument("--hostname", default=socket.gethostname(), help="our own name")
    run.add_argument("--stages", default=DEFAULT, help=f"in this order (default {DEFAULT})")
    run.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="a stage's setting"
    )
    run.add_argument("--zone", help="a DNS zone file instead of the DNS")
    run.add_argument("--budget", type=float, default=25.0, help="seconds for all stages together")
    run.add_argument("--json", action="store_true", help="verdicts as JSON")
    run.add_argument("--edited", action="store_true", help="print the message with its header edits instead")
    return parser


async def _run(options: argparse.Namespace, data: bytes) -> int:
    clock, ids = _Clock(), _Ids()
    context = StageContext(
        clock, ids, _resolver(options.zone, clock, ids), options.hostname, options.hostname
    )
    names = [name.strip() for name in options.stages.split(",") if name.strip()]
    runner = Runner(build(STAGES, names, _settings(options.set), context), clock)
    recipients = tuple(Recipient(address) for address in options.rcpt)
    client = Client(ip=options.ip, helo=options.helo, auth=options.auth)
    envelope = Envelope(options.sender, recipients, client, Profile(options.profile))
    trace = trace_id(int(ids.token(7), 16) & ((1 << 50) - 1))
    transaction = Transaction(Message(data), envelope, trace, clock.monotonic() + options.budget)
    try:
        outcome = await runner.run(Phase.EOM, transaction)
    finally:
        await runner.close()
    if options.edited:
        sys.stdout.buffer.write(_edited(data, outcome, options.hostname))
    elif options.json:
        print(json.dumps(_as_json(outcome), indent=2, ensure_ascii=False))
    else:
        _print_outcome(outcome)
    disposition = outcome.verdict.disposition
    return {Disposition.REJECT: 1, Disposition.TEMPFAIL: EX_TEMPFAIL}.get(disposition, 0)


def _resolver(zone: str | None, clock: Clock, ids: Ids) -> Resolver:
    if zone is not None:
        return ZoneResolver(Zone.parse(Path(zone).read_text("utf-8")))
    from pipeline.adapters.dnspython import DnsResolver  # only when the DNS is really asked: 0.1 s to import

    return DnsResolver(clock, ids)


def _settings(given: Sequence[str]) -> dict[str, object]:
    """``STAGE.KEY=VALUE`` by stage, each as the type of the key's default. Raises ValueError, PipelineError."""
    chosen: dict[str, dict[str, object]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        stage, dot, name = key.partition(".")
        entries = [entry for entry in STAGES if entry.name == stage]
        known = {row[0]: row[1] for row in documentation(entries[0].settings)} if entries else {}
        if not (equals and dot) or name not in known:
            raise ValueError(f"--set {text}: no such setting (python -m pipeline stages lists them)")
        chosen.setdefault(stage, {})[name] = _typed(known[name], value)
    return {entry.name: entry.settings(**chosen[entry.name]) for entry in STAGES if entry.name in chosen}


def _typed(default: object, value: str) -> object:
    if isinstance(default, bool):
        return value.lower() in ("true", "yes", "on", "1")
    if isinstance(default, int | float):
        return type(default)(value)
    return tuple(value.split(",")) if isinstance(default, tuple) else value


def _edited(data: bytes, outcome: RunOutcome, name: str) -> bytes:
    verdict = outcome.verdict
    message = Message(data)
    added = [*verdict.edits, authres.field(name, verdict.authres)]
    return edits.apply(data, added, authres.forged(message.header, {name}), message.header)


def _as_json(outcome: RunOutcome) -> dict[str, object]:
    verdict = outcome.verdict
    return {
        "disposition": verdict.disposition.name.lower(),
        "by": verdict.stage,
        "reply": verdict.reply.render().decode().strip() if verdict.reply else "",
        "tags": dict(verdict.tags),
        "stages": [
            {
                "stage": span.stage,
                "result": span.result,
                "summary": span.summary,
                "seconds": round(span.duration, 6),
                "evidence": span.evidence,
            }
            for span in outcome.spans
        ],
    }


def _print_outcome(outcome: RunOutcome) -> None:
    width = max((len(span.stage) for span in outcome.spans), default=0)
    for span in outcome.spans:
        text = f"{span.result:<9} {span.summary}".rstrip()
        print(f"{span.stage:<{width}}  {text}   {span.duration * 1000:.1f} ms")
    verdict = outcome.verdict
    reply = f": {verdict.reply.render().decode().strip()}" if verdict.reply else ""
    by = f" by {verdict.stage}" if verdict.stage else ""
    print(f"{verdict.disposition.name.lower()}{by}{reply}")


def _print_stages() -> None:
    for entry in STAGES:
        print(f"{entry.name}: {entry.doc}")
        for name, default, kind, text in documentation(entry.settings):
            print(f"  {name} = {default!r}{f' ({kind})' if kind else ''}\n      {text}")


if __name__ == "__main__":
    sys.exit(main())
