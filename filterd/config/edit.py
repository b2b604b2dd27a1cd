"""Changing one key of a TOML text and nothing else: comments, order and line ends stay.

``changed`` and ``removed`` propose texts in the order of how well they would read (beside its neighbours, below its
commented-out sample, in a table of its own) and take the first that ``tomllib`` reads as exactly the wanted document: what
cannot be done without touching something else is refused, never guessed.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator

from filterd.config.positions import Path, Places, locate
from filterd.config.values import BadValue

Table = dict[str, object]
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STEP = re.compile(
    r'\[(?P<index>\d+)\]|\[(?P<named>[^\]"]+)\]|(?:^|\.)(?:"(?P<quoted>[^"]+)"|(?P<bare>[^.\[\]"]+))'
)
_WIDE = 110  # a list that would be longer gets a line for each element


class CannotEdit(Exception):
    """The text says what a person has to do by hand."""


def steps(text: str) -> tuple[str | int, ...]:
    """``domain[0].aliases."a.b"`` -> ("domain", 0, "aliases", "a.b"); ``domain[example.org]`` -> ("domain", "[example.org]").

    Raises BadValue."""
    out: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise BadValue(f'"{text}" is not a key such as limits.recipients or domain[0].catch_all')
        if match["index"] is not None:
            out.append(int(match["index"]))
        elif match["named"] is not None:
            out.append(f"[{match['named']}]")
        else:
            out.append(match["quoted"] or match["bare"])
        position = match.end()
    return tuple(out)


def literal(value: object, *, wide: bool = False) -> str:
    """The value in TOML. ``wide``: in one line at any length. Raises BadValue for what TOML has no word for."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadValue("the value is not UTF-8") from None
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        flat = "[" + ", ".join(literal(item, wide=True) for item in value) + "]"
        if len(flat) <= _WIDE or wide:
            return flat
        return "[\n" + "".join(f"  {literal(item, wide=True)},\n" for item in value) + "]"
    if isinstance(value, dict):
        inner = ", ".join(f"{key_text(str(key))} = {literal(item, wide=True)}" for key, item in value.items())
        return "{ " + inner + " }" if inner else "{}"
    raise BadValue(f"{value!r} cannot be written into the file")


def key_text(name: str) -> str:
    return name if _BARE.fullmatch(name) else literal(name)


def changed(text: str, path: Path, value: object) -> str:
    """``text`` with the key at ``path`` (as it stands in this file) set. Raises CannotEdit, BadValue."""
    plain = text.replace("\r\n", "\n")
    wanted = tomllib.loads(plain)
    _put(wanted, path, value)
    return _first(plain, wanted, _settings(plain, path, value), text, path)


def removed(text: str, path: Path) -> str:
    """``text`` without this key and its line. Raises CannotEdit."""
    plain = text.replace("\r\n", "\n")
    wanted = tomllib.loads(plain)
    _drop(wanted, path)
    return _first(plain, wanted, _removals(plain, path), text, path)


def _first(plain: str, wanted: Table, candidates: Iterator[str], text: str, path: Path) -> str:
    for candidate in candidates:
        try:
            if _full(tomllib.loads(candidate)) == _full(wanted):
                return _line_ends(candidate, text) if "\r\n" in text else candidate
        except tomllib.TOMLDecodeError:
            continue
    place = locate(plain).key(path)
    raise CannotEdit(f"line {place.line} is written in a way that only a person should change: edit the file")


def _line_ends(candidate: str, text: str) -> str:
    """``candidate`` with the line ends of ``text``: each line that stays keeps its own, new ones get those that most lines have."""
    old = text.split("\n")
    new = candidate.split("\n")
    plain = [line.removesuffix("\r") for line in old]
    most = min(len(old), len(new))
    head = next((at for at in range(most) if plain[at] != new[at]), most)
    tail = next((at for at in range(most - head) if plain[-1 - at] != new[-1 - at]), most - head)
    end = "\r" if 2 * text.count("\r\n") >= text.count("\n") else ""
    between = [line + end for line in new[head : len(new) - tail]]
    if not tail and between:  # the last line has no end
        between[-1] = new[-1]
    return "\n".join([*old[:head], *between, *old[len(old) - tail :]])


