"""Alias files of other mail servers, read as they are: sendmail's aliases(5), Postfix's virtual(5), regexp_table(5),
pcre_table(5).

Pure: text in, ``Table`` out, with a ``Fault`` for each line that cannot be taken (config check prints them all). A logical
line begins without blanks; lines that begin with a blank continue it; comment lines and empty ones do not count anywhere.

``aliases``: ``name: target, target``; a target is an address, a name, a name behind a backslash, ``:include:/path``, and
``|command`` or ``/file`` (``outlets``); where one of these is not allowed, the alias is refused as a whole, so that nothing is half
delivered.
``virtual`` (the source text of hash: and the like): ``user@domain``, ``user`` or ``@domain``, then targets; ``@other`` keeps the
name and changes the domain. Patterns: ``/expression/flags targets`` with ``$1``, ``!/.../``, ``if``/``endif``; expressions run by
re2, so what needs look-around or back-references is a fault. Parts of an address never become targets of their own: a result
is split first, then filled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from filterd.accounts.names import fold_domain, fold_local, split
from filterd.accounts.outlets import ALIAS, FILE_MARK, FORWARD, INCLUDE, PROGRAM_MARK, Outlet, Permits
from rules.limits import Limits
from rules.regexes import Pattern, compile_pattern

HASHES = ("hash", "texthash", "btree", "lmdb", "cdb", "dbm")  # their source text: one format
PATTERNS = ("regexp", "pcre")
KINDS = ("aliases", *HASHES, *PATTERNS)
MAX_DEPTH = 5  # of :include:
MAX_RULES = 2_000  # expressions of one file: each address is looked up in all of them
FLAGS = "imsxAEUX"
NOTHING_ALLOWED = Permits()
_LIMITS = Limits()
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPED = re.compile(r"\\(.)")
_PLACEHOLDER = re.compile(r"\$(?:\$|(\d{1,2})|\{(\d{1,2})\}|\((\d{1,2})\))")

Include = Callable[
    [str], str
]  # a path -> its text; raises OSError, and ValueError with words when it may not be read


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a name leads. ``refused``: why it leads nowhere, in words for the operator; ``source``: "PATH:LINE"."""

    targets: tuple[str, ...]
    source: str
    refused: str = ""
    outlets: tuple[Outlet, ...] = ()

    @property
    def told(self) -> str:
        """For people."""
        return ", ".join((*self.targets, *map(str, self.outlets)))


@dataclass(frozen=True, slots=True)
class Rule:
    """One expression over whole addresses. ``within``: all of these must hold before (if ... endif), each as (pattern, wanted)."""

    pattern: Pattern
    wanted: bool
    targets: tuple[str, ...]
    source: str
    within: tuple[tuple[Pattern, bool], ...] = ()

    def match(self, address: str) -> Entry | None:
        if any((pattern.search(address) is not None) is not wanted for pattern, wanted in self.within):
            return None
        found = self.pattern.search(address)
        if (found is not None) is not self.wanted:
            return None
        parts = ("", *found.groups("")) if found is not None else ("",)
        return Entry(tuple(filled(target, parts) for target in self.targets), self.source)


@dataclass(frozen=True, slots=True)
class Fault:
    """``lost``: nobody knows what the line says, so names may be missing. ``column``: of the word that is meant, 0 = the line."""

    line: int
    text: str
    lost: bool = True
    column: int = 0

    @property
    def place(self) -> str:
        """ "LINE" or "LINE:COLUMN"."""
        return f"{self.line}:{self.column}" if self.column else str(self.line)


@dataclass(slots=True)
class Table:
    """``names`` by folded key: ``local``, ``local@domain`` or ``@domain``. ``refused`` are entries that lead nowhere."""

    names: dict[str, Entry] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not any(fault.lost for fault in self.faults)

    def find(self, local: str, domain: str, written: str = "") -> Entry | None:
        """Folded parts. The address before the bare name (virtual(5)), then the first expression, which sees the local part
        as it was ``written`` (regexp_table(5): the flag i makes capitals count)."""
        entry = self.names.get(f"{local}@{domain}") or self.names.get(local)
        if entry is not None:
            return entry
        address = f"{written or local}@{domain}"
        return next((entry for rule in self.rules if (entry := rule.match(address)) is not None), None)


