"""`filterd config get`, `set` and `unset`: one key of the configuration, its file kept as a person wrote it.

A change is looked at as `config check` would before anything is written; the file is replaced whole, on disk, with its mode
and owner. Two who set at a time wait for each other.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

from filterd.cli import FOUND, OK, USAGE, CliError
from filterd.cli.options import config_path, load_config, print_json
from filterd.config import describe, schema
from filterd.config.edit import CannotEdit, changed, removed, steps
from filterd.config.effect import EXEC, RESTART, taken_up
from filterd.config.errors import ConfigErrors, Problem, render
from filterd.config.load import files, from_text, load, show_path, whereabouts
from filterd.config.positions import Path, locate
from filterd.config.values import BadValue, Kind, nearest
from filterd.store.base import StoreUnavailable
from filterd.store.durable import FlockLock, RealDisk, opened

PATIENCE = 10.0  # seconds for another `config set`


def get(arguments: argparse.Namespace) -> int:
    """The value on standard output, where it comes from on standard error."""
    config = load_config(arguments)
    path, info = resolve(arguments.key, config)
    name = show_path(path)
    rows = {key: (value, origin) for key, value, origin in describe.values(config)}
    inner = info.kind is Kind.ALIASES and isinstance(path[-1], str) and path[-1] != "aliases"
    row = rows.get(show_path(path[:-1]) if inner else name)
    if row is None:  # a table that may be left out, and is
        row = ('""', "default: the table is not there")
    value, origin = row
    data = plain_value(value)
    if inner:
        data = data.get(str(path[-1])) if isinstance(data, dict) else None
        if data is None:
            raise CliError(f"there is no alias {path[-1]}", FOUND)
    if arguments.json:
        print_json({"key": name, "value": data, "origin": origin, "default": _default(info)})
        return OK
    for line in data if isinstance(data, list) else [data]:
        print(str(line).lower() if isinstance(line, bool) else line)
    if not arguments.quiet:
        print(f"{name} is {_whence(origin)}", file=sys.stderr)
    return OK


def _whence(origin: str) -> str:
    if origin.startswith("default"):
        return f"not set: the {origin}"
    return f"from {origin}"


def _default(info: schema.KeyInfo) -> object:
    return None if info.required else plain_value(describe.toml_value(info.kind, info.default))


def plain_value(text: str) -> object:
    import tomllib

    return tomllib.loads(f"x = {text}")["x"]


def resolve(text: str, config: schema.Config) -> tuple[Path, schema.KeyInfo]:
    """The path of a key as people write it, and what it is. Raises CliError."""
    try:
        parts = list(steps(text))
    except BadValue as error:
        raise CliError(str(error), USAGE) from None
    path: list[str | int] = []
    name = ""
    known = {key.name: key for key in schema.all_keys()}
    while parts:
        part = parts.pop(0)
        name = f"{name}.{part}" if name else str(part)
        path.append(part)
        info = known.get(name)
        if info is None:
            break
        if info.kind is Kind.TABLES and parts:
            path.append(_element(path, parts, config))
            name += "[]"
        elif info.kind is Kind.ALIASES and len(parts) == 1 and isinstance(parts[0], str):
            return (*path, parts[0].lower()), info
        elif not parts:
            if info.section:
                inner = [
                    key.name.replace("[]", "") for key in known.values() if key.name.startswith(f"{name}.")
                ]
                hint = f", such as {inner[0]}" if inner else ""
                raise CliError(
                    f"{text} is a table: name a key in it{hint} (`filterd config show {text}`)", USAGE
                )
            return tuple(path), info
    asked = ".".join(part for part in steps(text) if isinstance(part, str) and not part.startswith("["))
    raise CliError(f'there is no key "{text}"; {describe.suggest(asked)}'.rstrip("; "), USAGE)


def _element(path: list[str | int], parts: list[str | int], config: schema.Config) -> int:
    """The index in an array of tables: written, by name ("domain[example.org]"), or the only one there is."""
    elements: object = config
    for part in path:
        elements = getattr(elements, str(part)) if isinstance(part, str) else elements[part]  # type: ignore[index]  # a tuple
    assert isinstance(elements, tuple)
    shown = show_path(tuple(path))
    if isinstance(parts[0], int):
        index = parts.pop(0)
        assert isinstance(index, int)
        if index > len(elements):
            raise CliError(f"{shown} has {len(elements)}; {shown}[{len(elements)}] would be the next", USAGE)
        return index
    if parts[0].startswith("["):
        wanted = str(parts.pop(0))[1:-1]
        names = [str(getattr(one, "name", getattr(one, "domain", ""))) for one in elements]
        folded = [one.lower() for one in names]
        if wanted.lower() not in folded:
            hint = nearest(wanted, names) or f"there are: {', '.join(filter(None, names)) or 'none'}"
            raise CliError(f"no {shown} is called {wanted}; {hint}", USAGE)
        return folded.index(wanted.lower())
    if len(elements) == 1:
        return 0
    if not elements:
        raise CliError(f"there is no {shown} yet; {shown}[0] would be the first", USAGE)
    raise CliError(f"there are {len(elements)}: write {shown}[0] to {shown}[{len(elements) - 1}]", USAGE)


# -- writing -----------------------------------------------------------------------------------------------------------


def put(arguments: argparse.Namespace) -> int:
    words = arguments.words
    if len(words) % 2:
        text = 'write: filterd config set KEY VALUE [KEY VALUE ...]; a list is written a,b or ["a", "b"]'
        key, sign, value = words[-1].partition("=")
        raise CliError(f"{text}. Did you mean: filterd config set {key} {value}" if sign else text, USAGE)
    return _edit(arguments, list(zip(words[::2], words[1::2], strict=True)))


def take_out(arguments: argparse.Namespace) -> int:
    return _edit(arguments, [(key, None) for key in arguments.words])


def _edit(arguments: argparse.Namespace, wishes: Sequence[tuple[str, str | None]]) -> int:
    main = config_path(arguments.config)
    with alone(main):
        before, old = _as_it_is(main)
        now: dict[str, bytes] = {}
        done: list[tuple[Path, schema.KeyInfo, str, Path]] = []
        for key, text in wishes:
            path, info = resolve(key, before if not done else _loaded(main, now))
            name, inside = whereabouts(main, path) or (main, path)
            try:
                source = (now.get(name) or FilePath(name).read_bytes()).decode("utf-8")
                new = removed(source, inside) if text is None else changed(source, inside, _value(text, info))
            except CannotEdit as error:
                raise CliError(f"{name}: {show_path(path)}: {error}; nothing was changed", USAGE) from None
            except BadValue as error:
                raise CliError(f"{show_path(path)}: {error}; nothing was changed", USAGE) from None
            now[name] = new.encode("utf-8")
            done.append((path, info, name, inside))
        after = _checked(main, now, {str(warning.about) for warning in before.warnings})
        if after is None:
            return FOUND
        changes = {name: data for name, data in now.items() if data != FilePath(name).read_bytes()}
        for name, data in changes.items():
            replace(name, data)
    values = {key: value for key, value, _ in describe.values(after)}
    for path, info, name, inside in done:
        shown = show_path(path)
        row = shown if shown in values else show_path(path[:-1])
        line = locate(now[name].decode("utf-8")).key(inside).line
        value = values.get(row, "not set")
        was = "new" if row not in old else "as before" if old[row] == value else f"was {old[row]}"
        print(f"{name}:{line}  {row} = {value}   ({was})")
        _say_when(after, info, row, changes)
    return OK


def _value(text: str, info: schema.KeyInfo) -> object:
    if info.kind is Kind.ALIASES:
        return [part.strip() for part in text.split(",") if part.strip()]
    return from_text(text, info.kind)


def _as_it_is(main: str) -> tuple[schema.Config, dict[str, str]]:
    """The configuration before, and its values; one with mistakes is read as far as its tables go."""
    try:
        config = load(main)
    except ConfigErrors as error:
        if any(
            problem.kind in ("syntax", "no such file") and problem.file in files(main)
            for problem in error.errors
        ):
            raise CliError(
                f"{render(error.errors)}\nmend this by hand first; nothing was changed", USAGE
            ) from None
        return schema.Config(domain=(schema.Domain(),)), {}
    return config, {key: value for key, value, _ in describe.values(config)}


def _loaded(main: str, now: dict[str, bytes]) -> schema.Config:
    try:
        return load(main, instead=now)
    except ConfigErrors:
        return _as_it_is(main)[0]


def _checked(main: str, now: dict[str, bytes], known: set[str]) -> schema.Config | None:
    """The configuration as it would be; None when `config check` would refuse it, with its words on standard output.

    Remarks about what is ``known`` were there before."""
    from filterd.cli.config import unusable

    try:
        config = load(main, instead=now)
        problems: tuple[Problem, ...] = unusable(config, main)
    except ConfigErrors as error:
        problems = error.errors
    if not problems:
        fresh = [warning for warning in config.warnings if warning.about not in known]
        if fresh:
            print(render(fresh))
        return config
    print(render(problems))
    print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}. Nothing was changed.")
    return None


def _say_when(config: schema.Config, info: schema.KeyInfo, row: str, changes: dict[str, bytes]) -> None:
    origin = config.origins.get(row, "")
    if origin.startswith("env "):
        print(f"  but {origin.removeprefix('env ')} in the environment wins over the file")
    if not changes:
        return
    when, pid = taken_up(info.name), running(config)
    if when == EXEC:
        print("  taken up when `filterd exec serve` and the server are started again")
    elif when == RESTART:
        print(
            "  taken up at the next start"
            + (f"; the server (process {pid}) has to be restarted" if pid else "")
        )
    elif pid:
        print(f"  taken up at a reload: kill -HUP {pid}   (systemctl reload filterd)")
    else:
        print("  taken up at the next start (no server of this data_dir runs)")


def running(config: schema.Config) -> int:
    """The process of the server that has this data_dir; 0 = none."""
    try:
        pid = int((FilePath(config.server.data_dir) / "run" / "filterd.pid").read_text("ascii"))
        os.kill(pid, 0)
    except PermissionError as error:
        return pid if error.filename is None else 0
    except (OSError, ValueError):
        return 0
    return pid


@contextlib.contextmanager
def alone(main: str) -> Iterator[None]:
    """Nobody else edits these files meanwhile. The lock is the folder itself: nothing is left behind."""
    folder = os.path.dirname(os.path.realpath(main))
    try:
        with opened(RealDisk(), folder) as at:
            lock = FlockLock(at.fd, folder)
            lock.acquire(PATIENCE)
            try:
                yield
            finally:
                lock.release()
    except PermissionError:
        raise CliError(
            f"we may not look into {folder}: do it as its owner; nothing was changed", USAGE
        ) from None
    except StoreUnavailable:
        raise CliError(f"somebody else is changing the files of {folder}; nothing was changed", 75) from None


def replace(name: str, data: bytes) -> None:
    """The whole file at once, durable, with the mode and owner that it has; a symbolic link stays one. Raises CliError."""
    target = os.path.realpath(name)
    folder, base = os.path.split(target)
    disk = RealDisk()
    try:
        facts = os.stat(target)
        with opened(disk, folder) as at:
            file = disk.write_new(at, data)
            try:
                if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fd, facts.st_uid, facts.st_gid)
                os.fchmod(file.fd, facts.st_mode & 0o7777)
                disk.sync(file)
                temporary = f".{base}.{os.getpid()}.{file.inode}"
                disk.publish(file, temporary)
            except BaseException:
                disk.discard(file)
                raise
            disk.rename(at, temporary, at, base)
            disk.sync_dir(at)
    except PermissionError:
        who = "root" if os.stat(folder).st_uid == 0 else f"the owner of {folder}"
        raise CliError(f"we may not replace {name}: do it as {who}; nothing was changed", USAGE) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room on that disk" if full else "the old file is as it was"
        raise CliError(
            f"{name} could not be written: {error.strerror}; {hint}; nothing was changed", 75
        ) from None
