"""Reading the configuration: the file, ``conf.d/*.toml`` beside it, the environment; all mistakes at once.

``load(path)`` gives a checked ``Config`` or raises ``ConfigErrors`` with every problem, each with its place.
Files of ``conf.d`` are merged by key, arrays of tables are appended, one key set to two values is a conflict that names
both places. ``FILTERD_SECTION__KEY`` in the environment wins over the files. Secrets written ``file:PATH`` or
``env:NAME`` are fetched here; relative paths start at the folder of the main file.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TypeVar

from filterd.config import checks, schema
from filterd.config.errors import ConfigErrors, Problem
from filterd.config.positions import Path, Place, Places, locate
from filterd.config.values import BadValue, Kind, Relay, SocketAddress, nearest, read

T = TypeVar("T")
Table = dict[str, object]

ENV_PREFIX = "FILTERD_"
ENV_SEPARATOR = "__"
MAX_FILE = 4 << 20  # octets of one configuration file
_SYNTAX = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)
_FROM_TOML = frozenset({Kind.FLAG, Kind.COUNT, Kind.NUMBER, Kind.WORKERS, Kind.SWITCH, Kind.SIZE, Kind.TABLE})
_LISTS = frozenset(
    {
        Kind.TEXTS,
        Kind.LISTEN,
        Kind.SERVERS,
        Kind.NETWORKS,
        Kind.DURATIONS,
        Kind.CHOICES,
        Kind.SECRETS,
        Kind.RECIPIENTS,
        Kind.ALIAS_FILES,
        Kind.ROUTED,
        Kind.SOURCES,
        Kind.PATHS,
    }
)


def load(
    path: str, environ: Mapping[str, str] | None = None, instead: Mapping[str, bytes] | None = None
) -> schema.Config:
    """The configuration of ``path``; ``environ`` None = that of the process. Raises ConfigErrors.

    ``instead``: what a file of these is taken to hold, to look at a change before it is written."""
    environment = os.environ if environ is None else environ
    return _finish(_sources(path, instead or {}), path, environment)


def whereabouts(path: str, key: Path) -> tuple[str, Path] | None:
    """The file in which ``key``, or the nearest table around it, is written, and the key's path in that file (conf.d counts its
    own arrays of tables); None = in none."""
    origins = _sources(path, {}).origins
    for length in range(len(key), 0, -1):
        origin = origins.get(key[:length])
        if origin is None:
            continue
        rest = key[length:]
        if rest and isinstance(rest[0], int):  # a new element: behind those of this file
            here = [one for at, one in origins.items() if at[:-1] == key[:length] and isinstance(at[-1], int)]
            rest = (sum(one.file == origin.file for one in here), *rest[1:])
        return origin.file, (*origin.path, *rest)
    return None


def files(path: str) -> list[str]:
    """The main file and what lies in conf.d beside it."""
    folder = FilePath(path).parent / "conf.d"
    return [path, *(sorted(str(entry) for entry in folder.glob("*.toml")) if folder.is_dir() else ())]


def _sources(path: str, instead: Mapping[str, bytes]) -> _Sources:
    sources = _Sources(os.path.dirname(os.path.abspath(path)))
    for name in files(path):
        try:
            if name in instead:
                data = instead[name]
            else:
                with open(name, "rb") as stream:
                    data = stream.read(MAX_FILE + 1)
        except OSError as error:
            kind, hint = "no such file", _how_to_start(name)
            if isinstance(error, PermissionError):
                kind, hint = "no rights", "do it as root, or as whom the file belongs to"
            sources.problems.append(Problem(name, 0, 0, kind, error.strerror or str(error), hint))
            continue
        if len(data) > MAX_FILE:
            sources.problems.append(Problem(name, 0, 0, "too large", f"over {MAX_FILE >> 20} MiB"))
            continue
        sources.add_bytes(data, name)
    return sources


def parse(text: str, path: str = "filterd.toml", environ: Mapping[str, str] | None = None) -> schema.Config:
    """The same for a text at hand (no ``conf.d``); ``environ`` None = an empty one. Raises ConfigErrors."""
    sources = _Sources(os.path.dirname(os.path.abspath(path)))
    sources.add(text, path)
    return _finish(sources, path, {} if environ is None else environ)


def _how_to_start(name: str) -> str:
    return "" if f"{os.sep}conf.d{os.sep}" in name else "name your file with: -c FILE"


def _finish(sources: _Sources, path: str, environ: Mapping[str, str]) -> schema.Config:
    if sources.problems and not sources.merged:
        raise ConfigErrors(sources.problems)
    reader = _Reader(sources, environ)
    config = reader.config(path)
    problems, warnings = checks.check(config, sources.where, reader.is_good)
    found = [*sources.problems, *reader.problems, *problems]
    if found:
        order = {name: index for index, name in enumerate(sources.files)}
        found.sort(key=lambda problem: (order.get(problem.file, len(order)), problem.line, problem.column))
        raise ConfigErrors(found)
    return dataclasses.replace(config, warnings=tuple(warnings))


# -- the files, merged -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a merged path came from: the file, its places, and the path it has there."""

    file: str
    places: Places
    path: Path