def read(
    kind: str,
    text: str,
    path: str,
    domain: str,
    include: Include | None = None,
    permits: Permits = NOTHING_ALLOWED,
) -> Table:
    """The table of one file for mail of ``domain``. Raises OSError when an included file cannot be read."""
    if kind in PATTERNS:
        return _Patterns(path, domain, pcre=kind == "pcre").read(text)
    reader = (
        _Aliases(path, domain, _Reading(domain, include, permits))
        if kind == "aliases"
        else _Virtual(path, domain)
    )
    table = Table()
    lines = lines_of(text)
    for number, line in logical_lines(text):
        try:
            reader.line(table, number, line)
        except _Twice as error:
            table.faults.append(Fault(number, str(error), lost=False))
        except _Refused as error:
            line_number, column = _place(lines, number, error.word)
            table.faults.append(Fault(line_number, str(error), lost=False, column=column))
        except _Wrong as error:
            line_number, column = _place(lines, number, error.word)
            table.faults.append(Fault(line_number, str(error), column=column))
        except ValueError as error:
            table.faults.append(Fault(number, str(error)))
    return table


class _Twice(ValueError):
    """The name stands further up already."""


class _Wrong(ValueError):
    """``word``: what is meant."""

    def __init__(self, text: str, word: str) -> None:
        super().__init__(text)
        self.word = word


class _Refused(_Wrong):
    """It is understood, and not followed."""


def _place(lines: list[str], number: int, word: str) -> tuple[int, int]:
    """Line and column of ``word`` in the logical line that begins in line ``number``, from 1; column 0: not found."""
    for at in range(number - 1, len(lines)):
        line = lines[at]
        if at >= number and line.strip() and line[0] not in " \t#":
            break
        column = -1 if line.lstrip().startswith("#") else line.find(word)
        if column >= 0:
            return at + 1, column + 1
    return number, 0


