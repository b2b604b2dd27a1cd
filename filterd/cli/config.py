"""Check, show, explain and change the configuration.

Examples:
  filterd config check -c filterd.toml        every mistake, with line and column
  filterd config show --origin                the values in force and where each came from
  filterd config explain stage.clamav.found   what a key means
  filterd config sample > filterd.toml        a complete file to start from
  filterd config get limits.recipients        one value; where it comes from on standard error
  filterd config set limits.recipients 200    checked first; the file keeps its comments and order
  filterd config diff old.toml new.toml       what the second says otherwise
  filterd config schema > filterd.schema.json JSON Schema, for editors
  filterd config import postfix dovecot       a new file from theirs; every line is accounted for

See also: filterd help changing, filterd help configuration
"""

from __future__ import annotations

import argparse
import dataclasses

from filterd.cli import FOUND, OK, USAGE, CliError
from filterd.cli.options import add_config, add_json, config_path, load_config, print_json
from filterd.config import describe, schema
from filterd.config.errors import ConfigErrors, Problem, render
from filterd.config.load import load


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="look for mistakes; exit 1 when there are any")
    add_config(check)
    add_json(check)
    show = actions.add_parser("show", help="the values in force")
    add_config(show)
    add_json(show)
    show.add_argument("--origin", action="store_true", help="also where each value came from")
    show.add_argument("key", nargs="?", default="", metavar="KEY", help="only this key or section")
    explain = actions.add_parser("explain", aliases=["docs"], help="what keys mean; without KEY, all of them")
    explain.add_argument("key", nargs="?", default="", metavar="KEY")
    actions.add_parser("sample", help="a complete file with every key and its default")
    _configure_changes(actions)


def _configure_changes(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from filterd.cli import configimport

    get = actions.add_parser("get", help="one value in force; where it comes from goes to standard error")
    get.add_argument(
        "key", metavar="KEY", help='such as limits.recipients or "domain[example.org].catch_all"'
    )
    get.add_argument("-q", "--quiet", action="store_true", help="only the value")
    set_ = actions.add_parser(
        "set", help="change values in the file, when `config check` has nothing against it"
    )
    set_.add_argument("words", nargs="+", metavar="KEY VALUE", help='a list is written a,b or ["a", "b"]')
    unset = actions.add_parser("unset", help="take keys out of the file: their defaults hold again")
    unset.add_argument("words", nargs="+", metavar="KEY")
    actions.add_parser("schema", help="JSON Schema (2020-12) of filterd.toml, for editors")
    diff = actions.add_parser(
        "diff", help="what differs from the defaults, or between two files (then exit 1)"
    )
    diff.add_argument("files", nargs="*", metavar="FILE")
    migrate = actions.add_parser("migrate", help="lift old spellings; shows what it would do")
    migrate.add_argument("--write", action="store_true", help="and do it")
    importing = actions.add_parser(
        "import", help="a filterd.toml from the files of Postfix, Dovecot, OpenDKIM, ..."
    )
    configimport.configure(importing)
    for one in (get, set_, unset, diff, migrate):
        add_config(one)
    for one in (get, diff):
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action in ("get", "set", "unset"):
        from filterd.cli import configedit

        one = {"get": configedit.get, "set": configedit.put, "unset": configedit.take_out}
        return one[arguments.action](arguments)
    if arguments.action == "import":
        from filterd.cli import configimport

        return configimport.run(arguments)
    if arguments.action in ("schema", "diff", "migrate"):
        from filterd.cli import configdiff

        other = {"schema": configdiff.schema_, "diff": configdiff.diff, "migrate": configdiff.lift}
        return other[arguments.action](arguments)
    if arguments.action == "check":
        return check(arguments)
    if arguments.action == "show":
        return show(arguments)
    if arguments.action == "sample":
        print(describe.sample(), end="")
        return OK
    return explain(arguments.key)


def check(arguments: argparse.Namespace) -> int:
    path = config_path(arguments.config)
    try:
        problems: tuple[Problem, ...] = ()
        config = load(path)
        problems, warnings = unusable(config, path), config.warnings
    except ConfigErrors as error:
        problems, warnings = error.errors, ()
    if arguments.json:
        print_json(
            [_as_json(problem, "error") for problem in problems] + [_as_json(w, "warning") for w in warnings]
        )
        return FOUND if problems else OK
    if problems or warnings:
        print(render([*problems, *warnings]))
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        print(f"{count}. Nothing was changed; a running server keeps its old configuration.")
        return FOUND
    noted = f", {len(warnings)} remark{'s' if len(warnings) > 1 else ''}" if warnings else ""
    print(f"{path} is fine{noted}.")
    return OK


def unusable(config: schema.Config, path: str) -> tuple[Problem, ...]:
    """What of the certificate, the DKIM keys and tables, and the milter door's scripts the server could not start with."""
    from filterd import app, milter_profile, signing
    from filterd.config import pair

    scripts = tuple(milter_profile.problems(config, config.listen.milter, app.sieve_limits(config)))
    if config.tls.mode == "files" and (found := pair.fault(config.tls.cert, config.tls.key)) is not None:
        name, text = found
        about = f'tls.{name} = "{getattr(config.tls, name)}"'
        scripts = (_placed(config, path, f"tls.{name}", "bad value", about, text), *scripts)
    try:
        signing.keyring(config)
    except signing.SigningProblem as problem:
        return (Problem(path, 0, 0, "bad value", "dkim", str(problem)), *scripts)
    return scripts


def _placed(config: schema.Config, path: str, key: str, kind: str, about: str, text: str) -> Problem:
    """With the line where the key is set."""
    file, _, line = config.origins.get(key, path).rpartition(":")
    return (
        Problem(file, int(line), 1, kind, about, text)
        if line.isdecimal()
        else Problem(path, 0, 0, kind, about, text)
    )


def show(arguments: argparse.Namespace) -> int:
    wanted = arguments.key
    rows = [
        row
        for row in describe.values(load_config(arguments))
        if not wanted or row[0] == wanted or row[0].startswith((f"{wanted}.", f"{wanted}["))
    ]
    if not rows:
        raise CliError(f'nothing is set under "{wanted}"; {describe.suggest(wanted)}'.rstrip("; "))
    if arguments.json:
        print_json({key: {"value": value, "origin": origin} for key, value, origin in rows})
        return OK
    width = max(len(f"{key} = {value}") for key, value, _ in rows)
    for key, value, origin in rows:
        line = f"{key} = {value}"
        print(f"{line:<{min(width, 60)}}  # {origin}" if arguments.origin else line)
    return OK


def explain(key: str) -> int:
    if not key:
        names = [entry.name for entry in schema.all_keys() if not entry.section]
        print("\n\n".join(text for name in names if (text := describe.explain(name))))
        return OK
    text = describe.explain(key)
    if text is None:
        raise CliError(f'there is no key "{key}"; {describe.suggest(key)}'.rstrip("; "), USAGE)
    print(text)
    return OK


def _as_json(problem: Problem, severity: str) -> dict[str, object]:
    return {"severity": severity, **dataclasses.asdict(problem)}
