"""Variables: their names, the strings that use them, and the values of one script.

Specification: RFC 5229 sections 3 (references), 3.1 (quoting), 3.2 (match variables), 6 (limits). A reference
that is not well-formed is plain text. Names are compared without case. Assigned values are cut to the limit
at a character's boundary; no operation can make more than the limits say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.errors import RunError
from rules.limits import MATCH_VALUES, Limits

if TYPE_CHECKING:
    from rules.context import Run
    from rules.registry import Namespace

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\{{((?:{_NAME}\.)*(?:{_NAME}|[0-9]+)|[0-9]+)\}}", re.ASCII)
_VARIABLE = re.compile(rf"{_NAME}(?:\.{_NAME})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Match:
    """``${1}``"""

    index: int


@dataclass(frozen=True, slots=True)
class Local:
    """``${name}``, in lower case"""

    name: str


@dataclass(frozen=True, slots=True)
class Outer:
    """``${namespace.name}``"""

    namespace: Namespace
    name: str


Reference = Match | Local | Outer


class Template:
    """A string with references, to be put together when it is used."""

    __slots__ = ("parts", "source")

    def __init__(self, parts: tuple[str | Reference, ...], source: str) -> None:
        self.parts = parts
        self.source = source

    def expand(self, run: Run) -> str:
        """The string with the current values."""
        out: list[str] = []
        for part in self.parts:
            match part:
                case str():
                    out.append(part)
                case Match(index):
                    matched = run.variables.matched
                    out.append(matched[index] if index < len(matched) else "")
                case Local(name):
                    out.append(run.variables.get(name))
                case Outer(namespace, name):
                    out.append(namespace.read(run, name))
        text = "".join(out)
        if len(text) > run.limits.expanded_size:
            raise RunError("a string became too long by the variables in it")
        return text

    def __repr__(self) -> str:
        return f"Template({self.source!r})"


def parse_template(
    text: str, namespaces: dict[str, Namespace], limits: Limits, faults: list[str]
) -> str | Template:
    """The text as it is, or a template; errors (unknown namespace, index out of range) are appended to ``faults``."""
    parts: list[str | Reference] = []
    last = 0
    for found in _REFERENCE.finditer(text):
        reference = _reference(found[1], namespaces, limits, faults)
        if reference is None:
            continue
        if found.start() > last:
            parts.append(text[last : found.start()])
        parts.append(reference)
        last = found.end()
    if not parts:
        return text
    if last < len(text):
        parts.append(text[last:])
    return Template(tuple(parts), text)


def _reference(
    name: str, namespaces: dict[str, Namespace], limits: Limits, faults: list[str]
) -> Reference | None:
    if name.isdigit():
        digits = name.lstrip("0") or "0"
        if len(digits) > 4 or int(digits) >= MATCH_VALUES:
            faults.append(f"${{{name[:20]}}}: match variables go from 0 to {MATCH_VALUES - 1}")
            return None
        return Match(int(digits))
    name = name.lower()
    if "." not in name:
        if len(name) > limits.variable_name:
            faults.append(
                f"the name of variable ${{{name[:40]}...}} is longer than {limits.variable_name} characters"
            )
            return None
        return Local(name)
    if name.count(".") >= limits.variable_parts or len(name) > 4 * limits.variable_name:
        faults.append(f"the variable name {name[:60]} has too many parts")
        return None
    # RFC 5229 3: a reference to a namespace that no required extension defines MUST cause an error.
    for dots in range(name.count("."), 0, -1):
        pieces = name.split(".")
        prefix, rest = ".".join(pieces[:dots]), ".".join(pieces[dots:])
        if (namespace := namespaces.get(prefix)) is not None:
            if namespace.check is not None and (fault := namespace.check(rest)) is not None:
                faults.append(fault)
                return None
            return Outer(namespace, rest)
    faults.append(f'${{{name}}}: the namespace "{name.split(".")[0]}" is not known here')
    return None


def parse_name(text: str, namespaces: dict[str, Namespace], limits: Limits) -> Local | Outer | str:
    """A variable's name as ``set`` takes it; an error text when it cannot be assigned."""
    if not _VARIABLE.fullmatch(text):
        return f'"{text[:60]}" is not a name of a variable'
    faults: list[str] = []
    reference = _reference(text, namespaces, limits, faults)
    if reference is None:
        return faults[0]
    if isinstance(reference, Match):
        return "match variables cannot be assigned"
    if isinstance(reference, Outer) and reference.namespace.write is None:
        return f'variables of "{reference.namespace.name}" cannot be assigned'
    return reference


def octets(text: str) -> int:
    """The length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def cut(text: str, most: int) -> str:
    """The text cut to so many octets of UTF-8, at a character."""
    if 4 * len(text) <= most or octets(text) <= most:
        return text
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


class Variables:
    """The variables of one running script; ``shared`` names those that stand for global ones (RFC 6609)."""

    __slots__ = ("_size", "_values", "globals", "limits", "matched", "shared")

    def __init__(self, limits: Limits, shared_values: dict[str, str]) -> None:
        self.limits = limits
        self._values: dict[str, str] = {}
        self._size = 0
        self.globals = shared_values
        self.shared: set[str] = set()
        self.matched: tuple[str, ...] = ()

    def get(self, name: str) -> str:
        """The value; empty when it was never set."""
        values = self.globals if name in self.shared else self._values
        return values.get(name, "")

    def set(self, name: str, value: str) -> None:
        """Assigns, cut to the size limit. Raises RunError when there are too many variables."""
        self.put(self.globals if name in self.shared else self._values, name, value)

    def put(self, values: dict[str, str], name: str, value: str) -> None:
        """Assigns into the given scope under the limits."""
        limits = self.limits
        if 4 * len(value) > limits.variable_size:
            value = cut(value, limits.variable_size)
        old = values.get(name)
        grown = self._size + (len(value) if value.isascii() else octets(value))
        if old is not None:
            grown -= len(old) if old.isascii() else octets(old)
        elif len(values) >= limits.variables:
            raise RunError(f"a script has at most {limits.variables} variables")
        if grown > limits.variables_total:
            raise RunError("the variables became too large altogether")
        self._size = grown
        values[name] = value
