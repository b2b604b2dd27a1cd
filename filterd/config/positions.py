"""Where each key and value of a TOML document stands, for error messages that point.

``tomllib`` reads the values but forgets their places. ``locate`` walks a document that ``tomllib`` has already
accepted (so it may be lenient) and gives line and column, 1-based and in characters, of every key and value:
tables, arrays of tables (``("domain", 0, "name")``), dotted keys, inline tables and arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    line: int
    column: int


@dataclass(slots=True)
class Places:
    """``keys``: where a key is written (a table: its header); ``values``: where its value begins.

    For those who edit, offsets into the text with LF line ends: ``spans`` of every value, ``pairs`` of every key with its
    value, ``headers`` of every ``[table]`` and ``[[table]]``; ``inside`` tells under which header a pair stands (() = none).
    """

    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    spans: dict[Path, tuple[int, int]] = field(default_factory=dict)
    pairs: dict[Path, tuple[int, int]] = field(default_factory=dict)
    headers: dict[Path, tuple[int, int]] = field(default_factory=dict)
    inside: dict[Path, Path] = field(default_factory=dict)

    def key(self, path: Path) -> Place:
        """The key's place, or that of the nearest table around it."""
        while path:
            if path in self.keys:
                return self.keys[path]
            path = path[:-1]
        return Place(1, 1)

    def value(self, path: Path) -> Place:
        return self.values.get(path) or self.key(path)


def locate(text: str) -> Places:
    """``text`` should be valid TOML; on anything else the places are of no use, but it ends."""
    return _Walker(text).walk()


class _Walker:
    """One pass over the characters; ``position`` only ever grows."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.position = 0
        self.places = Places()
        self.counts: dict[Path, int] = {}  # how many [[x]] so far
        self.starts = [0]
        for index, ch in enumerate(self.text):
            if ch == "\n":
                self.starts.append(index + 1)

    def walk(self) -> Places:
        table: Path = ()
        while True:
            self._blank()
            ch = self._peek()
            if not ch:
                return self.places
            if ch == "[":
                table = self._header()
            else:
                self._pair(table)

    # -- small steps --------------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self.text[self.position] if self.position < len(self.text) else ""

    def _place(self) -> Place:
        low, high = 0, len(self.starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= self.position else (low, middle)
        return Place(low + 1, self.position - self.starts[low] + 1)

    def _blank(self, *, lines: bool = True) -> None:
        """Skip blanks, and with ``lines`` also line ends and comments."""
        while ch := self._peek():
            if ch in " \t" or (lines and ch == "\n"):
                self.position += 1
            elif ch == "#" and lines:
                end = self.text.find("\n", self.position)
                self.position = len(self.text) if end < 0 else end
            else:
                return

    def _key(self) -> tuple[str, ...]:
        """A possibly dotted key."""
        parts = []
        while True:
            self._blank(lines=False)
            start = self.position
            if self._peek() in ("'", '"'):
                self._string()
                parts.append(self.text[start + 1 : self.position - 1])
            else:
                while (ch := self._peek()) and (ch.isalnum() or ch in "-_"):
                    self.position += 1
                parts.append(self.text[start : self.position])
            if start == self.position:
                self.position += 1  # not TOML: never stand still
            self._blank(lines=False)
            if self._peek() != ".":
                return tuple(parts)
            self.position += 1

    def _string(self) -> None:
        quote = self._peek()
        triple = self.text.startswith(quote * 3, self.position)
        end = quote * 3 if triple else quote
        self.position += len(end)
        while self.position < len(self.text) and not self.text.startswith(end, self.position):
            self.position += 2 if quote == '"' and self._peek() == "\\" else 1
        self.position += len(end)
        while triple and self._peek() == quote:  # up to two quotes may stand before the closing three
            self.position += 1

    # -- structure ----------------------------------------------------------------------------------------------------

    def _header(self) -> Path:
        place, start = self._place(), self.position
        array = self.text.startswith("[[", self.position)
        self.position += 2 if array else 1
        parts = self._key()
        self._blank(lines=False)
        self.position += 2 if array else 1
        path: Path = ()
        for index, part in enumerate(parts):
            path = (*path, part)
            last = index == len(parts) - 1
            if last and array:
                number = self.counts.get(path, 0)
                self.counts[path] = number + 1
                self.places.keys.setdefault(path, place)
                path = (*path, number)
            elif path in self.counts:
                path = (*path, self.counts[path] - 1)
            if last:
                self.places.keys[path] = place
            else:
                self.places.keys.setdefault(path, place)
        self.places.headers.setdefault(path, (start, self.position))
        return path

    def _pair(self, table: Path) -> None:
        place, start = self._place(), self.position
        parts = self._key()
        path = table
        for part in parts:
            path = (*path, part)
            self.places.keys.setdefault(path, place)
        self._blank(lines=False)
        if self._peek() == "=":
            self.position += 1
        self._value(path)
        self.places.pairs.setdefault(path, (start, self.places.spans[path][1]))
        self.places.inside.setdefault(path, table)

    def _value(self, path: Path) -> None:
        """Containers nest as deep as tomllib let them, which its own recursion bounds."""
        self._blank(lines=False)
        self.places.values.setdefault(path, self._place())
        start = self.position
        self._skip_value(path)
        end = start + len(self.text[start : self.position].rstrip(" \t"))
        self.places.spans.setdefault(path, (start, end))

    def _skip_value(self, path: Path) -> None:
        ch = self._peek()
        if ch in ("'", '"'):
            self._string()
        elif ch == "[":
            self.position += 1
            index = 0
            while self._inside("]"):
                before = self.position
                self._value((*path, index))
                self.position += self.position == before  # not TOML: never stand still
                index += 1
        elif ch == "{":
            self.position += 1
            while self._inside("}"):
                self._pair(path)
        else:
            while (ch := self._peek()) and ch not in ",]}#\n":
                self.position += 1

    def _inside(self, closing: str) -> bool:
        """Go to the next element of a container; False (and past the end) when there is none."""
        self._blank()
        if self._peek() == ",":
            self.position += 1
            self._blank()
        if self._peek() in (closing, ""):
            self.position += 1
            return False
        return True