def _full(value: object) -> object:
    """Without empty tables, which say nothing."""
    if isinstance(value, dict):
        inner = {key: _full(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item != {}}
    return [_full(item) for item in value] if isinstance(value, list) else value


def _put(document: Table, path: Path, value: object) -> None:
    at: object = document
    for part, following in zip(path, [*path[1:], None], strict=True):
        last = following is None
        if isinstance(at, dict):
            if last:
                at[part] = copy.deepcopy(value)
                return
            at = at.setdefault(part, [] if isinstance(following, int) else {})
        elif isinstance(at, list) and isinstance(part, int) and part <= len(at):
            if part == len(at):
                at.append({})
            if last:
                at[part] = copy.deepcopy(value)
                return
            at = at[part]
        else:
            raise CannotEdit(f"{part} is not a table there")


def _drop(document: Table, path: Path) -> None:
    table = _table(document, path[:-1])
    if path[-1] not in table:
        raise CannotEdit("it is not set in this file")
    del table[str(path[-1])]


def _table(document: Table, path: Path) -> Table:
    """The table there; an empty one when there is none."""
    at: object = document
    for part in path:
        if isinstance(at, dict):
            at = at.get(part)
        else:
            at = at[part] if isinstance(at, list) and isinstance(part, int) and part < len(at) else None
    return at if isinstance(at, dict) else {}


# -- ways to write a value ---------------------------------------------------------------------------------------------


def _settings(text: str, path: Path, value: object) -> Iterator[str]:
    places = locate(text)
    span = places.spans.get(path)
    if span is not None:
        if isinstance(value, list):
            yield from _relisted(text, places, path, value)
        yield text[: span[0]] + literal(value) + text[span[1] :]
        return
    line = f"{key_text(str(path[-1]))} = {literal(value)}"
    around = places.spans.get(path[:-1])
    if around is not None:  # an inline table
        yield _into_inline(text, around, f"{key_text(str(path[-1]))} = {literal(value, wide=True)}")
    for length in range(len(path) - 1, -1, -1):  # the nearest table that has a place of its own
        base = path[:length]
        if base and base not in places.headers:
            continue
        dotted = ".".join(key_text(str(part)) for part in path[length:])
        pair = f"{dotted} = {literal(value)}"
        if base or len(path) == 1 or _implied(places, base, path[0]):
            for spot in _spots(text, places, base, str(path[-1])):
                yield _with_line(text, spot, pair)
        break
    yield from _new_table(text, places, path, line)


def _relisted(text: str, places: Places, path: Path, value: list[object]) -> Iterator[str]:
    """A list of several lines keeps its lines and their comments, but for the elements that go or come."""
    begin, end = places.spans[path]
    body = text[begin:end]
    if "\n" not in body:
        return
    old: list[tuple[int, int]] = []
    while (*path, len(old)) in places.spans:
        old.append(places.spans[(*path, len(old))])
    known = [tomllib.loads(f"x = {text[first:last]}")["x"] for first, last in old]
    chunks: dict[int, str] = {}  # each element with what stands before it and behind it
    edge = text.find("\n", begin) + 1
    for number, (_first_at, last) in enumerate(old):
        following = old[number + 1][0] if number + 1 < len(old) else end - 1
        newline = text.find("\n", last, following)
        if newline < 0:
            return  # several in a line
        chunk = text[edge : newline + 1]
        behind = text[last : newline + 1]
        if not behind.lstrip().startswith(","):
            chunk = text[edge:last] + "," + behind
        chunks[number] = chunk
        edge = newline + 1
    indent = re.match(r"[ \t]*", text[text.rfind("\n", 0, old[0][0]) + 1 :])[0] if old else "  "  # type: ignore[index]  # always matches
    lines, left = [], list(range(len(known)))
    for item in value:
        number = next((one for one in left if known[one] == item), -1)
        if number >= 0:
            left.remove(number)
            lines.append(chunks[number])
        else:
            lines.append(f"{indent}{literal(item, wide=True)},\n")
    yield text[: text.find("\n", begin) + 1] + "".join(lines) + text[edge:]


def _into_inline(text: str, span: tuple[int, int], pair: str) -> str:
    inner = text[span[0] + 1 : span[1] - 1].rstrip()
    if not inner.strip():
        return f"{text[: span[0]]}{{ {pair} }}{text[span[1] :]}"
    return f"{text[: span[0] + 1]}{inner.rstrip(',')}, {pair} }}{text[span[1] :]}"


def _spots(text: str, places: Places, base: Path, name: str) -> Iterator[int]:
    """Offsets of line starts where a new line of table ``base`` may go, the best first."""
    own = [pair for path, pair in places.pairs.items() if places.inside[path] == base]
    begin = _line_end(text, places.headers[base][1]) if base else 0
    ends = [first for first, _ in places.headers.values() if first >= begin]
    stop = min(ends, default=len(text))
    sample = re.search(rf"^#+[ \t]*{re.escape(name)}[ \t]*=.*\n?", text[begin:stop], re.MULTILINE)
    if sample:
        yield begin + sample.end()
    if own:
        yield _line_end(text, max(last for _, last in own))
    elif base:
        yield begin
    else:
        yield _above(text, stop)


def _implied(places: Places, base: Path, part: str | int) -> bool:
    """Is the table ``base.part`` there only by dotted keys? Then it takes no header any more."""
    dotted = (*base, part)
    return any(path[: len(dotted)] == dotted and places.inside[path] == base for path in places.pairs)


def _new_table(text: str, places: Places, path: Path, line: str) -> Iterator[str]:
    table = path[:-1]
    if not table:
        return
    array = isinstance(table[-1], int)
    head = ".".join(key_text(str(part)) for part in table if isinstance(part, str))
    header = f"[[{head}]]" if array else f"[{head}]"
    sample = re.search(rf"^#+[ \t]*{re.escape(header)}[ \t]*$", text, re.MULTILINE)
    if sample and not array:
        opened = text[: sample.start()] + header + text[sample.end() :]
        for spot in _spots(opened, locate(opened), table, str(path[-1])):
            yield _with_line(opened, spot, line)
    block = f"{header}\n{line}\n"
    related = [
        (len(_shared(other, table)), span[0])
        for other, span in places.headers.items()
        if _shared(other, table) and not (array and other[: len(table) - 1] != table[:-1])
    ]
    if related:  # behind the last of its kin
        _, last = max(related)
        after = min((first for first, _ in places.headers.values() if first > last), default=len(text))
        spot = _above(text, after)
        yield _with_block(text, spot, block)
    yield _with_block(text, len(text), block)


def _shared(one: Path, other: Path) -> Path:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]


