"""From a section of the configuration to the settings of the part that uses it: fields of equal names are copied.

A test (tests/unit/test_house.py) holds both sides to the same names and defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from filterd.config.values import SocketAddress

T = TypeVar("T")


def filled(section: object, build: Callable[..., T]) -> T:
    """``build`` (a dataclass) with every field that ``section`` has too; socket addresses as text."""
    values: dict[str, object] = {}
    for entry in dataclasses.fields(build):  # type: ignore[arg-type]  # a dataclass, which is also how it is called
        if hasattr(section, entry.name):
            value = getattr(section, entry.name)
            values[entry.name] = str(value) if isinstance(value, SocketAddress) else value
    return build(**values)
