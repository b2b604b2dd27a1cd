"""Serve one door: the mail filter that Postfix, Sendmail and others ask by the milter protocol.

The stages, keys, limits and traces are those of the configuration; its other listeners stay closed, nothing is sent or
stored. SOCKET is unix:PATH, HOST:PORT or inet:PORT@HOST; without one, listen.milter of the configuration counts.

Examples:
  filterd milter                                   as listen.milter says
  filterd milter unix:/run/filterd/milter.sock     Postfix: smtpd_milters = unix:/run/filterd/milter.sock
  filterd milter inet:8891@127.0.0.1 -c test.toml  Postfix: smtpd_milters = inet:127.0.0.1:8891

See also: filterd help milter, filterd explain
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from filterd.cli import CliError
from filterd.cli.options import add_config, load_config
from filterd.config.errors import ConfigErrors, render
from filterd.config.schema import Config
from filterd.config.values import BadValue, SocketAddress, socket_address

PID_FILE = "milter.pid"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("socket", nargs="?", metavar="SOCKET", default="", help="where to listen")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not print the listener")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    addresses = _addresses(arguments.socket, config)
    from filterd import app, log, milter_profile
    from filterd.cli.serve import why_not
    from filterd.doors import certificate
    from filterd.handover import make_folders
    from filterd.workers import Group, Role, Serving

    try:
        milter_profile.refuse(config, addresses, app.sieve_limits(config))
    except ConfigErrors as error:
        print(render(error.errors), file=sys.stderr)
        raise CliError("the scripts cannot run here; nothing was started", 78) from None
    log.configure(config.log.format, config.log.level)
    root = app.data_dir(config)
    try:
        make_folders(config, root / "run", root / "queue", root / "mail")
        sockets = [("milter", app.bind(address)) for address in addresses]
        app.drop_rights(config)
        certificate(config)  # made once, before there are several of us to make it
    except OSError as error:
        raise CliError(why_not(error, config), 78) from None

    def one(index: int) -> Callable[[Serving], int]:
        return lambda serving: app.run_loop(app.worker(config, sockets, index, serving=serving))

    def announce() -> None:
        if not arguments.quiet:
            for _, sock in sockets:
                for line in spellings(sock):
                    print(line, file=sys.stderr, flush=True)

    count = config.server.workers or os.cpu_count() or 1
    roles = [Role(f"milter-{index}", one(index)) for index in range(count)]
    return Group(roles, Path(root) / "run" / PID_FILE, ready=announce).run()


def _addresses(named: str, config: Config) -> tuple[SocketAddress, ...]:
    if not named:
        if not config.listen.milter:
            raise CliError("where? name a socket, or set listen.milter in the configuration")
        return config.listen.milter
    try:
        address = socket_address(named)
    except BadValue as error:
        raise CliError(f"{named}: {error}") from None
    return (SocketAddress(path=os.path.abspath(address.path)) if address.path else address,)


def spellings(sock: socket.socket) -> list[str]:
    """Where we listen, as each MTA wants it written."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return [
            f"Postfix    smtpd_milters = unix:{name}",
            f"Sendmail   INPUT_MAIL_FILTER(`filterd', `S=local:{name}, F=T, T=R:30s;E:2m')",
        ]
    host, port = (name[0] if name[0] not in ("::", "0.0.0.0") else "127.0.0.1"), name[1]
    kind = "inet6" if ":" in host else "inet"
    return [
        f"Postfix    smtpd_milters = inet:{f'[{host}]' if ':' in host else host}:{port}",
        f"Sendmail   INPUT_MAIL_FILTER(`filterd', `S={kind}:{port}@{host}, F=T, T=R:30s;E:2m')",
    ]
