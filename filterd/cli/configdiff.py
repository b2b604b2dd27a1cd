"""`filterd config diff`, `schema` and `migrate`: the configuration beside the defaults, another file, an older spelling."""

from __future__ import annotations

import argparse
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from filterd.cli import FOUND, OK, USAGE, CliError
from filterd.cli.configedit import alone, plain_value, replace
from filterd.cli.options import config_path, load_config, print_json
from filterd.config import describe, schema
from filterd.config.describe import HIDDEN
from filterd.config.edit import CannotEdit, steps
from filterd.config.errors import ConfigErrors, render
from filterd.config.jsonschema import document
from filterd.config.load import files, load
from filterd.config.migrate import migrate
from filterd.config.values import Kind, Relay

Row = tuple[str, str]  # value as TOML, origin


def diff(arguments: argparse.Namespace) -> int:
    """One file (or none): what it changes of the defaults. Two: what the second says otherwise; 1 when there is any."""
    if len(arguments.files) > 2:
        raise CliError("give no file, one or two", USAGE)
    if len(arguments.files) < 2:
        arguments.config = (arguments.files or [arguments.config])[0]
        return _against_defaults(load_config(arguments), arguments.json)
    first, second = (_read(name) for name in arguments.files)
    old, new = (dict(_rows(config)) for config in (first, second))
    keys = [*old, *(key for key in new if key not in old)]
    hidden = [dict(_hidden(config)) for config in (first, second)]
    changes = [
        key
        for key in keys
        if old.get(key, ("", ""))[0] != new.get(key, ("", ""))[0] or hidden[0].get(key) != hidden[1].get(key)
    ]
    if arguments.json:
        print_json({key: {"old": _data(old.get(key)), "new": _data(new.get(key))} for key in changes})
    else:
        for key in changes:
            for sign, rows in (("-", old), ("+", new)):
                if key in rows:
                    print(f"{sign} {key} = {rows[key][0]}  # {rows[key][1]}")
    return FOUND if changes else OK


def _against_defaults(config: schema.Config, as_json: bool) -> int:
    defaults = {key.name: key for key in schema.all_keys() if not key.section}
    out: dict[str, object] = {}
    for name, value, origin in describe.values(config):
        key = defaults[re.sub(r"\[\d+\]", "[]", name)]
        usual = "" if key.required else describe.toml_value(key.kind, key.default)
        if origin == "default" or value == usual:
            continue
        out[name] = {"value": plain_value(value), "default": plain_value(usual or '""'), "origin": origin}
        if not as_json:
            print(f"{name} = {value}  # {origin}; " + ("required" if key.required else f"default {usual}"))
    if as_json:
        print_json(out)
    return OK


def _read(name: str) -> schema.Config:
    try:
        return load(name)
    except ConfigErrors as error:
        raise CliError(f"{render(error.errors)}\n{name} is not right; nothing was compared", USAGE) from None


def _rows(config: schema.Config) -> Iterator[tuple[str, Row]]:
    """Tables by their names, and paths from the folder of the file: the same where two files mean the same."""
    base = os.path.dirname(os.path.abspath(config.path))
    for key, value, origin in describe.values(config):
        yield _named(key, config), (value.replace(f'"{base}/', '"').replace(f"unix:{base}/", "unix:"), origin)


def _hidden(config: schema.Config) -> Iterator[tuple[str, object]]:
    """What the rows do not show, to be compared only: secrets, and the passwords of relays."""
    for key, _, _ in describe.values(config):
        at: object = config
        for part in steps(key):
            at = at[part] if isinstance(part, int) else getattr(at, str(part))  # type: ignore[index]  # a tuple
        if isinstance(at, Relay):
            yield _named(key, config), at.password
        elif HIDDEN.strip('"') in describe.toml_value(_kind(key), at):
            yield _named(key, config), at


def _kind(key: str) -> Kind:
    name = re.sub(r"\[\d+\]", "[]", key)
    return next(one.kind for one in schema.all_keys() if one.name == name)


def _named(key: str, config: schema.Config) -> str:
    match = re.match(r"(domain|stage\.milters)\[(\d+)\]", key)
    if match is None:
        return key
    elements = config.domain if match[1] == "domain" else config.stage.milters
    return f"{match[1]}[{elements[int(match[2])].name}]{key[match.end() :]}"


def _data(row: Row | None) -> object:
    return None if row is None else plain_value(row[0])


def schema_(_: argparse.Namespace) -> int:
    print(json.dumps(document(), ensure_ascii=False, indent=2))
    return OK


def lift(arguments: argparse.Namespace) -> int:
    """Old spellings in all files; written only with --write. 1 = something is left for a person."""
    main = config_path(arguments.config)
    left = False
    lifted: dict[str, bytes] = {}  # written when all files were understood
    with alone(main):
        for name in files(main):
            try:
                text = Path(name).read_text("utf-8")
                new, steps = migrate(text)
            except FileNotFoundError:
                raise CliError(f"{name}: there is no such file; name yours with: -c FILE", USAGE) from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise CliError(
                    f"{name}: {error}; mend this by hand first, nothing was changed", USAGE
                ) from None
            except CannotEdit as error:
                raise CliError(f"{name}: {error}; nothing was changed", USAGE) from None
            for step in steps:
                print(f"{name}:{step.line}  {'lifted' if step.done else 'left'}  {step.text}")
                left = left or not step.done
            if new == text:
                print(f"{name}: version {schema.VERSION}, today's spellings; nothing to lift")
            elif arguments.write:
                lifted[name] = new.encode("utf-8")
            else:
                print(f"{name} would change; nothing was written (--write does it)")
        for name, data in lifted.items():
            replace(name, data)
            print(f"{name} is written. `filterd config check` tells what else it thinks")
    return FOUND if left else OK
