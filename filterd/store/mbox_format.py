"""The mbox format: From_ lines, quoting, and the header fields in which mail programs keep a message's state.

Specification: RFC 4155 (default format, read), mboxrd as qmail's mbox(5) describes it (read and written), mboxo, mboxcl and
mboxcl2 (read). State fields as UW imapd, Dovecot, mutt and mailx know them: Status, X-Status, X-Keywords, X-UID, X-IMAPbase.

What we write (documented nowhere else), line ends LF::

    From sender@example.org Mon Nov 23 10:36:28 2026         UTC, the INTERNALDATE
    X-IMAPbase: 1790000000 0000000012 word word              in the file's first message only: UIDVALIDITY, last UID
    X-UID: 12                                                padded to 10 digits
    Status: RO                                               R seen, O not recent; padded
    X-Status: AFTD                                           answered, flagged, draft, deleted; padded
    X-Keywords: word word                                    padded: room for changes in place
    X-Filterd-Mbox: w=1 u=<mailbox id>.12 d=<INTERNALDATE> s=<saved> b=<octets> f=l n=0 [k=<delivery key>] [a=<group>]
    the message, each line of ``>*From `` with one more ``>``
    (empty line)

All these fields are hidden from clients, in messages of other programs too, as Dovecot hides them; so is Content-Length, and in
our own messages Lines. A message that comes with such a field of its own keeps it: the name is written with ``X-Kept-`` before
it. ``b``: octets of the message behind the X-Filterd-Mbox line. ``w``: 0 until these octets were synced, so that what a crash
left half written is told from what its owner has edited. ``f``: ``l`` its lines end in LF here, ``c`` in CRLF (a text with a
bare CR, which LF files could not keep). ``n=1``: the text has no line end at its end. ``a``: the first UID of the
messages that came by one COPY or APPEND; while none of them has ``w=1`` they are not there.
"""

from __future__ import annotations

import calendar
import hashlib
import re
import time
from dataclasses import dataclass

from filterd.store.base import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN
from filterd.store.record import LF_FORM, to_crlf