def lines_of(text: str) -> list[str]:
    """Lines end with LF and nothing else: a form feed in a comment begins no line. A mark of the byte order is none of the text."""
    return [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text) with continuations joined."""
    start, parts = 0, list[str]()
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and parts:
            parts.append(line.strip())
            continue
        if parts:
            yield start, " ".join(parts)
        start, parts = number, [line.strip()]
    if parts:
        yield start, " ".join(parts)


def filled(template: str, parts: tuple[str, ...]) -> str:
    """$1, ${1}, $(1) from the groups; $$ is a dollar."""

    def part(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        number = int(found[1] or found[2] or found[3])
        return parts[number] if number < len(parts) else ""

    return _PLACEHOLDER.sub(part, template)


def items(text: str, blanks: bool) -> list[str]:
    """Comma-separated, with ``blanks`` also blank-separated; double quotes keep both inside. Raises ValueError."""
    out, word, quoted, escaped = list[str](), "", False, False
    for ch in text:
        if escaped:
            word, escaped = word + ch, False
        elif ch == "\\" and quoted:
            word, escaped = word + ch, True
        elif ch == '"':
            word, quoted = word + ch, not quoted
        elif not quoted and (ch == "," or (blanks and ch.isspace())):
            out.append(word.strip())
            word = ""
        else:
            word += ch
    if quoted:
        raise ValueError("a quote is not closed")
    out.append(word.strip())
    return [one for one in out if one]


def _unquoted(word: str) -> str:
    """``"|take x"`` and ``|"take x"`` are both ``|take x`` to sendmail and Postfix, and a backslash there quotes what follows."""
    mark = PROGRAM_MARK if word.startswith(PROGRAM_MARK) else ""
    rest = word.removeprefix(mark).lstrip() if mark else word
    if len(rest) < 2 or not rest[0] == rest[-1] == '"' or (mark and not _QUOTED.fullmatch(rest)):
        return word
    return mark + _ESCAPED.sub(r"\1", rest[1:-1])


def mailbox_of(text: str) -> str:
    """``Ann <ann@x>`` and ``ann@x (Ann)`` -> ``ann@x``, as sendmail and Postfix read them (RFC 5322)."""
    bare = text
    if bare.endswith(")") and " (" in bare:
        bare = bare[: bare.index(" (")].rstrip()
    before, angle, inside = bare.rpartition("<")
    if angle and inside.endswith(">") and before.count('"') % 2 == 0:
        return inside[:-1].strip()
    return bare


def target_address(text: str, domain: str) -> str:
    """``bob`` -> ``bob@domain``. Raises ValueError for what is no address."""
    local, place = split(text)
    odd = any(ch.isspace() or ch in '<>,;:|"' for ch in _QUOTED.sub("", text))
    if not local or odd or not text.isprintable():  # octets that are no UTF-8 are not printable either
        raise ValueError(f'"{text}" is not an address')
    return text if place else f"{text}@{domain}"


@dataclass(slots=True)
class _Aliases:
    path: str
    domain: str
    reading: _Reading

    def line(self, table: Table, number: int, text: str) -> None:
        name, rest = self._name(text)
        source = f"{self.path}:{number}"
        found, refused = _Found(), _Refused("", "")
        try:
            self.reading.take(items(rest, blanks=False), found)
            if not found.targets and not found.outlets:
                raise ValueError(f'"{name}" leads nowhere')
        except _Refused as error:
            found, refused = _Found(), error
        local, domain = split(name)
        key = f"{fold_local(local)}@{fold_domain(domain)}" if domain else fold_local(local)
        if key in table.names:
            raise _Twice(f'"{name}" is there twice: {table.names[key].source} holds')
        table.names[key] = Entry(tuple(found.targets), source, str(refused), tuple(found.outlets))
        if refused.word:
            raise _Refused(f'"{name}": {refused}', refused.word)

    @staticmethod
    def _name(text: str) -> tuple[str, str]:
        if text.startswith('"'):
            end = text.find('"', 1)
            name, rest = text[: end + 1], text[end + 1 :].lstrip()
        else:
            name, colon, rest = text.partition(":")
            rest = colon + rest
        if not rest.startswith(":") or not name.strip('" '):
            raise ValueError("expected: NAME: TARGET, TARGET")
        return name.strip(), rest[1:]


@dataclass(slots=True)
class _Found:
    targets: list[str] = field(default_factory=list)
    outlets: list[Outlet] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the targets of an aliases(5) file, or of a .forward (``owner``: whose), are taken."""

    domain: str
    include: Include | None
    permits: Permits
    owner: str = ""

    def take(self, words: list[str], found: _Found, depth: int = 0) -> None:
        """Raises _Refused for what cannot be followed, ValueError for what nobody understands."""
        for word in words:
            bare = _unquoted(word)
            if bare.startswith((PROGRAM_MARK, FILE_MARK)):
                self._outlet(bare, found, depth)
            elif bare.lower().startswith(":include:"):
                self._included(bare, found, depth)
            elif bare.startswith(":") or bare.lower().startswith("error:"):
                raise _Refused(f'"{bare.split(":")[0] or bare}" is a word of another mail server', bare)
            else:
                try:
                    found.targets.append(target_address(mailbox_of(bare).removeprefix("\\"), self.domain))
                except ValueError as error:
                    raise _Wrong(str(error), bare) from None

    def _outlet(self, text: str, found: _Found, depth: int) -> None:
        kind = INCLUDE if depth else FORWARD if self.owner else ALIAS
        try:
            outlet = self.permits.outlet(text, kind, self.owner)
        except ValueError as error:
            raise _Refused(str(error), text) from None
        if outlet not in found.outlets:
            found.outlets.append(outlet)

    def _included(self, word: str, found: _Found, depth: int) -> None:
        if self.include is None:
            switch = "accounts.forward.includes" if self.owner else "accounts.alias_includes"
            raise _Refused(f":include: is off ({switch})", word)
        if depth >= MAX_DEPTH:
            raise _Refused(":include: is nested too deeply", word)
        try:
            text = self.include(word[9:].strip())
        except ValueError as error:
            raise _Refused(str(error), word) from None
        words = [one for _, line in logical_lines(text) for one in items(line, blanks=False)]
        try:
            self.take(words, found, depth + 1)
        except _Refused as error:
            raise _Refused(str(error), word) from None
        except _Wrong as error:
            raise _Wrong(f"{word[9:].strip()}: {error}", word) from None


def forward_entry(
    lines: list[str],
    domain: str,
    source: str,
    owner: str = "",
    include: Include | None = None,
    permits: Permits = NOTHING_ALLOWED,
) -> Entry:
    """Of lines with comma-separated targets, as in a .forward. Raises ValueError, and what ``include`` raises."""
    found = _Found()
    words = [word for line in lines for word in items(line, blanks=False)]
    try:
        _Reading(domain, include, permits, owner).take(words, found)
    except _Refused as error:
        return Entry((), source, str(error))
    return Entry(tuple(found.targets), source, "", tuple(found.outlets))


