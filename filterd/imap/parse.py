"""A cursor over one command: the grammar's small words.

Specification: RFC 9051 section 9 (formal syntax), RFC 3501's where old clients need it. Everything raises ``Bad``.
Depth is counted by ``open``/``close``, so that no handler can forget it (Dovecot CVE-2026-27857).
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date, datetime, timedelta, timezone

from filterd.imap import names
from filterd.imap.config import ImapLimits
from filterd.imap.errors import Bad
from filterd.imap.numset import NumSet
from filterd.imap.wire import Command

_ATOM = re.compile(rb'[^\x00-\x20(){%*"\\\]\x7f-\xff]+')
_ASTRING = re.compile(rb'[^\x00-\x20(){%*"\\\x7f-\xff]+')
_LIST_ATOM = re.compile(rb'[^\x00-\x20(){"\\\x7f]+')
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_UNQUOTE = re.compile(rb'\\(["\\])')
_FLAG = re.compile(rb'\\?[^\x00-\x20(){%*"\\\]\x7f-\xff]+')
_SET = re.compile(rb"\$|[0-9*:,]+")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_DATE = re.compile(rb"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})")
_DATE_TIME = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_WORD = re.compile(rb"[A-Za-z0-9.+=/-]+")
MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")
SYSTEM = {
    "\\seen": "\\Seen",
    "\\answered": "\\Answered",
    "\\flagged": "\\Flagged",
    "\\deleted": "\\Deleted",
    "\\draft": "\\Draft",
}


class Parser:
    """``at`` walks over ``text``, the current text part; a literal stands at the end of every part but the last."""

    __slots__ = ("_command", "_depth", "_part", "at", "limits", "text", "utf8")

    def __init__(self, command: Command, limits: ImapLimits, utf8: bool = False) -> None:
        self._command = command
        self._part = 0
        self._depth = 0
        self.text = command.parts[0]
        self.at = 0
        self.limits = limits
        self.utf8 = utf8

    # -- the cursor ---------------------------------------------------------------------------------------------
    def _match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise Bad(f"Expected {what}")
        self.at = found.end()
        return found

    @property
    def at_literal(self) -> bool:
        return self.at == len(self.text) and self._part + 1 < len(self._command.parts)

    def peek(self) -> bytes:
        """The next octet, b"" at the end of a text part."""
        return self.text[self.at : self.at + 1]

    def take(self, token: bytes) -> bool:
        """Step over ``token`` if it is next (any case)."""
        end = self.at + len(token)
        if self.text[self.at : end].upper() == token:
            self.at = end
            return True
        return False

    def expect(self, token: bytes) -> None:
        if not self.take(token):
            raise Bad(f"Expected {token.decode('ascii')!r}")

    def sp(self) -> None:
        if self.peek() != b" ":
            raise Bad("Expected a space")
        self.at += 1

    def blanks(self) -> None:
        """Step over spaces that do not belong there, where a known client sends them."""
        while self.peek() == b" ":
            self.at += 1

    def more(self) -> bool:
        """Step over a space if one is next and something follows it."""
        if self.peek() != b" " or (
            self.at + 1 == len(self.text) and not self._part + 1 < len(self._command.parts)
        ):
            return False
        self.at += 1
        return True

    def rest(self) -> bytes | None:
        """All that follows, None when there are literals in it."""
        return self.text[self.at :] if self._part + 1 == len(self._command.parts) else None

    def end(self) -> None:
        """Nothing may follow (trailing blanks are forgiven: several phones send them)."""
        if self._part + 1 < len(self._command.parts) or self.text[self.at :].strip(b" "):
            raise Bad("Unexpected text at the end of the command")

    def open(self) -> None:
        self.expect(b"(")
        self._depth += 1
        if self._depth > self.limits.nesting:
            raise Bad("Parentheses nested too deep")

    def close(self) -> bool:
        """Step over ``)`` if it is next."""
        if self.peek() != b")":
            return False
        self.at += 1
        self._depth -= 1
        return True

    # -- words --------------------------------------------------------------------------------------------------
    def word(self) -> bytes:
        """A keyword of the grammar, in upper case."""
        return self._match(_WORD, "a word")[0].upper()

    def token(self) -> bytes:
        """The same, as it came (base64)."""
        return self._match(_WORD, "a word")[0]

    def atom(self) -> bytes:
        return self._match(_ATOM, "an atom")[0]

    def number(self, maximum: int = 0xFFFFFFFF) -> int:
        value = int(self._match(_NUMBER, "a number")[0])
        if value > maximum:
            raise Bad("Number too large")
        return value

    def modseq(self) -> int:
        return self.number(0x7FFFFFFFFFFFFFFF)

    def literal(self) -> tuple[bytes, bool]:
        """The literal that stands here, and whether it is a literal8."""
        if not self.at_literal:
            raise Bad("Expected a literal")
        data = self._command.parts[self._part + 1]
        wide = self._command.literal8[self._part // 2]
        self._part += 2
        self.text = self._command.parts[self._part]
        self.at = 0
        return data, wide

    def string(self) -> bytes:
        if self.at_literal:
            data, wide = self.literal()
            if wide or b"\0" in data:
                raise Bad("No NUL and no literal8 here")
            return data
        return self.quoted()

    def quoted(self) -> bytes:
        raw = self._match(_QUOTED, "a string")[1]
        return _UNQUOTE.sub(rb"\1", raw) if b"\\" in raw else raw

    def astring(self) -> bytes:
        if self.at_literal or self.peek() == b'"':
            return self.string()
        return self._match(_ASTRING, "a string")[0]

    def nstring(self) -> bytes | None:
        if self.at_literal or self.peek() == b'"':
            return self.string()
        self.expect(b"NIL")
        return None

    # -- compound words -----------------------------------------------------------------------------------------
    def mailbox(self) -> str:
        return self.name(self.astring())

    def name(self, raw: bytes) -> str:
        if len(raw) > self.limits.mailbox_octets:
            raise Bad("Mailbox name too long")
        name = names.decode(raw, self.utf8)
        if name is None:
            raise Bad("Mailbox name in no known encoding")
        return name

    def list_mailbox(self) -> str:
        if self.at_literal or self.peek() == b'"':
            raw = self.string()
        else:
            raw = self._match(_LIST_ATOM, "a mailbox pattern")[0]
        return self.name(raw)

    def set(self) -> NumSet:
        text = self._match(_SET, "a sequence set")[0]
        found = NumSet.parse(text, self.limits.set_parts)
        if found is None:
            raise Bad("Invalid sequence set")
        return found

    def flag(self) -> str:
        raw = self._match(_FLAG, "a flag")[0].decode("ascii")
        if raw.startswith("\\"):
            known = SYSTEM.get(raw.lower())
            if known is None:
                raise Bad("Unknown system flag")
            return known
        return raw

    def flag_list(self) -> tuple[str, ...]:
        """In parentheses; may be empty; \\Recent is dropped (RFC 3501 2.3.2: clients cannot alter it)."""
        flags: list[str] = []
        first = True
        self.open()
        while not self.close():
            if not first:
                self.sp()
            first = False
            if not self.take(b"\\RECENT"):
                flags.append(self.flag())
            if len(flags) > self.limits.flags:
                raise Bad("Too many flags")
        return tuple(dict.fromkeys(flags))

    def date(self) -> date:
        quoted = self.take(b'"')
        found = self._match(_DATE, "a date")
        if quoted:
            self.expect(b'"')
        return _day(found[1], found[2], found[3])

    def date_time(self) -> int:
        """INTERNALDATE in seconds since the epoch."""
        found = self._match(_DATE_TIME, "a date and time")
        day = _day(found[1].strip(), found[2], found[3])
        offset = timedelta(hours=int(found[8]), minutes=int(found[9]))
        zone = -offset if found[7] == b"-" else offset
        try:
            moment = datetime(
                day.year, day.month, day.day, int(found[4]), int(found[5]), min(int(found[6]), 59),
                tzinfo=timezone(zone),
            )  # fmt: skip
            return int(moment.timestamp())
        except (ValueError, OverflowError):
            raise Bad("No such time") from None


def _day(day: bytes, month: bytes, year: bytes) -> date:
    try:
        number = MONTHS.index(month.lower()) + 1
    except ValueError:
        raise Bad("No such month") from None
    if not 1 <= int(year) <= 9999 or not 1 <= int(day) <= monthrange(int(year), number)[1]:
        raise Bad("No such day")
    return date(int(year), number, int(day))
