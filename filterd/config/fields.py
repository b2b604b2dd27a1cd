"""How a key of the configuration is declared: a dataclass field that carries its documentation and kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import TypeVar, cast

from filterd.config.values import Kind

T = TypeVar("T")


def setting(default: T, doc: str, kind: Kind, *, choices: tuple[str, ...] = (), required: bool = False) -> T:
    """A field with its documentation; ``required`` keys have no usable default."""
    metadata = {"doc": doc, "kind": kind, "choices": choices, "required": required}
    if isinstance(default, (dict, MappingProxyType)):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def table(section: Callable[[], T], doc: str) -> T:
    """A table of its own: ``[section]``, or an inline table."""
    metadata = {"doc": doc, "kind": Kind.TABLE, "section": section}
    return dataclasses.field(default_factory=section, metadata=metadata)


def tables(section: Callable[[], T], doc: str, *, optional: bool = False) -> tuple[T, ...]:
    """An array of tables: ``[[section]]``; at least one unless ``optional``."""
    metadata = {"doc": doc, "kind": Kind.TABLES, "section": section, "optional": optional}
    return cast("tuple[T, ...]", dataclasses.field(default=(), metadata=metadata))