MAX_FROM_OCTETS = 512
KEYWORD_ROOM = 40  # octets of padding for keywords to come
BASE_OCTETS = 160  # of an X-IMAPbase line's value
ROOM_LIMIT = 4000
LOOKED_AT = 64 * 1024
PSEUDO_SUBJECT = b"DON'T DELETE THIS MESSAGE"
UNKNOWN_SENDER = b"MAILER-DAEMON"

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_FROM = re.compile(
    rb"From (?:.{0,300}? )?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +(?P<month>[A-Z][a-z]{2}) +(?P<day>[0-9]{1,2}) +"
    rb"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?(?: +(?P<zone>[A-Z]{1,5}|[+-][0-9]{4}))?"
    rb" +(?P<year>[0-9]{4}|[0-9]{2})(?: +(?P<after>[A-Z]{1,5}|[+-][0-9]{4}))?(?: remote from .{1,100})?[ \t]*\r?"
)
# As some programs write it: the date of a Date field.
_FROM_5322 = re.compile(
    rb"From (?:.{0,300}? )?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), +(?P<day>[0-9]{1,2}) +(?P<month>[A-Z][a-z]{2}) +(?P<year>[0-9]{4}) +"
    rb"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?(?: +(?P<zone>[A-Z]{1,5}|[+-][0-9]{4}))?"
    rb"(?P<after>(?!))?[ \t]*\r?"
)
_QUOTED = re.compile(rb"^>*From ", re.MULTILINE)
_UNQUOTED_RD = re.compile(rb"^>(>*From )", re.MULTILINE)
_UNQUOTED_O = re.compile(rb"^>(From )", re.MULTILINE)
_STATE = rb"status|x-status|x-keywords|x-uid"
_NAMES = _STATE + rb"|x-imap|x-imapbase|content-length"
_VALUE = rb"[ \t]*:(?P<value>[^\n]*\n?(?:[ \t][^\n]*\n)*)"
_HIDDEN = re.compile(rb"^(?P<name>" + _NAMES + rb")" + _VALUE, re.MULTILINE | re.IGNORECASE)
_HIDDEN_OWN = re.compile(
    rb"^(?P<name>" + _NAMES + rb"|lines|x-filterd-mbox)" + _VALUE, re.MULTILINE | re.IGNORECASE
)
_STATE_LINES = re.compile(rb"^(?P<name>" + _STATE + rb")" + _VALUE, re.MULTILINE | re.IGNORECASE)
_BASE_LINES = re.compile(rb"^(?P<name>x-imap|x-imapbase)" + _VALUE, re.MULTILINE | re.IGNORECASE)
_KEPT = rb"(?:x-kept-)*(?:" + _NAMES + rb"|lines|x-filterd-mbox)[ \t]*:"
_ESCAPE = re.compile(rb"^(?=" + _KEPT + rb")", re.MULTILINE | re.IGNORECASE)
_UNESCAPE = re.compile(rb"^x-kept-(?=" + _KEPT + rb")", re.MULTILINE | re.IGNORECASE)
_OWN = re.compile(rb"^X-Filterd-Mbox: (?P<attrs>[^\n]*)\n", re.MULTILINE)
_BASE = re.compile(rb"[ \t]*(?P<validity>[0-9]{1,10})[ \t]+(?P<last>[0-9]{1,10})(?P<words>[^\n]*)")
_BLANK = re.compile(rb"\n\r?\n")
_ZONES = {b"EST": -5, b"EDT": -4, b"CST": -6, b"CDT": -5, b"MST": -7, b"MDT": -6, b"PST": -8, b"PDT": -7}
_ZONES |= {b"CET": 1, b"CEST": 2, b"MET": 1, b"MEST": 2, b"EET": 2, b"EEST": 3, b"BST": 1}
_X_STATUS = ((b"A", ANSWERED), (b"F", FLAGGED), (b"T", DRAFT), (b"D", DELETED))


@dataclass(frozen=True, slots=True)
class Own:
    """What the X-Filterd-Mbox field says; ``text_at`` is where the message begins in its area."""

    written: bool
    mid: str
    uid: int
    date: int
    saved: int
    octets: int
    form: str
    open_end: bool
    key: bytes
    text_at: int
    group: int = 0  # of messages that are there all or not at all; 0: none


@dataclass(slots=True)
class State:
    """What the state fields of a message say. ``marked``: it has any of them. ``uid`` 0: none."""

    mask: int = 0
    old: bool = False
    words: tuple[str, ...] = ()
    uid: int = 0
    marked: bool = False
    base: tuple[int, int] | None = None  # UIDVALIDITY, last UID
    pseudo: bool = False
    content_length: int = -1


# -- From_ lines ----------------------------------------------------------------------------------------------------------


def from_date(line: bytes) -> int | None:
    """The time of a good From_ line (without its LF), None for any other line. Without a zone it is UTC (RFC 4155)."""
    if not line.startswith(b"From ") or len(line) > MAX_FROM_OCTETS:
        return None
    match = _FROM.fullmatch(line) or _FROM_5322.fullmatch(line)
    if match is None or match["month"] not in _MONTHS:
        return None
    year = int(match["year"])
    if year < 100:
        year += 1900 if year >= 70 else 2000
    day, hour, minute, second = (int(match[name] or 0) for name in ("day", "hour", "minute", "second"))
    if not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60 or year < 1900:
        return None
    at = calendar.timegm((year, _MONTHS.index(match["month"]) + 1, day, hour, minute, second))
    return max(at - _offset(match["zone"] or match["after"] or b""), 0)