def _line_end(text: str, offset: int) -> int:
    """Behind the line break that follows."""
    found = text.find("\n", offset)
    return len(text) if found < 0 else found + 1


def _above(text: str, offset: int) -> int:
    """Before the comments that stand directly above ``offset``, and the blank lines above these."""
    lines = text[:offset].split("\n")
    if lines[-1].strip():
        return offset
    lines.pop()
    if offset < len(text):
        while lines and lines[-1].lstrip().startswith("#"):
            lines.pop()
    while lines and not lines[-1].strip():
        lines.pop()
    return len("".join(f"{line}\n" for line in lines))


def _with_line(text: str, spot: int, line: str) -> str:
    before = text[:spot]
    if before and not before.endswith("\n"):
        before += "\n"
    return f"{before}{line}\n{text[spot:]}"


def _with_block(text: str, spot: int, block: str) -> str:
    before, after = text[:spot].rstrip("\n"), text[spot:].lstrip("\n")
    return (f"{before}\n\n" if before else "") + block + (f"\n{after}" if after else "")


# -- ways to take one out ------------------------------------------------------------------------------------------------


def _removals(text: str, path: Path) -> Iterator[str]:
    places = locate(text)
    pair = places.pairs.get(path)
    if pair is None:
        return
    if places.spans.get(places.inside[path]) is not None:  # in an inline table
        before, after = text[: pair[0]].rstrip(), text[pair[1] :].lstrip()
        if after.startswith(","):
            yield f"{before} {after[1:].lstrip()}"
        yield f"{before.removesuffix(',')} {after}"
        return
    start = text.rfind("\n", 0, pair[0]) + 1
    yield text[:start] + text[_line_end(text, pair[1]) :]


# -- another name ----------------------------------------------------------------------------------------------------------


def renamed(text: str, path: Path, name: str) -> str:
    """``text`` with the key or table at ``path`` called ``name``, wherever the file writes it. Raises CannotEdit."""
    plain = text.replace("\r\n", "\n")
    wanted = tomllib.loads(plain)
    table = _table(wanted, path[:-1])
    if name in table:
        raise CannotEdit(f"{name} is set as well: one of the two has to go")
    if path[-1] not in table:
        raise CannotEdit("it is not set in this file")
    table[name] = table.pop(str(path[-1]))
    return _first(plain, wanted, iter([_with_name(plain, path, name)]), text, path)


def _with_name(text: str, path: Path, name: str) -> str:
    places = locate(text)
    length = len(path)
    cuts: list[tuple[int, int, str]] = []

    def words(parts: Path) -> str:
        return ".".join(key_text(str(part)) for part in parts if isinstance(part, str))

    for other, (first, last) in places.headers.items():
        if other[:length] == path:
            array = text.startswith("[[", first)
            inner = words((*path[:-1], name, *other[length:]))
            cuts.append((first, last, f"[[{inner}]]" if array else f"[{inner}]"))
    for other, (first, _) in places.pairs.items():
        table = places.inside[other]
        if other[:length] == path and len(table) < length:
            new = (*path[:-1], name, *other[length:])
            value = places.spans[other][0]
            cuts.append((first, value, f"{words(new[len(table) :])} = "))
    for first, last, new_text in sorted(cuts, reverse=True):
        text = text[:first] + new_text + text[last:]
    return text
