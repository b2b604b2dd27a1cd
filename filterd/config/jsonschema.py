"""The whole schema as JSON Schema (2020-12), for editors that complete and check TOML (Taplo, Even Better TOML).

It says what one file may hold by itself: names, types, choices, and how values are written. What only the whole shows
(clashes, absent files) is `filterd config check`'s. A file in conf.d need not have what is required; everything else holds.
"""

from __future__ import annotations

import re
import tomllib

from filterd.config import schema
from filterd.config.describe import toml_value
from filterd.config.values import ALIAS_KINDS, Kind

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Node = dict[str, object]

_SIZE = r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?[bB]|[kKmMgGtTbB])?\s*$"
_DURATION = r"^(\s*[0-9]+(\.[0-9]+)?\s*([mM][sS]|[sS]([eE][cC])?|[mM]([iI][nN])?|[hHdDwW])\s*)+$"
_ADDRESS = r"^[^\s<]+@[^\s<@]+$"
_ANY_CASE = {"auto": "[aA][uU][tT][oO]", "on": "[oO][nN]", "off": "[oO][fF][fF]"}
_TEXT: Node = {"type": "string"}
_COUNT: Node = {"type": "integer", "minimum": 0}
_PLACE = r"inet6?:.+|.*:[0-9]{1,5}"


def document() -> Node:
    """The schema of filterd.toml."""
    root: Node = {
        "$schema": DIALECT,
        "title": "filterd.toml",
        "description": "The configuration of filterd. `filterd config check` also finds what only the whole file shows.",
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    tables: dict[str, Node] = {"": root}
    for key in schema.all_keys():
        above, _, name = key.name.rpartition(".")
        parent = tables[above]
        node: Node
        if key.section:
            table: Node = {
                "type": "object",
                "description": key.doc,
                "properties": {},
                "additionalProperties": False,
            }
            is_array = key.kind is Kind.TABLES
            tables[f"{key.name}[]" if is_array else key.name] = table
            node = {"type": "array", "description": key.doc, "items": table} if is_array else table
        else:
            node = {"description": f"{key.doc} Holds {key.kind.value}.", **_value(key)}
            if not key.required:
                node["default"] = tomllib.loads(f"x = {toml_value(key.kind, key.default)}")["x"]
        properties = parent["properties"]
        assert isinstance(properties, dict)
        properties[name] = node
        if key.required or (name in ("server", "domain") and not above):
            required = parent.setdefault("required", [])
            assert isinstance(required, list)
            required.append(name)
            if key.kind is Kind.TABLES:
                node["minItems"] = 1
    return root


def _value(key: schema.KeyInfo) -> Node:
    kind = key.kind
    if kind is Kind.CHOICE:
        return {"enum": list(key.choices)}
    if kind is Kind.CHOICES:
        return _one_or_list({"enum": list(key.choices)})
    if key.name == "version":
        return {"const": schema.VERSION}
    return _KINDS[kind]


def _one_or_list(item: Node) -> Node:
    """A list; one entry needs no brackets, and "" is an empty list."""
    return {"anyOf": [{"type": "array", "items": item}, item, {"const": ""}]}


def _matching(pattern: str) -> Node:
    return {"type": "string", "pattern": pattern}


_UNIX = "unix:.+|local:.+|/.+"
_KINDS: dict[Kind, Node] = {
    Kind.TEXT: _TEXT,
    Kind.PATH: _TEXT,
    Kind.FLAG: {"type": "boolean"},
    Kind.COUNT: _COUNT,
    Kind.NUMBER: {"type": "number"},
    Kind.SIZE: {"anyOf": [_COUNT, _matching(_SIZE)]},
    Kind.DURATION: _matching(_DURATION),
    Kind.DURATIONS: _one_or_list(_matching(_DURATION)),
    Kind.SWITCH: {"anyOf": [{"type": "boolean"}, _matching(f"^({'|'.join(_ANY_CASE.values())})$")]},
    Kind.TEXTS: _one_or_list(_TEXT),
    Kind.PATHS: _one_or_list(_TEXT),
    Kind.SECRETS: _one_or_list(_TEXT),
    Kind.NETWORKS: _one_or_list(_TEXT),
    Kind.LISTEN: _one_or_list(_matching(f"^({_UNIX}|fd:.+|{_PLACE})$")),
    Kind.SERVERS: _one_or_list(_matching(f"^({_PLACE})$")),
    Kind.SOCKET: _matching(f"^({_UNIX}|{_PLACE})$"),
    Kind.WORKERS: {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]},
    Kind.RELAY: _matching(r"^$|^(smtp|smtps|lmtp):(unix:|//).+$"),
    Kind.HOSTNAME: _matching(r"^[^\s@/:]+$"),
    Kind.ADDRESS: _matching(rf"^$|{_ADDRESS}"),
    Kind.RECIPIENTS: _one_or_list(_TEXT),
    Kind.ROUTED: _one_or_list(_matching(r"^(<>|[^\s<]+)$")),
    Kind.SOURCES: _one_or_list(_matching(r"^[0-9a-fA-F:.]+(%.+)?$")),
    Kind.ALIAS_FILES: _one_or_list(_matching(rf"^({'|'.join(map(re.escape, ALIAS_KINDS))}):.+$")),
    Kind.ALIASES: {
        "type": "object",
        "propertyNames": {"pattern": r"^[^@\s]+$"},
        "additionalProperties": {
            "anyOf": [
                _matching(_ADDRESS),
                {"type": "array", "items": _matching(_ADDRESS), "minItems": 1},
            ]
        },
    },
}
