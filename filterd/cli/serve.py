"""Run the mail server in the foreground: every listener of the configuration, the queue, all in one process group.

Examples:
  filterd serve -c filterd.toml
  filterd serve                          uses ./filterd.toml or /etc/filterd/filterd.toml
  kill -HUP $(cat DATA_DIR/run/filterd.pid)      replaces the workers, ends no session that is busy

See also: filterd help serve
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import socket
import sys
from pathlib import Path

import filterd
from filterd.cli import CliError
from filterd.cli.options import add_config, load_config


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="do not print the listeners")


def run(arguments: argparse.Namespace) -> int:
    from filterd import workers

    workers.hold_reload()
    config = load_config(arguments)
    check_packages()
    from filterd import app, log

    log.configure(config.log.format, config.log.level)

    def announce(sockets: list[tuple[str, socket.socket]]) -> None:
        if arguments.quiet:
            return
        for name, sock in sockets:
            print(f"{name:<12} {_shown(sock)}", file=sys.stderr)
        print(f"{config.server.hostname} is serving; stop it with Ctrl-C", file=sys.stderr, flush=True)

    try:
        return app.serve(config, announce)
    except OSError as error:
        with contextlib.suppress(IndexError):
            raise CliError(str(error.args[1]), 78) from None
        raise CliError(str(error), 78) from None


def check_packages() -> None:
    """Our other two packages must be ours: `rules` and `pipeline` are names that another distribution may own too."""
    ours = Path(filterd.__file__).parent.parent
    for name in ("pipeline", "rules"):
        found = importlib.util.find_spec(name)
        origin = found.origin if found is not None else None
        if origin is None or Path(origin).parent.parent != ours:
            raise CliError(
                f"the package “{name}” that Python finds here ({origin}) is not filterd's: give filterd an environment of its own",
                78,
            )


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return f"unix:{name}"
