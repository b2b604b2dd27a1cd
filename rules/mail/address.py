"""Address lists: From, To and their like.

Specification: RFC 5322 3.4, 4.4 (obsolete routes, phrases with dots, empty list elements), 6532 (UTF-8). Complete: yes.

One pass over tokens, no backtracking, no recursion. Broken lists give what can be understood: missing angle brackets,
bare words, unterminated strings, comments and groups. An address without "@" has the empty domain; a mailbox without
any address has both parts empty (`valid` tells). Local parts are kept unquoted, domain literals keep their brackets.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, cast

from rules.mail import charset, comment, limits, words
from rules.mail.findings import NONE, Finding
from rules.mail.header import unescape, unfold


class Mailbox(NamedTuple):
    """One mailbox: decoded display name, unquoted local part, domain."""

    name: str
    local: str
    domain: str
    raw_name: bytes = b""
    """The display name unquoted but with its encoded words, as IMAP's ENVELOPE shows it."""
    route: str = ""
    """An obsolete source route, such as `@a,@b`."""

    @property
    def address(self) -> str:
        """`local@domain` in valid syntax (the local part quoted if need be), or the local part alone."""
        local = quote_local(self.local)
        return f"{local}@{self.domain}" if self.domain else local if self.local else ""

    @property
    def valid(self) -> bool:
        """Whether both parts are there."""
        return bool(self.local and self.domain)


class Group(NamedTuple):
    """A named group; `undisclosed-recipients:;` has no members."""

    name: str
    members: tuple[Mailbox, ...]
    raw_name: bytes = b""


@dataclass(slots=True, frozen=True)
class AddressList:
    """The items of one field, in order."""

    items: tuple[Mailbox | Group, ...]
    findings: frozenset[Finding] = NONE

    @property
    def mailboxes(self) -> tuple[Mailbox, ...]:
        """All mailboxes, members of groups among them."""
        if not any(isinstance(item, Group) for item in self.items):
            return cast(tuple[Mailbox, ...], self.items)
        found: list[Mailbox] = []
        for item in self.items:
            if isinstance(item, Group):
                found.extend(item.members)
            else:
                found.append(item)
        return tuple(found)


_ATEXT: Final = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
# What nearly all mail has: `words <dot-atom@domain>`, `"text" <...>` or the bare address, then a comma or the end.
_SIMPLE: Final = re.compile(
    rb"[ \t\r\n]*+(?:"
    rb'(?:"([^"\\\r\n]*+)"[ \t]*+|(['
    + _ATEXT
    + rb". \t\x80-\xff]*+))<([.%s]++)@([A-Za-z0-9.\-]++)>" % _ATEXT
    + rb"|([.%s]++)@([A-Za-z0-9.\-]++)" % _ATEXT
    + rb")[ \t\r\n]*+(?:,|\Z)"
)
_TOKEN: Final = re.compile(
    rb"([ \t\r\n]++)"
    rb'|"([^"\\]*+(?:\\.[^"\\]*+)*+)("?)'
    rb'|([^\x00-\x20\x7f()<>@,;:\\"\[\]]++)'
    rb"|(\[[^\[\]\\,<>]*+\]?)"
    rb"|(.)",
    re.DOTALL,
)
_BLANK, _QUOTED, _CLOSED, _ATOM, _LITERAL, _OTHER = range(1, 7)
_SPACES: Final = re.compile(rb"[ \t\r\n]+")
_DOT_ATOM: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+)*"
)


def parse_list(value: bytes) -> AddressList:
    """Read an address list (a field's value, folded or not). Linear, never raises."""
    return _known(value) if len(value) <= _KEPT_OCTETS else _Reader(value).read()


_KEPT_OCTETS: Final = 256


@lru_cache(maxsize=2048)
def _known(value: bytes) -> AddressList:
    """Trace, DMARC, Sieve and ENVELOPE ask for the same From and To; so does the next mail of a sender."""
    return _Reader(value).read()


def parse_one(value: bytes) -> Mailbox | None:
    """The first mailbox of a value, or None when there is none."""
    mailboxes = parse_list(value).mailboxes
    return mailboxes[0] if mailboxes else None


def quote_local(local: str) -> str:
    """A local part as it is written: a dot-atom as it is, else a quoted string."""
    if not local or _DOT_ATOM.fullmatch(local):
        return local
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


def split(address: str) -> tuple[str, str]:
    """Local part (unquoted) and domain of `local@domain`; the domain is empty when there is no "@"."""
    local, at, domain = address.rpartition("@")
    if not at or (address.startswith('"') and address.endswith('"') and len(address) > 1):
        local, domain = address, ""
    if len(local) > 1 and local[0] == '"' and local[-1] == '"':
        local = re.sub(r"\\(.)", r"\1", local[1:-1], flags=re.DOTALL)
    return local, domain


