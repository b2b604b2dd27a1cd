"""What a takeover of another program's files has so far: values for keys, and what became of every line that was read.

The rule is FEATURES' for converters: never guess. A line becomes a key of the same meaning, a key with a NOTE where the
meaning changes, "same" when filterd does so anyway or has no need of it, or "left" with the reason. No line is dropped without
one of these.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from filterd.config.values import BadValue, host_name, socket_address

_SECRET = re.compile(r"(?i)^([\w./ -]*(?:pass(?:word|wd)?|secret|token)\s*[= ])(?!\s*[<$]?/).*$", re.DOTALL)


def _open(value: object) -> str:
    """Without the password of a next hop."""
    return re.sub(r"//[^@/]*@", "//(secret)@", repr(value))


class Fate(Enum):
    TAKEN = "taken over"
    NOTED = "taken over, see its NOTE"
    SAME = "nothing to do"
    LEFT = "left out"


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line of a file that was read, as people find it."""

    file: str
    number: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}" if self.number else self.file

    @property
    def shown(self) -> str:
        """The text, without the password that it may hold."""
        return _SECRET.sub(r"\1 (secret)", self.text)


@dataclass(frozen=True, slots=True)
class Outcome:
    line: Line
    fate: Fate
    why: str


@dataclass(slots=True)
class Setting:
    """A value in TOML's terms. ``key`` is dotted, below the domain's or element's table where it belongs to one."""

    value: object
    line: Line
    note: str = ""


@dataclass(slots=True)
class Table:
    """One element of an array of tables: ``head`` such as "domain" or "stage.milters"."""

    head: str
    name: str
    settings: dict[str, Setting] = field(default_factory=dict)


Target = tuple[str, str]  # head and name of an element; ("", "") for the rest of the file
WHOLE: Target = ("", "")


@dataclass(slots=True)
class Draft:
    """Filled by the readers, one after the other."""

    names: tuple[str, ...] = ()  # of all programs that are taken over together
    settings: dict[str, Setting] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    asked: tuple[str, ...] = ()  # domains that are ours because the person said so
    outcomes: list[Outcome] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)  # addresses that need `filterd account add`
    done: set[str] = field(default_factory=set)  # programs that were read

    # -- what became of a line -------------------------------------------------------------------------------------

    def set(self, line: Line, key: str, value: object, note: str = "", at: Target = WHOLE) -> bool:
        """False when somebody else has set it to something else: the first one stays, and it is told."""
        settings = self.settings if at == WHOLE else self.table(*at).settings
        old = settings.get(key)
        if old is not None and not old.line.file:
            self.same(line, f"{self.shown(key, at)} is what you said: {old.value}")
            return False
        if old is not None and old.value != value:
            self.left(line, f"{self.shown(key, at)} is {_open(old.value)} already, by {old.line.place}")
            return False
        if old is None:
            settings[key] = Setting(value, line, note)
        self._end(
            line, Fate.NOTED if note else Fate.TAKEN, f"{self.shown(key, at)}" + (f": {note}" if note else "")
        )
        return True

    def add(self, line: Line, key: str, values: Sequence[object], note: str = "", at: Target = WHOLE) -> None:
        """To a list; what is in it already stays once."""
        settings = self.settings if at == WHOLE else self.table(*at).settings
        entry = settings.setdefault(key, Setting([], line, note))
        assert isinstance(entry.value, list)
        entry.value += [value for value in values if value not in entry.value]
        self._end(
            line, Fate.NOTED if note else Fate.TAKEN, f"{self.shown(key, at)}" + (f": {note}" if note else "")
        )

    def same(self, line: Line, why: str) -> None:
        self._end(line, Fate.SAME, why)

    def left(self, line: Line, why: str) -> None:
        self._end(line, Fate.LEFT, why)

    def _end(self, line: Line, fate: Fate, why: str) -> None:
        self.outcomes.append(Outcome(line, fate, why))

    # -- tables ------------------------------------------------------------------------------------------------------

    def table(self, head: str, name: str) -> Table:
        for one in self.tables:
            if (one.head, one.name) == (head, name):
                return one
        made = Table(head, name)
        self.tables.append(made)
        return made

    def domains(self) -> list[str]:
        return [one.name for one in self.tables if one.head == "domain"]

    def domain(self, name: str) -> Target | None:
        """The table of a domain, made when there is none; None when the name is none."""
        try:
            folded = host_name(name)
        except BadValue:
            return None
        if "domain" not in [one.head for one in self.tables if one.name == folded]:
            self.table("domain", folded).settings["name"] = Setting(folded, Line("", 0, ""))
        return "domain", folded

    @staticmethod
    def shown(key: str, at: Target = WHOLE) -> str:
        return key if at == WHOLE else f"{at[0]}[{at[1]}].{key}"


def socket_text(text: str) -> str | None:
    """A milter's or LMTP's place in our spelling; None when it is none that we can write."""
    try:
        address = socket_address(text.removeprefix("inet:") if text.startswith("inet:[") else text)
    except BadValue:
        return None
    if address.name or (not address.path and not address.port):
        return None
    return str(address)


def machine_name() -> str:
    """The name that this machine has, for programs that take it when nobody says another."""
    return socket.gethostname()
