"""The schema as text: the long words of a key, the values in force, a complete sample file."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping

from filterd.config import schema
from filterd.config.values import Kind, Relay, nearest, show_duration, show_size

HIDDEN = '"(secret)"'
WIDTH = 100
RULES = (
    "One file in TOML; files in conf.d beside it are merged by key, arrays of tables appended, and one key set twice to "
    "different values is an error. FILTERD_SECTION__KEY in the environment wins. Relative paths start at the folder of "
    "the file. Secrets may be written file:PATH or env:NAME. `filterd config check` finds every mistake at once."
)


def toml_value(kind: Kind, value: object) -> str:
    """The value as one would write it in the file."""
    if kind is Kind.SECRETS and isinstance(value, tuple):
        return "[" + ", ".join(HIDDEN for _ in value) + "]"
    if kind is Kind.DURATION and isinstance(value, (int, float)):
        return f'"{show_duration(float(value))}"'
    if kind is Kind.DURATIONS and isinstance(value, tuple):
        return "[" + ", ".join(f'"{show_duration(float(item))}"' for item in value) + "]"
    if kind is Kind.SIZE and isinstance(value, int):
        return f'"{show_size(value)}"' if value else "0"
    if kind is Kind.WORKERS:
        return str(value) if value else '"auto"'
    if kind is Kind.SWITCH:
        return {"on": "true", "off": "false"}.get(str(value), '"auto"')
    if kind is Kind.RELAY:
        return f'"{value}"' if isinstance(value, Relay) else '""'
    return _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, Mapping) and not value:
        return "{}"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_plain(item)}" for key, item in value.items()) + " }"
    return json.dumps("" if value is None else str(value), ensure_ascii=False)


def explain(name: str) -> str | None:
    """Everything about one key or table; None when there is no such key."""
    wanted = name.replace("[[", "").replace("]]", "").strip("[]")
    found = [key for key in schema.all_keys() if key.name.replace("[]", "") == wanted.replace("[]", "")]
    if not found:
        return None
    key = found[0]
    lines = [
        key.name.replace("[]", ""),
        *textwrap.wrap(key.doc, WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]
    if key.section:
        inside = [
            inner for inner in schema.all_keys() if inner.name.startswith((f"{key.name}.", f"{key.name}[]."))
        ]
        lines += ["  Keys:"] + [
            f"    {inner.name.replace('[]', '')}" for inner in inside if not inner.section
        ]
        return "\n".join(lines)
    lines.append(f"  Holds:    {_holds(key)}")
    lines.append("  Required." if key.required else f"  Default:  {toml_value(key.kind, key.default)}")
    if "[]" not in key.name:
        lines.append(f"  In the environment: FILTERD_{key.name.upper().replace('.', '__')}")
    return "\n".join(lines)


def manual() -> str:
    """The manual's page of the whole configuration."""
    lines = ["# Every key of filterd.toml", "", *textwrap.wrap(RULES, WIDTH)]
    for key in schema.all_keys():
        if key.section:
            brackets = f"[[{key.name}]]" if key.kind is Kind.TABLES else f"[{key.name.replace('[]', '')}]"
            lines += ["", f"## {brackets}", "", *textwrap.wrap(key.doc, WIDTH), ""]
        else:
            default = "required" if key.required else f"default {toml_value(key.kind, key.default)}"
            text = f"- `{key.name.replace('[]', '')}`: {key.doc} Holds {_holds(key)}; {default}."
            lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _holds(key: schema.KeyInfo) -> str:
    if key.kind is Kind.CHOICE:
        return f"one of {', '.join(key.choices)}"
    if key.kind is Kind.CHOICES:
        return f"a list of {', '.join(key.choices)}"
    return str(key.kind.value)


def suggest(name: str) -> str:
    """A hint for a key that does not exist."""
    names = [key.name.replace("[]", "") for key in schema.all_keys()]
    ends = [known for known in names if known.rpartition(".")[2] == name]
    return f'did you mean "{ends[0]}"?' if ends else nearest(name, names)


def values(config: schema.Config) -> Iterator[tuple[str, str, str]]:
    """(key, value as TOML, origin) of everything in force; the origin is "default" for what nobody set."""
    yield from _values(config, config, "")


def _values(config: schema.Config, section: object, prefix: str) -> Iterator[tuple[str, str, str]]:
    for entry in dataclasses.fields(section):  # type: ignore[arg-type]  # always an instance of a section
        if "kind" not in entry.metadata:
            continue
        name, value, kind = prefix + entry.name, getattr(section, entry.name), entry.metadata["kind"]
        if kind is Kind.TABLES:
            for index, element in enumerate(value):
                yield from _values(config, element, f"{name}[{index}].")
        elif kind is Kind.TABLE and value is not None:
            yield from _values(config, value, f"{name}.")
        elif kind is not Kind.TABLE:
            yield name, toml_value(kind, value), config.origins.get(name, "default")


def sample() -> str:
    """A complete file: every key with its default, commented out, below its documentation."""
    lines = [
        "# filterd.toml: only server.hostname and one [[domain]] are required; everything else shows its default.",
        "# `filterd config explain KEY` says more, `filterd config check` looks for mistakes.",
        "",
    ]
    table = ""
    for key in schema.all_keys():
        if key.section:
            if not any(
                _directly_in(inner.name, key.name) for inner in schema.all_keys() if not inner.section
            ):
                continue
            head = key.name.replace("[]", "")
            bare = f"[[{head}]]" if key.kind is Kind.TABLES else f"[{head}]"
            optional = key.name not in ("server", "domain")
            example = (
                optional and key.kind is Kind.TABLES
            )  # there may be none: shown, not to be uncommented as it is
            lines += ["", *_comment(key.doc), f"{'##' if example else '#'} {bare}" if optional else bare]
            table = head
            continue
        name = key.name.replace("[]", "").removeprefix(f"{table}." if table else "")
        lines += _comment(f"{key.doc} ({_holds(key)})")
        if "[]" in key.name and not key.name.startswith("domain[]"):
            lines.append(f"## {name} = {toml_value(key.kind, key.default)}")
        elif key.required and "dkim" not in key.name:
            lines.append(f'{name} = "{"mail.example.org" if name == "hostname" else "example.org"}"')
        else:
            lines.append(f"# {name} = {toml_value(key.kind, key.default)}")
    return "\n".join(lines) + "\n"


def _directly_in(name: str, table: str) -> bool:
    return name.rpartition(".")[0] in (table, f"{table}[]")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="## ", subsequent_indent="## ")
