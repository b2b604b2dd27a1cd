"""The grammar of SEARCH: octets to a tree of keys.

Specification: RFC 9051 6.4.4, RFC 3501 6.4.4 (NEW, OLD, RECENT), RFC 5032 (WITHIN), RFC 5182 ($), RFC 7162 3.1.5 (MODSEQ),
RFC 8474 5.5, RFC 8514, RFC 6203 (FUZZY),
RFC 9738 (UIDAFTER, UIDBEFORE). Complete. Depth and the number of keys are limited; OR chains are flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

from filterd.imap.errors import Bad, No
from filterd.imap.numset import MAX_NUMBER, NumSet
from filterd.imap.parse import Parser
from rules.comparator import search_form
from rules.mail import charset as charsets

_MAX_DEPTH = 100  # NOT and OR; a chain of ORs is as deep as it is long


@dataclass(frozen=True, slots=True)
class All:
    pass


@dataclass(frozen=True, slots=True)
class Flag:
    """``name`` as IMAP writes it."""

    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class Numbers:
    """By message number or by UID; ``set.saved`` is ``$``."""

    set: NumSet
    uid: bool


@dataclass(frozen=True, slots=True)
class Size:
    larger: bool
    octets: int


@dataclass(frozen=True, slots=True)
class Moment:
    """``field`` internal, saved or sent; ``relation`` before, on or since; whole days, time zone disregarded."""

    field: str
    relation: str
    day: date


@dataclass(frozen=True, slots=True)
class Age:
    """WITHIN: INTERNALDATE within (``younger``) or not within the last ``seconds``; ``saved``: the save date."""

    younger: bool
    seconds: int


@dataclass(frozen=True, slots=True)
class ModSeq:
    least: int


@dataclass(frozen=True, slots=True)
class ObjectId:
    """``thread``: no message has a thread id here, so nothing matches."""

    value: str
    thread: bool


@dataclass(frozen=True, slots=True)
class Header:
    """``name`` lower case; ``text`` case-folded, "" = the field exists."""

    name: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """``text`` case-folded; ``header``: TEXT looks at the header too, BODY does not."""

    text: str
    header: bool


@dataclass(frozen=True, slots=True)
class Loose:
    """FUZZY: how it matches is in ``fuzzy``."""

    key: Header | Text


@dataclass(frozen=True, slots=True)
class Not:
    key: Key


@dataclass(frozen=True, slots=True)
class Or:
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class And:
    keys: tuple[Key, ...]


Key = All | Flag | Numbers | Size | Moment | Age | ModSeq | ObjectId | Header | Text | Loose | Not | Or | And

_FLAGS: Mapping[bytes, Key] = MappingProxyType(
    {
        b"ALL": All(),
        b"ANSWERED": Flag("\\Answered", True),
        b"UNANSWERED": Flag("\\Answered", False),
        b"DELETED": Flag("\\Deleted", True),
        b"UNDELETED": Flag("\\Deleted", False),
        b"DRAFT": Flag("\\Draft", True),
        b"UNDRAFT": Flag("\\Draft", False),
        b"FLAGGED": Flag("\\Flagged", True),
        b"UNFLAGGED": Flag("\\Flagged", False),
        b"SEEN": Flag("\\Seen", True),
        b"UNSEEN": Flag("\\Seen", False),
        # \Recent is never set here: RFC 9051 does away with it, and a server may always say 0 RECENT.
        b"RECENT": Not(All()),
        b"NEW": Not(All()),
        b"OLD": All(),
        b"SAVEDATESUPPORTED": All(),
    }
)
_MOMENTS = MappingProxyType(
    {
        b"BEFORE": ("internal", "before"),
        b"ON": ("internal", "on"),
        b"SINCE": ("internal", "since"),
        b"SENTBEFORE": ("sent", "before"),
        b"SENTON": ("sent", "on"),
        b"SENTSINCE": ("sent", "since"),
        b"SAVEDBEFORE": ("saved", "before"),
        b"SAVEDON": ("saved", "on"),
        b"SAVEDSINCE": ("saved", "since"),
    }
)
_ADDRESSES = frozenset((b"FROM", b"TO", b"CC", b"BCC", b"SUBJECT"))


class KeyParser:
    """Reads keys with one charset. ``modseq`` and ``fuzzy`` tell afterwards whether MODSEQ and FUZZY were among them."""

    def __init__(self, p: Parser, charset: str = "utf-8") -> None:
        self._p = p
        self._charset = charset
        self._count = 0
        self.modseq = False
        self.fuzzy = False
        self._more: Mapping[bytes, Callable[[], Key]] = {
            b"LARGER": lambda: Size(True, self._number()),
            b"SMALLER": lambda: Size(False, self._number()),
            b"KEYWORD": lambda: Flag(self._atom(), True),
            b"UNKEYWORD": lambda: Flag(self._atom(), False),
            b"UID": self._uid,
            b"UIDAFTER": lambda: self._side(True),
            b"UIDBEFORE": lambda: self._side(False),
            b"HEADER": self._header,
            b"BODY": lambda: Text(self._text(), False),
            b"TEXT": lambda: Text(self._text(), True),
            b"YOUNGER": lambda: Age(True, self._interval()),
            b"OLDER": lambda: Age(False, self._interval()),
            b"MODSEQ": self._modseq,
            b"EMAILID": lambda: ObjectId(self._atom(), False),
            b"THREADID": lambda: ObjectId(self._atom(), True),
        }

    def keys(self) -> Key:
        """One or more keys, all of which must hold."""
        found = [self.key(0)]
        while self._p.more():
            found.append(self.key(0))
        return found[0] if len(found) == 1 else And(tuple(found))

    def key(self, depth: int) -> Key:
        p = self._p
        self._count += 1
        if self._count > p.limits.search_keys or depth > _MAX_DEPTH:
            raise Bad("Search too complex")
        following = p.peek()
        if following == b"(":
            return self._group(depth)
        if following in b"0123456789*$" and following:
            return Numbers(p.set(), False)
        word = p.word()
        if word in _FLAGS:
            return _FLAGS[word]
        if word in _MOMENTS:
            p.sp()
            field, relation = _MOMENTS[word]
            return Moment(field, relation, p.date())
        if word in _ADDRESSES:
            return Header(word.lower(), self._text())
        if word == b"NOT":
            p.sp()
            return Not(self.key(depth + 1))
        if word == b"FUZZY":
            p.sp()
            self.fuzzy = True
            return _loosened(self.key(depth + 1))
        if word == b"OR":
            return self._or(depth)
        if word in self._more:
            return self._more[word]()
        raise Bad("Unknown search key")

    def _group(self, depth: int) -> Key:
        p = self._p
        p.open()
        found = [self.key(depth + 1)]
        while not p.close():
            p.sp()
            found.append(self.key(depth + 1))
        return found[0] if len(found) == 1 else And(tuple(found))

    def _or(self, depth: int) -> Key:
        both: list[Key] = []
        for _ in range(2):
            self._p.sp()
            key = self.key(depth + 1)
            both.extend(key.keys if isinstance(key, Or) else (key,))
        return Or(tuple(both))

    def _number(self) -> int:
        self._p.sp()
        return self._p.number(0x7FFFFFFFFFFFFFFF)

    def _interval(self) -> int:
        seconds = self._number()
        if not seconds:
            raise Bad("Expected an interval")
        return seconds

    def _atom(self) -> str:
        self._p.sp()
        return self._p.flag() if self._p.peek() == b"\\" else self._p.atom().decode("ascii")

    def _uid(self) -> Key:
        self._p.sp()
        return Numbers(self._p.set(), True)

    def _side(self, after: bool) -> Key:
        """RFC 9738 3.2: the UID itself is on neither side."""
        self._p.sp()
        uid = self._p.number()
        if not uid:
            raise Bad("Expected a UID")
        first, last = (uid + 1, MAX_NUMBER) if after else (1, uid - 1)
        return Numbers(NumSet(((first, last),)), True) if first <= last else Not(All())

    def _text(self) -> str:
        self._p.sp()
        raw = self._p.astring()
        if len(raw) > self._p.limits.search_text:
            raise Bad("Text to search for too long")
        return fold(decode(raw, self._charset))

    def _header(self) -> Key:
        self._p.sp()
        name = self._p.astring().lower()
        return Header(name, self._text())

    def _modseq(self) -> Key:
        """RFC 7162 3.1.5: an entry name and type may stand before the number; flags share one modseq here."""
        p = self._p
        p.sp()
        if p.peek() == b'"':
            p.quoted()
            p.sp()
            if p.word() not in (b"PRIV", b"SHARED", b"ALL"):
                raise Bad("Unknown entry type")
            p.sp()
        self.modseq = True
        return ModSeq(p.modseq())


def _loosened(key: Key) -> Key:
    """What is said not to be there is not there as it is written."""
    match key:
        case And(keys):
            return And(tuple(map(_loosened, keys)))
        case Or(keys):
            return Or(tuple(map(_loosened, keys)))
        case Header(_, text) | Text(text, _):
            return Loose(key) if text else key
    return key


def fold(text: str) -> str:
    """What SEARCH compares. Specification: RFC 5255 4.2 (I18NLEVEL=1), RFC 5051; and full case folding."""
    return search_form(text)


def decode(raw: bytes, charset: str) -> str:
    if raw.isascii() and charset == "utf-8":
        return raw.decode("ascii")
    if charset == "utf-8":
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Bad("The text is not UTF-8") from None
    return charsets.decode(raw, charset)


def parse_keys(p: Parser) -> tuple[KeyParser, Key]:
    """The rest of a command that searches: a charset, if it names one, and the keys."""
    charset = "utf-8"
    if p.take(b"CHARSET "):
        charset = parse_charset(p)
        p.sp()
    keys = KeyParser(p, charset)
    key = keys.keys()
    p.end()
    return keys, key


def parse_charset(p: Parser) -> str:
    """After the word CHARSET and its space: a charset that can be searched in."""
    name = p.astring().decode("ascii", "replace").lower()
    if name in ("utf-8", "us-ascii", "utf8"):
        return "utf-8"
    if not charsets.known(name):
        raise No("Unknown charset", "BADCHARSET (UTF-8 US-ASCII)")
    return name