@dataclass(slots=True)
class _Sources:
    """All documents as one table, with the way back to each key's place."""

    base: str
    merged: Table = field(default_factory=dict)
    origins: dict[Path, _Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add_bytes(self, data: bytes, name: str) -> None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            column = error.start - data.rfind(b"\n", 0, error.start)
            self.files.append(name)
            self.problems.append(Problem(name, line, column, "syntax", "not UTF-8"))
            return
        self.add(text, name)

    def add(self, text: str, name: str) -> None:
        self.files.append(name)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.problems.append(_syntax_problem(str(error), text, name))
            return
        except RecursionError:
            self.problems.append(Problem(name, 1, 1, "syntax", "nested too deeply"))
            return
        self._merge(self.merged, document, _Origin(name, locate(text), ()), ())

    def _merge(self, into: Table, table: Table, origin: _Origin, path: Path) -> None:
        for name, value in table.items():
            here: Path = (*path, name)
            there = _Origin(origin.file, origin.places, (*origin.path, name))
            old = into.get(name)
            if isinstance(value, dict) and isinstance(old, dict):
                self._merge(old, value, there, here)
            elif isinstance(value, list) and _is_tables(value) and (old is None or _is_tables(old)):
                self._append(into, name, value, there, here)
            elif isinstance(value, dict) and old is None:
                inner: Table = {}
                into[name] = inner
                self.origins[here] = there
                self._merge(inner, value, there, here)
            elif old is None:
                into[name] = value
                self.origins[here] = there
            elif old != value:
                place = origin.places.key(there.path)
                other = f"{self.where(here).place} sets it too"
                self.problems.append(
                    Problem(origin.file, place.line, place.column, "conflict", _dotted(here), other)
                )

    def _append(self, into: Table, name: str, value: list[object], there: _Origin, here: Path) -> None:
        known = into.setdefault(name, [])
        assert isinstance(known, list)
        self.origins.setdefault(here, there)
        for index, element in enumerate(value):
            path = (*here, len(known))
            self.origins[path] = _Origin(there.file, there.places, (*there.path, index))
            known.append(element)

    def where(self, path: Path, *, value: bool = False) -> Problem:
        """A Problem without words at the key's (or value's) place; the nearest table's when it is not written."""
        for length in range(len(path), 0, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                full = (*origin.path, *path[length:])
                place: Place = origin.places.value(full) if value else origin.places.key(full)
                return Problem(origin.file, place.line, place.column, "", _dotted(path))
        return Problem(self.files[0] if self.files else "", 1, 1, "", _dotted(path))


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def _syntax_problem(message: str, text: str, name: str) -> Problem:
    match = _SYNTAX.match(message)
    if match is None:
        return Problem(name, 1, 1, "syntax", message)
    if match[2] is None:
        return Problem(name, text.count("\n") + 1, 1, "syntax", f"{match[1]} (at the end of the file)")
    line = int(match[2])
    lines = text.split("\n")
    about = lines[line - 1].strip()[:60] if line <= len(lines) else ""
    return Problem(name, line, int(match[3]), "syntax", about or match[1], match[1] if about else "")


def _dotted(path: Sequence[str | int]) -> str:
    """("domain", 0, "name") -> "domain.name": the place tells which one."""
    return ".".join(str(part) for part in path if isinstance(part, str))


# -- tables to dataclasses ---------------------------------------------------------------------------------------------


class _Reader:
    """Builds the sections, collecting problems; a wrong key keeps its default, so that the rest is still read."""

    def __init__(self, sources: _Sources, environ: Mapping[str, str]) -> None:
        self.sources = sources
        self.environ = environ
        self.problems: list[Problem] = []
        self.bad: set[Path] = set()
        self.meant: set[Path] = set()  # keys that a misspelt one stands for: not missing as well
        self.from_env: dict[Path, str] = {}
        self.origins: dict[str, str] = {}

    def config(self, path: str) -> schema.Config:
        self._environment()
        config = self._section(schema.Config, self.sources.merged, ())
        listen = config.listen
        if not self.sources.merged.get("listen"):
            listen = schema.Listen(**schema.STANDARD_DOORS)
        server = config.server
        if not server.data_dir:
            server = dataclasses.replace(server, data_dir=_default_data_dir(self.environ))
        return dataclasses.replace(config, path=path, listen=listen, server=server, origins=self.origins)

    def is_good(self, path: Path) -> bool:
        """False when this key (or something in it) already has a problem: no second one for the same mistake."""
        return not any(bad[: len(path)] == path for bad in self.bad)

    def _section(self, build: Callable[..., T], table: Table, path: Path) -> T:
        default = build()
        known: dict[str, dataclasses.Field[object]] = {
            entry.name: entry
            for entry in dataclasses.fields(default)  # type: ignore[arg-type]  # always a section
            if "kind" in entry.metadata
        }
        values: dict[str, object] = {}
        for name, raw in table.items():
            entry = known.get(name)
            if entry is None:
                self._unknown((*path, name), list(known))
            else:
                value = self._field(entry, raw, (*path, name))
                if value is not None:
                    values[name] = value
        for name, entry in known.items():
            if entry.metadata.get("required") and name not in table:
                self._missing((*path, name), entry)
            elif (
                entry.metadata["kind"] is Kind.TABLE
                and name not in table
                and not entry.metadata.get("optional")
            ):
                values[name] = self._section(entry.metadata["section"], {}, (*path, name))
            elif (
                entry.metadata["kind"] is Kind.TABLES
                and not table.get(name)
                and not entry.metadata.get("optional")
            ):
                self._missing((*path, name), entry)
        return build(**values)

    def _field(self, entry: dataclasses.Field[object], raw: object, path: Path) -> object | None:
        kind: Kind = entry.metadata["kind"]
        try:
            if kind is Kind.TABLE:
                if not isinstance(raw, dict):
                    raise BadValue(f"expected a table: [{_dotted(path)}]", "wrong type")
                section: Callable[[], object] = entry.metadata["section"]
                return self._section(section, raw, path)
            if kind is Kind.TABLES:
                return self._tables(entry, raw, path)
            value = read(kind, raw, entry.metadata["choices"])
            self._note_origin(path)
            return self._resolved(kind, value, path)
        except BadValue as error:
            about = (
                _dotted(path)
                if kind in (Kind.TABLE, Kind.TABLES)
                else f"{_dotted(path)} = {_shown(kind, raw)}"
            )
            self._problem(path, error.kind, about, str(error), value=True)
            return None

    def _tables(self, entry: dataclasses.Field[object], raw: object, path: Path) -> object:
        if not isinstance(raw, list) or not all(isinstance(element, dict) for element in raw):
            raise BadValue(f"expected a table in double brackets: [[{_dotted(path)}]]", "wrong type")
        section: Callable[[], object] = entry.metadata["section"]
        return tuple(self._section(section, element, (*path, index)) for index, element in enumerate(raw))

    def _resolved(self, kind: Kind, value: object, path: Path) -> object:
        """Relative paths made absolute, secrets fetched."""
        if kind is Kind.PATH and isinstance(value, str):
            return self._absolute(value.removeprefix("refile:").removeprefix("file:"))  # OpenDKIM's words
        if kind is Kind.PATHS and isinstance(value, tuple):
            return tuple(self._absolute(str(item)) for item in value)
        if kind in (Kind.SOCKET, Kind.LISTEN):
            if isinstance(value, SocketAddress):
                return self._socket(value)
            return tuple(self._socket(item) for item in value) if isinstance(value, tuple) else value
        if isinstance(value, Relay) and value.path:
            return dataclasses.replace(value, path=self._absolute(value.path))
        if isinstance(value, Relay) and value.password:
            return dataclasses.replace(value, password=self._secret(value.password))
        if kind is Kind.RECIPIENTS and isinstance(value, tuple):
            return tuple(
                f"file:{self._absolute(one[5:])}" if one.startswith("file:") else one for one in value
            )
        if kind is Kind.ALIAS_FILES and isinstance(value, tuple):
            parts = [str(one).partition(":") for one in value]
            return tuple(f"{name}:{self._absolute(path)}" for name, _, path in parts)
        if kind is Kind.SECRETS and isinstance(value, tuple):
            return tuple(self._secret(str(item)) for item in value)
        return value

    def _absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.sources.base, os.path.expanduser(path))) if path else ""

    def _socket(self, address: SocketAddress) -> SocketAddress:
        return SocketAddress(path=self._absolute(address.path)) if address.path else address

    def _secret(self, text: str) -> str:
        prefix, _, rest = text.partition(":")
        if prefix == "file":
            try:
                with open(self._absolute(rest), encoding="utf-8") as stream:
                    text = stream.read().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise BadValue(
                    f"cannot read {rest}: {getattr(error, 'strerror', None) or 'not text'}"
                ) from None
        elif prefix == "env":
            if rest not in self.environ:
                raise BadValue(f"the environment has no {rest}")
            text = self.environ[rest]
        if not text:
            raise BadValue("the secret is empty")
        return text

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _problem(self, path: Path, kind: str, about: str, text: str, *, value: bool = False) -> None:
        self.bad.add(path)
        if path in self.from_env:
            self.problems.append(Problem(f"env {self.from_env[path]}", 0, 0, kind, about, text))
            return
        place = self.sources.where(path, value=value)
        self.problems.append(dataclasses.replace(place, kind=kind, about=about, text=text))

    def _unknown(self, path: Path, known: list[str]) -> None:
        name = str(path[-1])
        elsewhere = [key.name for key in schema.all_keys() if key.name.rpartition(".")[2] == name]
        hint = f"it belongs to {elsewhere[0]}" if elsewhere else nearest(name, known)
        if hint.startswith("did you mean"):
            self.meant.add((*path[:-1], hint.split('"')[1]))
        hint = hint or f"known here: {', '.join(known)}"
        self._problem(path, "unknown key", _dotted(path), hint)

    def _missing(self, path: Path, entry: dataclasses.Field[object]) -> None:
        if path in self.meant:
            return
        examples = {
            "hostname": 'hostname = "mail.example.org"',
            "domain": '[[domain]] with name = "example.org"',
        }
        text = examples.get(entry.name, str(entry.metadata["doc"]))
        self._problem(path, "missing key", _dotted(path), f"add: {text}" if entry.name in examples else text)

    def _note_origin(self, path: Path) -> None:
        if path in self.from_env:
            self.origins[show_path(path)] = f"env {self.from_env[path]}"
        else:
            place = self.sources.where(path)
            self.origins[show_path(path)] = f"{place.file}:{place.line}"

    # -- the environment ----------------------------------------------------------------------------------------

    def _environment(self) -> None:
        for name in sorted(self.environ):
            if not name.startswith(ENV_PREFIX) or ENV_SEPARATOR not in name:
                continue
            path: Path = tuple(name[len(ENV_PREFIX) :].lower().split(ENV_SEPARATOR))
            self.from_env[path] = name
            table: object = self.sources.merged
            for part in path[:-1]:
                table = table.setdefault(str(part), {}) if isinstance(table, dict) else None
            if not isinstance(table, dict):
                self._problem(path, "bad value", _dotted(path), "cannot be set from the environment")
                continue
            table[str(path[-1])] = from_text(self.environ[name], _kind_of(path))


def _kind_of(path: Path) -> Kind | None:
    name = _dotted(path)
    return next((key.kind for key in schema.all_keys() if key.name == name), None)


def from_text(text: str, kind: Kind | None) -> object:
    """What a value of the environment or the command line would be in TOML."""
    if kind in _LISTS and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    if kind in _FROM_TOML or kind in _LISTS:
        try:
            return tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def show_path(path: Path) -> str:
    """("domain", 0, "name") -> "domain[0].name"."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def _shown(kind: Kind, raw: object) -> str:
    if kind is Kind.SECRETS or (kind is Kind.RELAY and "@" in str(raw)):
        return "(secret)"
    text = f'"{raw}"' if isinstance(raw, str) else str(raw).lower() if isinstance(raw, bool) else str(raw)
    return text if len(text) <= 60 else text[:57] + "..."


def _default_data_dir(environ: Mapping[str, str]) -> str:
    if os.geteuid() == 0:
        return "/var/lib/filterd"
    home = environ.get("XDG_DATA_HOME") or os.path.join(
        environ.get("HOME") or os.path.expanduser("~"), ".local", "share"
    )
    return os.path.join(home, "filterd")