def _offset(zone: bytes) -> int:
    """Seconds east of UTC; unknown names count as UTC."""
    if zone[:1] in (b"+", b"-"):
        seconds = int(zone[1:3]) * 3600 + int(zone[3:5]) * 60
        return -seconds if zone.startswith(b"-") else seconds
    return _ZONES.get(zone, 0) * 3600


def from_line(text: bytes, date: int) -> bytes:
    """``text``: the message, whose Return-Path names the sender when it begins with one."""
    sender = UNKNOWN_SENDER
    match = re.match(rb"(?i)return-path:[ \t]*<([\x21-\x3b\x3d\x3f-\x7e]{1,250})>[ \t]*\r?\n", text)
    if match is not None:
        sender = match[1]
    try:
        when = time.asctime(time.gmtime(min(max(date, 0), 253_402_300_799)))
    except (OverflowError, ValueError):
        when = time.asctime(time.gmtime(0))
    return b"From %s %s\n" % (sender, when.encode("ascii"))


# -- areas ------------------------------------------------------------------------------------------------------------------


def head_end(area: bytes) -> int:
    """Octets of From_ line, header and empty line; all of it when there is no empty line."""
    first = area.find(b"\n") + 1
    if not first:
        return len(area)
    for line in (b"\n", b"\r\n"):  # no header at all
        if area.startswith(line, first):
            return first + len(line)
    match = _BLANK.search(area, first)
    return len(area) if match is None else match.end()


def own_of(head: bytes) -> Own | None:
    """What we have noted; None for a message of another program."""
    match = _OWN.search(head, head.find(b"\n") + 1)
    if match is None:
        return None
    attrs = dict(part.partition(b"=")[::2] for part in match["attrs"].split())
    mid, _, uid = attrs.get(b"u", b"").partition(b".")
    try:
        return Own(
            written=attrs[b"w"] == b"1",
            mid=mid.decode("ascii", "replace"),
            uid=int(uid) if len(uid) <= 10 else 0,
            date=int(attrs[b"d"][:14]),
            saved=int(attrs[b"s"][:14]),
            octets=int(attrs[b"b"][:14]),
            form=attrs[b"f"].decode("ascii", "replace"),
            open_end=attrs[b"n"] == b"1",
            key=bytes.fromhex(attrs.get(b"k", b"").decode("ascii", "replace")),
            text_at=match.end(),
            group=int(attrs.get(b"a", b"0")[:10]),
        )
    except (KeyError, ValueError):
        return None


def state_of(head: bytes) -> State:
    """What the state fields in a head (or an area's header) say."""
    state = State()
    first = head.find(b"\n") + 1
    for match in _HIDDEN.finditer(head, first):
        name, value = match["name"].lower(), match["value"].strip()
        if name == b"status":
            state.marked = True
            state.mask |= (SEEN if b"R" in value else 0) | (DELETED if b"D" in value else 0)
            state.old = state.old or b"O" in value or b"R" in value
        elif name == b"x-status":
            state.marked = True
            for letter, bit in _X_STATUS:
                state.mask |= bit if letter in value else 0
        elif name == b"x-keywords":
            state.marked = True
            state.words += tuple(word.decode("ascii", "replace") for word in value.split())
        elif name == b"x-uid" and value.isdigit() and len(value) <= 10:
            state.uid = int(value)
        elif name == b"content-length" and value.isdigit() and len(value) <= 14:
            state.content_length = int(value)
        elif name in (b"x-imap", b"x-imapbase") and (base := _BASE.match(match["value"])) is not None:
            state.base = (int(base["validity"]), int(base["last"]))
            state.pseudo = state.pseudo or name == b"x-imap"
    if state.pseudo:
        subject = re.search(rb"(?im)^subject:[ \t]*([^\n]*)", head)
        state.pseudo = subject is not None and subject[1].startswith(PSEUDO_SUBJECT)
    return state