@dataclass(slots=True)
class _Virtual:
    path: str
    domain: str

    def line(self, table: Table, number: int, text: str) -> None:
        key, rest = _first_word(text)
        if not rest:
            raise ValueError("expected: ADDRESS TARGET, TARGET")
        local, domain = split(key)
        if "@" not in key and fold_domain(key) == self.domain:
            return  # names the domain itself, for Postfix
        name = f"{fold_local(local)}@{fold_domain(domain)}" if domain else fold_local(local)
        if name in table.names:
            raise _Twice(f'"{key}" is there twice: {table.names[name].source} holds')
        table.names[name] = Entry(virtual_targets(rest, self.domain), f"{self.path}:{number}")


def virtual_targets(text: str, domain: str) -> tuple[str, ...]:
    """Raises ValueError."""
    found = [
        f"@{fold_domain(word[1:])}"
        if word.startswith("@") and len(word) > 1
        else target_address(word, domain)
        for word in items(text, blanks=True)
    ]
    if not found:
        raise ValueError("leads nowhere")
    return tuple(found)


def _first_word(text: str) -> tuple[str, str]:
    if text.startswith('"'):  # "a b"@example.org
        end = text.find('"', 1)
        blank = re.search(r"\s", text[end + 1 :])
        at = end + 1 + blank.start() if blank else len(text)
        return text[:at], text[at:].strip()
    key, _, rest = text.replace("\t", " ").partition(" ")
    return key, rest.strip()


@dataclass(slots=True)
class _Patterns:
    path: str
    domain: str
    pcre: bool
    _within: list[tuple[Pattern, bool]] = field(default_factory=list)

    def read(self, text: str) -> Table:
        table = Table()
        for number, line in logical_lines(text):
            try:
                self._line(table, number, line)
            except ValueError as error:
                table.faults.append(Fault(number, str(error)))
                if line.lower().startswith("if "):
                    break  # what stands inside must not hold everywhere
        if self._within and not table.faults:
            table.faults.append(Fault(len(lines_of(text)), "an if without endif"))
        return table

    def _line(self, table: Table, number: int, line: str) -> None:
        if line.lower().split()[0] == "endif":
            if not self._within:
                raise ValueError("endif without if")
            self._within.pop()
            return
        if line.lower().startswith("if "):
            pattern, wanted, rest = self._expression(line[3:].strip())
            self._within.append((pattern, wanted))
            if rest:  # a statement that is indented, most often: it continues the line
                text = "what stands behind the expression of an if does not count, as with Postfix"
                table.faults.append(Fault(number, text, lost=False))
            return
        pattern, wanted, rest = self._expression(line)
        if len(table.rules) >= MAX_RULES:
            raise ValueError(f"more than {MAX_RULES} expressions")
        if not wanted and _PLACEHOLDER.search(rest):
            raise ValueError("what does not match has no parts ($1)")
        targets = virtual_targets(rest, self.domain)
        table.rules.append(Rule(pattern, wanted, targets, f"{self.path}:{number}", tuple(self._within)))

    def _expression(self, text: str) -> tuple[Pattern, bool, str]:
        """(pattern, should it match?, what follows)."""
        wanted = not text.startswith("!")
        text = text.removeprefix("!").lstrip()
        mark = text[:1]
        if not mark or mark.isalnum() or mark.isspace():
            raise ValueError("expected: /EXPRESSION/ TARGETS")
        at = 1
        while at < len(text) and text[at] != mark:
            at += 2 if text[at] == "\\" else 1
        if at >= len(text):
            raise ValueError(f"the expression does not end: {mark} is missing")
        flags, _, rest = text[at + 1 :].replace("\t", " ").partition(" ")
        source = text[1:at].replace(f"\\{mark}", mark) if mark == "/" else text[1:at]
        return compiled(self._with_flags(source, flags), fold=flags.count("i") % 2 == 0), wanted, rest.strip()

    def _with_flags(self, source: str, flags: str) -> str:
        for flag in flags:
            if flag not in FLAGS:
                raise ValueError(f'"{flag}" is no flag')
            if flag in "AEX" or (flag in "xU" and self.pcre) or (flag == "x" and not self.pcre):
                raise ValueError(f'the flag "{flag}" cannot be translated')
        if "m" in flags:  # one line is all there is: ^ and $ mean the same
            source = f"(?m){source}"
        return source


def compiled(source: str, fold: bool) -> Pattern:
    """Raises ValueError with re2's words."""
    found = compile_pattern(source, _LIMITS, fold=fold)
    if isinstance(found, str):
        raise ValueError(f"the expression cannot be used: {found}")
    return found
