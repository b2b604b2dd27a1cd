"""Arguments that many commands share, and what they lead to: the configuration, output as JSON, passwords."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Mapping, Sequence

from filterd.cli import USAGE, CliError
from filterd.config.errors import ConfigErrors, render
from filterd.config.load import load
from filterd.config.schema import Config

FILE_NAME = "filterd.toml"
SYSTEM_FILE = "/etc/filterd/filterd.toml"


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"the configuration (default: $FILTERD_CONFIG, ./{FILE_NAME}, ...)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def config_path(named: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The file named, or the first of the usual ones that exists. Raises CliError."""
    environment = os.environ if environ is None else environ
    if named or environment.get("FILTERD_CONFIG"):
        return named or environment["FILTERD_CONFIG"]
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME", ""), ".config")
    for path in (FILE_NAME, os.path.join(home, "filterd", FILE_NAME), SYSTEM_FILE):
        if os.path.exists(path):
            return path
    raise CliError(
        "no configuration found; name it with: -c FILE   (`filterd config sample` prints one to start from)"
    )


def load_config(arguments: argparse.Namespace) -> Config:
    """The checked configuration; its problems are printed and end the command with 2."""
    try:
        config = load(config_path(arguments.config))
    except ConfigErrors as error:
        print(render(error.errors), file=sys.stderr)
        count = len(error.errors)
        problems = f"{count} problem{'s' if count > 1 else ''}"
        raise CliError(f"{problems} in the configuration; nothing was done", USAGE) from None
    return config


def print_json(value: Mapping[str, object] | Sequence[object]) -> None:
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    print()


def read_password(from_stdin: bool) -> str | None:
    """The password of ``--password-stdin`` (its first line), else None: one is to be made up. Raises CliError."""
    if not from_stdin:
        return None
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            raise CliError("the two differ; nothing was done")
    else:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    if not password:
        raise CliError("the password is empty; nothing was done")
    return password


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost; without a terminal only ``--yes`` agrees. Raises CliError."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"{question} Say --yes to agree.")
    print(f"{question} [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CliError("nothing was done", 1)