def fingerprint(head: bytes) -> int:
    """63 bits by which a head is known again, whatever its X-IMAPbase and ``w=`` say."""
    if b"X-IMAP" in head or b"x-imap" in head.lower():
        head = _BASE_LINES.sub(b"", head)
    head = head.replace(b"\nX-Filterd-Mbox: w=0 ", b"\nX-Filterd-Mbox: w=1 ", 1)
    return int.from_bytes(hashlib.blake2b(head, digest_size=8).digest(), "big") >> 1


def measure(area: bytes) -> tuple[int, int]:
    """(octets, fingerprint) of as much of an area's head as is looked at again and again."""
    head = area[: min(head_end(area), LOOKED_AT)]
    return len(head), fingerprint(head)


def _without_separator(area: bytes, least: int) -> bytes:
    """An area without the empty line that ends it; what is before ``least`` stays."""
    for end in (b"\n\r\n", b"\n\n"):
        if area.endswith(end) and len(area) - len(end) + 1 >= least:
            return area[: -len(end) + 1]
    return area


def text_of(area: bytes, quoting: str = "mboxrd") -> bytes:
    """The message with CRLF line ends, as clients see it. ``quoting``: how other programs write."""
    end = head_end(area)
    own = own_of(area[:end])
    return _foreign_text(area, end, quoting) if own is None else _own_text(area, own)


def _own_text(area: bytes, own: Own) -> bytes:
    text = _trimmed(area, own)
    if own.open_end and text.endswith(b"\n"):
        text = text[:-1]
    match = _BLANK.search(b"\n" + text)
    end = len(text) if match is None else match.end() - 1
    head = _UNESCAPE.sub(b"", _HIDDEN_OWN.sub(b"", text[:end]))
    text = _UNQUOTED_RD.sub(rb"\1", head + text[end:])
    if own.form == "l" and b"\r" not in text:
        return to_crlf(text, LF_FORM)
    return to_crlf(text)


def _trimmed(area: bytes, own: Own) -> bytes:
    """The octets behind the block: as many as we wrote, or up to the empty line when others have changed them."""
    stop = own.text_at + own.octets
    if area[stop:].strip(b"\r\n") == b"" and len(area) > stop:
        return area[own.text_at : stop]
    return _without_separator(area[own.text_at :], 0)


def _foreign_text(area: bytes, end: int, quoting: str) -> bytes:
    first = area.find(b"\n") + 1 or len(area)
    length = state_of(area[:end]).content_length
    body = area[end:]
    exact = length >= 0 and len(body) >= length and body[length:].strip(b"\r\n") == b"" and end < len(area)
    body = body[:length] if exact else _without_separator(area, end)[end:]
    head = _HIDDEN.sub(b"", area[first:end])
    if not (exact and re.search(rb"^From ", body, re.MULTILINE)):  # mboxcl2 quotes nothing
        if quoting == "mboxrd":
            body = _UNQUOTED_RD.sub(rb"\1", body)
        elif quoting == "mboxo":
            body = _UNQUOTED_O.sub(rb"\1", body)
    text = head + body
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return to_crlf(text)


# -- writing ----------------------------------------------------------------------------------------------------------------


def state_lines(
    uid: int, mask: int, words: tuple[str, ...], fresh: int, room: int, end: bytes = b"\n"
) -> bytes:
    """The fields of a message's state; ``room`` octets of padding."""
    status = (b"R" if mask & SEEN else b"") + (b"" if fresh else b"O")
    letters = b"".join(letter for letter, bit in _X_STATUS if mask & bit)
    keywords = " ".join(words).encode("ascii", "replace")
    lines = (
        b"X-UID: " + b"%-10d" % uid,
        b"Status: " + status.ljust(2),
        b"X-Status: " + letters.ljust(4),
        b"X-Keywords: " + keywords + b" " * room,
    )
    return end.join(lines) + end


