"""Run the administrator's programs for filter scripts (pipe, filter, execute), in a service apart from the mail.

The service listens on exec.socket and runs the files in exec.directory, nothing else: without the network, without a way to
the mail, with limits of time, memory and output, as the user exec.user when started as root. Start it before the server:
the server offers scripts these commands when it finds the service. `filterd-exec` is the same as `filterd exec serve`.

Examples:
  filterd exec serve -c /etc/filterd.toml       the service, in the foreground
  filterd exec list                             the programs that scripts may name
  filterd exec run spell-check -- -v < mail.eml ask the running service, as a script would

See also: filterd help sieve, filterd sieve
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence

from filterd.cli import FOUND, OK, TRY_AGAIN, CliError
from filterd.cli.options import add_config, load_config
from filterd.config.schema import Config
from filterd.execisolation import ProgramLimits
from filterd.handover import server_user

MAX_INPUT = 64 << 20
PROGRAM = "filterd-exec"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    serve_ = actions.add_parser("serve", help="be the service, in the foreground")
    add_config(serve_)
    add_config(actions.add_parser("list", help="the programs that scripts may name"))
    one = actions.add_parser("run", help="ask the service to run a program; its input is standard input")
    one.add_argument("program", metavar="PROGRAM")
    one.add_argument("words", nargs="*", metavar="ARGUMENT")
    add_config(one)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    if arguments.action == "serve":
        return serve(config)
    if arguments.action == "list":
        return listing(config)
    return ask(config, arguments.program, arguments.words)


def main(argv: Sequence[str] | None = None) -> int:
    """``filterd-exec [-c FILE]``"""
    from filterd.__main__ import main as whole

    return whole(["exec", "serve", *(sys.argv[1:] if argv is None else argv)])


def serve(config: Config) -> int:
    """Until SIGTERM. Refused where programs could reach the network or the mail (exec.isolation)."""
    from filterd import log
    from filterd.app import stop_event
    from filterd.execisolation import CannotIsolate, isolate
    from filterd.execservice import ExecService, without_threads

    _checked(config)
    log.configure(config.log.format, config.log.level)
    os.makedirs(config.server.data_dir, mode=0o700, exist_ok=True)
    sock = listen(config)
    try:
        missing = isolate(config.exec.user, config.server.data_dir)
    except CannotIsolate as error:
        raise CliError(str(error), 78) from None
    if missing and config.exec.isolation == "required":
        text = f"this system does not let us take away from programs: {', '.join(missing)}"
        raise CliError(
            f"{text}. Start as root with exec.user, or bear it with exec.isolation = best-effort", 78
        )
    for one in missing:
        print(f"filterd-exec: not taken away from programs: {one}", file=sys.stderr)
    work = config.server.data_dir if "the mail" not in " ".join(missing) and _is_empty(config) else ""
    service = ExecService(config.exec.directory, _limits(config), work)
    without_threads()

    async def serving() -> int:
        print(f"filterd-exec listens on {config.exec.socket}", file=sys.stderr, flush=True)
        await service.serve(sock, stop_event())
        return OK

    return asyncio.run(serving())


def _is_empty(config: Config) -> bool:
    """Is ``data_dir`` the empty place that covers it now?"""
    with contextlib.suppress(OSError):
        return not os.listdir(config.server.data_dir)
    return False


def _limits(config: Config) -> ProgramLimits:
    return ProgramLimits(config.exec.timeout, config.exec.memory, output=config.exec.output)


def _checked(config: Config) -> None:
    if not config.exec.socket or not config.exec.directory:
        raise CliError("set exec.socket and exec.directory in the configuration", 78)
    if not os.path.isdir(config.exec.directory):
        raise CliError(f"exec.directory: there is no folder {config.exec.directory}", 78)
    root = os.path.realpath(config.server.data_dir)
    if os.path.commonpath((os.path.realpath(config.exec.directory), root)) == root:
        raise CliError("exec.directory must not lie below data_dir, which programs do not see", 78)


def listen(config: Config) -> socket.socket:
    """The socket is the mail server's: nobody else may ask."""
    from filterd.net.listen import ListenAddress, bind

    path = config.exec.socket
    try:
        owner = server_user(config)
    except OSError as error:
        raise CliError(str(error.strerror), 78) from None
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        sock = bind(ListenAddress(path=path), mode=0o600)
        if owner is not None:
            os.chown(path, owner.pw_uid, owner.pw_gid)
    except OSError as error:
        raise CliError(f"exec.socket {path}: {error.strerror or error}", 78) from None
    return sock


def listing(config: Config) -> int:
    from filterd.execservice import ExecService

    _checked(config)
    service = ExecService(config.exec.directory)
    names = sorted(os.listdir(config.exec.directory))
    for name in names:
        if service.find(name):
            print(name)
        else:
            print(f"{name}: not run (no executable file, or others may write it)", file=sys.stderr)
    return OK


def ask(config: Config, program: str, words: Sequence[str]) -> int:
    """The program's output; its exit status, 75 when the service cannot be reached."""
    from filterd.execclient import ExecClient, reachable

    if not config.exec.socket or not reachable(config.exec.socket):
        raise CliError("the service cannot be reached: is `filterd exec serve` running?", TRY_AGAIN)
    data = b"" if sys.stdin.isatty() else sys.stdin.buffer.read(MAX_INPUT)

    async def asking() -> tuple[int, bytes] | None:
        client = ExecClient(config.exec.socket, config.exec.timeout, config.exec.output)
        return await client.run(program, words, data, {})

    answer = asyncio.run(asking())
    if answer is None:
        raise CliError(f"there is no program {program}", FOUND)
    status, output = answer
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    if status < 0:
        raise CliError("the program was ended before its own end: see the service's log", FOUND)
    return status