def render(item: Mailbox | Group) -> bytes:
    """An item as it is written into a new field."""
    if isinstance(item, Group):
        return words.encode_phrase(item.name) + b": " + b", ".join(render(m) for m in item.members) + b";"
    bare = item.address.encode("utf-8", "replace")
    if not item.name:
        return bare if item.domain or item.local else b"<>"
    return words.encode_phrase(item.name) + b" <" + bare + b">"


@dataclass(slots=True)
class _Pieces:
    """The words of the address being read. A word is glued when nothing stands between it and the one before."""

    words: list[bytes] = field(default_factory=list)
    glued: list[bool] = field(default_factory=list)
    at: int = -1
    """How many words stood before the last "@"."""
    ats: int = 0

    def mark_at(self) -> None:
        """An "@" comes. One that came before was then part of the local part, `a@b@c`."""
        self.keep_at()
        self.at = len(self.words)
        self.ats += 1

    def keep_at(self) -> None:
        """Make the last "@" a word of its own, stuck to its neighbours."""
        if self.ats:
            self.words.insert(self.at, b"@")
            self.glued.insert(self.at, self.at > 0)
            if self.at + 1 < len(self.glued):
                self.glued[self.at + 1] = True

    def phrase(self) -> bytes:
        """The words as a display name: one blank between words that stood apart."""
        return b"".join(
            word if glued or not index else b" " + word
            for index, (word, glued) in enumerate(zip(self.words, self.glued, strict=True))
        )

    def joined(self, index: int) -> bool:
        """Whether word `index` belongs to the one before: no blank between, or a dot at the seam (4.4 obs-local)."""
        return self.glued[index] or self.words[index].startswith(b".") or self.words[index - 1].endswith(b".")