def base_line(uidvalidity: int, last: int, words: tuple[str, ...], end: bytes = b"\n") -> bytes:
    """Fixed length. Programs that know X-IMAPbase only find keywords there."""
    value = b"%010d %010d" % (uidvalidity, last)
    for word in words:
        piece = b" " + word.encode("ascii", "replace")
        if len(value) + len(piece) > BASE_OCTETS:
            break
        value += piece
    return b"X-IMAPbase: " + value.ljust(BASE_OCTETS) + end


def stored(text: bytes) -> tuple[bytes, str, bool]:
    """(octets behind the block, form, open end) of a text with CRLF line ends."""
    form = "l"
    octets = text.replace(b"\r\n", b"\n")
    if b"\r" in octets:
        octets, form = text, "c"
    match = _BLANK.search(b"\n" + octets)
    end = len(octets) if match is None else match.end() - 1
    octets = _ESCAPE.sub(b"X-Kept-", octets[:end]) + octets[end:]
    octets = _QUOTED.sub(rb">\g<0>", octets)
    open_end = not octets.endswith(b"\n")
    return (octets + b"\n" if open_end else octets), form, open_end


def own_line(
    written: int, mid: str, uid: int, date: int, saved: int, octets: int, form: str, rest: str
) -> bytes:
    """``rest``: further attributes, ``n=0`` and perhaps ``k=...``, ``a=...``."""
    return (
        f"X-Filterd-Mbox: w={written} u={mid}.{uid} d={date} s={saved} b={octets} f={form} {rest}\n"
    ).encode("ascii", "replace")


WRITTEN_AT = len(b"X-Filterd-Mbox: w=")


def restate(head: bytes, uid: int, mask: int, words: tuple[str, ...], fresh: int) -> bytes:
    """The head with this state; as long as it was when the padding allows, else longer."""
    first = head.find(b"\n") + 1
    end = b"\r\n" if head[:first].endswith(b"\r\n") else b"\n"
    rest = _STATE_LINES.sub(b"", head[first:])
    room = len(head) - first - len(rest) - len(state_lines(uid, mask, words, fresh, 0, end))
    if not 0 <= room <= ROOM_LIMIT:
        room = KEYWORD_ROOM
    base = _BASE_LINES.match(rest)  # Dovecot believes X-UID only behind it
    at = base.end() if base is not None else 0
    return head[:first] + rest[:at] + state_lines(uid, mask, words, fresh, room, end) + rest[at:]


def renamed(head: bytes, mid: str, uid: int) -> bytes:
    """The head of one of our messages for another mailbox, or under another UID; without X-IMAPbase."""
    first = head.find(b"\n") + 1
    rest = _BASE_LINES.sub(b"", head[first:])
    return head[:first] + re.sub(
        rb"(?m)^(X-Filterd-Mbox: [^\n]*?\bu=)[^ \n]*", rb"\g<1>%s.%d" % (mid.encode(), uid), rest, count=1
    )


def with_base(head: bytes, line: bytes) -> bytes:
    """The head with this X-IMAPbase line as its first field."""
    first = head.find(b"\n") + 1
    return head[:first] + line + _BASE_LINES.sub(b"", head[first:])


def base_value(head: bytes) -> int:
    """Where the value of an X-IMAPbase line of ours begins, 0 for none."""
    match = _BASE_LINES.search(head, head.find(b"\n") + 1)
    if (
        match is None
        or match["name"] != b"X-IMAPbase"
        or len(match["value"].rstrip(b"\r\n")) != BASE_OCTETS + 1
    ):
        return 0
    return match.start("value") + 1


def base_place(head: bytes) -> tuple[int, int, int] | None:
    """(where, UIDVALIDITY, last UID) of the ten digits of the last UID; None where they cannot be written in place."""
    match = _BASE_LINES.search(head, head.find(b"\n") + 1)
    base = _BASE.match(head, match.start("value")) if match is not None else None
    if base is None or len(base["last"]) != 10:
        return None
    return base.start("last"), int(base["validity"]), int(base["last"])
