"""Run the mail server in the foreground: every listener of the configuration, the queue, all in one process group.

Examples:
  filterd serve -c filterd.toml
  filterd serve                          uses ./filterd.toml or /etc/filterd/filterd.toml
  kill -HUP $(cat DATA_DIR/run/filterd.pid)      replaces the workers, ends no session that is busy

See also: filterd help serve
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import socket
import ssl
import sys
from pathlib import Path

import filterd
from filterd.cli import CliError
from filterd.cli.options import add_config, load_config
from filterd.config import pair
from filterd.config.schema import Config


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
        raise CliError(why_not(error, config), 78) from None


def why_not(error: OSError, config: Config) -> str:
    """Why the server does not start, and what to do about it."""
    if isinstance(error, ssl.SSLError):
        found = pair.fault(config.tls.cert, config.tls.key) if config.tls.mode == "files" else None
        return f"tls.{found[0]} {found[1]}" if found else f"the certificate cannot be used: {error}"
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if error.filename is not None:
        text = f"{error.filename}: {text}"
    if config.tls.mode == "files" and error.errno == errno.EACCES and error.filename is None:
        shut = [path for path in (config.tls.cert, config.tls.key) if not os.access(path, os.R_OK)]
        if shut:
            who = config.server.user or "who runs this"
            return f"{shut[0]}: {text}; {who} must be able to read it, and its folder (chgrp and chmod g+r; setfacl)"
    listening = text.startswith("cannot listen")
    match error.errno:
        case errno.EADDRINUSE:
            hint = "another program has that port (`ss -ltnp` names it; does filterd run already?), or name another in [listen]"
        case errno.EADDRNOTAVAIL if listening:
            hint = "this machine does not have that address: see [listen]"
        case errno.EACCES | errno.EPERM if listening:
            hint = "ports below 1024 are for root: start as root with server.user, or take sockets of systemd (fd:NAME)"
        case errno.ENOENT if listening:
            hint = "make the folder, or write another path into [listen]"
        case errno.EACCES | errno.EPERM:
            who = config.server.user if os.geteuid() == 0 or config.server.user else "who runs this"
            hint = f"give it to {who or 'root'} (chown -R), or name another folder with server.data_dir"
        case errno.EEXIST | errno.ENOTDIR:
            hint = "a folder is needed there: see server.data_dir"
        case errno.ENOSPC | errno.EDQUOT:
            hint = f"make room on the disk of {config.server.data_dir}"
        case errno.EROFS:
            hint = "that file system is read-only: see server.data_dir"
        case _:
            hint = ""
    return f"{text}; {hint}" if hint else text


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