class _Reader:
    """State of one pass."""

    __slots__ = (
        "angle", "comment", "count", "glue", "group", "in_route", "items", "members", "noted", "opened", "outer", "plain",
        "route", "seen", "state", "value",
    )  # fmt: skip

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.items: list[Mailbox | Group] = []
        self.members: list[Mailbox] = []
        self.group: bytes | None = None
        self.noted: set[Finding] = set()
        self.count = 0
        self.plain: bytes | None = (
            None  # the value for `comment.read`, made when the first one of the harder kind comes
        )
        self._clear()

    def _clear(self) -> None:
        self.state = _Pieces()
        self.outer: _Pieces | None = None  # the words before "<", while inside and after the brackets
        self.angle = 0  # 0 before "<", 1 inside, 2 after ">"
        self.opened = 0  # where the inside of the brackets begins
        self.in_route = False
        self.route = b""
        self.comment = b""
        self.glue = False
        self.seen = False

    def read(self) -> AddressList:
        value, position, end = self.value, 0, len(self.value)
        simple, token = _SIMPLE.match, _TOKEN.match
        fresh, budget = True, limits.ADDRESS_TOKENS
        while position < end:
            if self.count >= limits.ADDRESSES or budget <= 0:
                self.noted.add(Finding.ADDRESSES)
                break
            if fresh:
                found = simple(value, position)
                if found is not None:
                    position = found.end()
                    self._keep_simple(found)
                    continue
            found = token(value, position)
            if found is None:
                break
            budget -= 1
            position, fresh = self._take(found)
        self._finish()
        if self.group is not None:
            self.noted.add(Finding.UNTERMINATED)
            self._end_group()
        return AddressList(tuple(self.items), frozenset(self.noted) if self.noted else NONE)

    def _take(self, found: re.Match[bytes]) -> tuple[int, bool]:
        """Take one token; returns where to go on and whether a new address begins there."""
        kind = found.lastindex
        if kind == _BLANK:
            self.glue = False
        elif kind in (_ATOM, _LITERAL):
            self._word(found[0])
        elif kind == _CLOSED:
            if not found[3]:
                self.noted.add(Finding.UNTERMINATED)
            text = found[2]
            self._word(unescape(text) if b"\\" in text else text)
        else:
            return self._special(found[0], found.end())
        return found.end(), False

    def _word(self, text: bytes) -> None:
        if self.angle == 2:  # "<a@b> more": left out
            self.noted.add(Finding.BAD_ADDRESS)
            return
        state = self.state
        state.glued.append(self.glue and bool(state.words) and len(state.words) != state.at)
        state.words.append(text)
        self.glue = True
        self.seen = True

    def _special(self, octet: bytes, after: int) -> tuple[int, bool]:
        self.glue = False
        match octet:
            case b"@":
                self.in_route = self.in_route or (self.angle == 1 and not self.seen and not self.route)
                if self.state.ats:
                    self.noted.add(Finding.BAD_ADDRESS)
                self.state.mark_at()
                self.seen = True
            case b",":
                if not self.in_route:  # 4.4 obs-domain-list
                    self._finish()
                    return after, True
            case b"<":
                self._open_angle(after)
            case b">":
                if self.angle == 1:
                    self.angle = 2
                else:
                    self.noted.add(Finding.BAD_ADDRESS)
            case b":":
                return after, self._colon(after)
            case b";":
                self._finish()
                if self.group is None:
                    self.noted.add(Finding.BAD_ADDRESS)
                else:
                    self._end_group()
                return after, True
            case b"(":
                return self._skip_comment(after - 1), False
            case b"\\":
                if after < len(self.value):  # 4.1 obs-qp outside of a quoted string
                    self.glue = bool(self.state.words)
                    self._word(self.value[after : after + 1])
                    return after + 1, False
            case _:
                self.noted.add(Finding.BAD_ADDRESS)
        return after, False

    def _open_angle(self, after: int) -> None:
        if self.angle:
            self.noted.add(Finding.BAD_ADDRESS)
            return
        self.state.keep_at()
        self.outer, self.state, self.angle, self.opened = self.state, _Pieces(), 1, after
        self.seen = False

    def _colon(self, after: int) -> bool:
        state = self.state
        if self.angle == 1:
            if self.in_route:  # 4.4 obs-route: all that stood before
                self.route = _SPACES.sub(b"", self.value[self.opened : after - 1])
                self.state, self.in_route = _Pieces(), False
            else:
                self.noted.add(Finding.BAD_ADDRESS)
            return False
        if self.angle or self.group is not None or state.ats:
            self.noted.add(Finding.BAD_ADDRESS)
            return False
        self.group = state.phrase()
        self._clear()
        return True

    def _skip_comment(self, start: int) -> int:
        """Past a comment with all that is nested in it; its text may become the name."""
        end, deep, closed = comment.shallow_end(self.value, start), False, True
        if not end:
            if self.plain is None:
                self.plain = comment.harmless(self.value)
            end, deep, closed = comment.read(self.plain, start)
        if closed:
            self.comment = self.value[start + 1 : end - 1]
        else:
            self.noted.add(Finding.UNTERMINATED)
            self.comment = self.value[start + 1 : end]
        if deep:
            self.noted.add(Finding.COMMENT_DEPTH)
            self.comment = b""
        return end

    def _keep_simple(self, found: re.Match[bytes]) -> None:
        quoted, phrase, local, domain, bare_local, bare_domain = found.groups()
        if bare_local is not None:
            self._keep(Mailbox("", bare_local.decode("ascii"), bare_domain.decode("ascii")))
            return
        raw = quoted if quoted is not None else b" ".join(phrase.split())
        self._keep(Mailbox(words.decode(raw), local.decode("ascii"), domain.decode("ascii"), raw))

    def _keep(self, mailbox: Mailbox) -> None:
        self.count += 1
        if self.group is None:
            self.items.append(mailbox)
        else:
            self.members.append(mailbox)

    def _end_group(self) -> None:
        raw = self.group or b""
        self.items.append(Group(words.decode(raw), tuple(self.members), raw))
        self.group, self.members = None, []
        self.count += 1

    def _finish(self) -> None:
        """End the address being read, if there is one."""
        if not self.seen and not self.angle:
            self._clear()
            return
        if self.angle == 1:
            self.noted.add(Finding.UNTERMINATED)
        phrase, local, domain = _address(self.state, in_angle=self.angle > 0)
        raw = self.outer.phrase() if self.outer is not None else b" ".join(phrase)
        if not raw and self.comment:
            raw = unescape(self.comment).strip()
        raw = unfold(raw)
        if not local or not domain:
            self.noted.add(Finding.BAD_ADDRESS)
        self._keep(
            Mailbox(
                words.decode(raw),
                charset.lenient(local),
                charset.lenient(domain),
                raw,
                charset.lenient(self.route),
            )
        )
        self._clear()


def _address(state: _Pieces, in_angle: bool) -> tuple[list[bytes], bytes, bytes]:
    """Split the words of an addr-spec into words that belong to a name, local part and domain."""
    texts, at = state.words, state.at
    if at < 0:
        if in_angle or len(texts) <= 1 or all(state.joined(i) for i in range(1, len(texts))):
            return [], b"".join(texts) if not in_angle else b" ".join(texts), b""
        return texts, b"", b""
    begin = at - 1
    while begin > 0 and (in_angle or state.joined(begin)):
        begin -= 1
    begin = max(begin, 0)
    after = at + 1
    while after < len(texts) and state.joined(after):
        after += 1
    local = b"".join(texts[begin:at])
    domain = b"".join(texts[at:after])
    return texts[:begin] + texts[after:], local, domain
