"""The replies of spamd, judged strictly.

Format (SpamAssassin's spamd/PROTOCOL): ``SPAMD/1.1 0 EX_OK`` CRLF, header lines, an empty line, ``Content-length``
octets; ``Spam: True ; 6.2 / 5.0`` holds the verdict. For SYMBOLS the body is the names of the rules that hit, with
commas; for REPORT a text with a line ``points NAME description`` for each of them.
Invariant: whatever does not fit raises StageFault; a score that is no finite number is not a score.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pipeline.errors import StageFault
from pipeline.spam import rewritten
from pipeline.wire.clamd import shown

REPLY_LIMIT = 1 << 16  # octets of a whole reply
HEADER_LIMIT = 4096  # octets of status line and headers
RULES = 200  # names that are kept
SCORE_LIMIT = 1e6

_STATUS = re.compile(rb"SPAMD/\d{1,3}\.\d{1,3} (?P<code>\d{1,3}) (?P<word>[\x21-\x7e][\x20-\x7e]{0,200})")
_LENGTH = re.compile(rb"content-length:[ \t]*(\d{1,9})[ \t]*", re.IGNORECASE)
_SPAM = re.compile(
    rb"spam:[ \t]*(?P<flag>true|false|yes|no)[ \t]*;[ \t]*(?P<score>[-+]?\d{1,9}(?:\.\d{1,9})?)"
    rb"[ \t]*/[ \t]*(?P<threshold>[-+]?\d{1,9}(?:\.\d{1,9})?)[ \t]*",
    re.IGNORECASE,
)
_DID = re.compile(rb"did(?:set|remove):[ \t]*(?:local|remote)[a-z, \t]*", re.IGNORECASE)
_HEADER = re.compile(rb"[!-9;-~]{1,60}:[\x20-\x7e\t]*")
_RULE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,79}")
_RULER = re.compile(rb"^[ \t]*-{3,10} -{10,40} -{20,60}[ \t\r]*$", re.M)
_REPORT_LINE = re.compile(
    rb"^[ \t*]*(?P<points>-?\d{1,4}(?:\.\d{1,3})?) (?P<name>[A-Z_][A-Z0-9_]{1,79})(?=[ \t\r\n]|$)", re.M
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """``rules``: (name, points) of the rules that hit, as spamd told them; points None when it told only names.
    ``text``: the header or message that it gave back (HEADERS, PROCESS)."""

    score: float
    threshold: float
    rules: tuple[tuple[str, float | None], ...] = ()
    text: bytes = b""


def wanted(received: bytes, limit: int = REPLY_LIMIT) -> int | None:
    """How many octets the whole reply has, None while that is not known. Raises StageFault over a limit."""
    head, blank, _body = received.partition(b"\r\n\r\n")
    if not blank:
        if len(received) > HEADER_LIMIT:
            raise StageFault("protocol", f"spamd's header is longer than {HEADER_LIMIT} octets")
        return None
    length = _content_length(head.split(b"\r\n")[1:])
    if length is None:
        return None
    whole = len(head) + len(blank) + length
    if whole > limit:
        raise StageFault("protocol", f"spamd's reply is longer than {limit} octets")
    return whole


def _content_length(lines: list[bytes]) -> int | None:
    found = [match for match in map(_LENGTH.fullmatch, lines) if match]
    if len(found) > 1:
        raise StageFault("protocol", "spamd told more than one length")
    return int(found[0][1]) if found else None


def judge(raw: bytes, limit: int = REPLY_LIMIT, text: bool = False) -> Judgement:
    """A whole reply to SYMBOLS or REPORT; ``text``: to HEADERS or PROCESS. Raises StageFault for anything but a clear verdict."""
    lines, body = _parts(raw, limit=limit)
    verdicts = [match for match in map(_SPAM.fullmatch, lines) if match]
    if len(verdicts) != 1:
        raise StageFault("protocol", f"spamd gave {len(verdicts)} verdicts")
    score, threshold = float(verdicts[0]["score"]), float(verdicts[0]["threshold"])
    if not (math.isfinite(score) and abs(score) <= SCORE_LIMIT and abs(threshold) <= SCORE_LIMIT):
        raise StageFault("protocol", "spamd's score is no sensible number")
    if text:
        if not body:
            raise StageFault("protocol", "spamd gave no message back")
        names = rewritten.rules(rewritten.told(body))[:RULES]
        return Judgement(score, threshold, tuple((name, None) for name in names), body)
    return Judgement(score, threshold, _rules(body))


def told(raw: bytes) -> bool:
    """A whole reply to TELL: was something changed? False: it was known before. Raises StageFault."""
    lines, _body = _parts(raw, bare=True)
    return any(map(_DID.fullmatch, lines))


def _parts(raw: bytes, bare: bool = False, limit: int = REPLY_LIMIT) -> tuple[list[bytes], bytes]:
    """Header lines and body of a whole reply that reports no error. ``bare``: it need not tell its length (spamd's answer to
    TELL does not)."""
    if not raw:
        raise StageFault("protocol", "spamd closed the connection without an answer")
    if len(raw) > limit:
        raise StageFault("protocol", f"spamd's reply is longer than {limit} octets")
    head, blank, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise StageFault("protocol", f"not an answer of spamd: {shown(raw)}")
    if int(status["code"]) != 0:
        word = status["word"].decode("ascii")
        kind = "unavailable" if 64 <= int(status["code"]) <= 79 else "protocol"  # sysexits(3)
        raise StageFault(kind, f"spamd reports an error: {word}")
    if not blank or len(head) > HEADER_LIMIT or not all(map(_HEADER.fullmatch, lines[1:])):
        raise StageFault("protocol", f"spamd's header is cut or odd: {shown(raw)}")
    length = _content_length(lines[1:])
    if length != len(body) and not (bare and length is None):
        raise StageFault("protocol", f"spamd announced {length} octets and sent {len(body)}")
    return lines[1:], body


def _rules(body: bytes) -> tuple[tuple[str, float | None], ...]:
    """Names, with points when the body is a report; what does not look like a rule is left out (evidence only)."""
    rulers = list(_RULER.finditer(body))
    if rulers:  # the last one: the preview above it is the message's own text
        table = body[rulers[-1].end() :]
        found = [
            (match["name"].decode("ascii"), float(match["points"])) for match in _REPORT_LINE.finditer(table)
        ]
        return tuple(found[:RULES])
    names = [name.strip() for name in body.strip().split(b",")]
    if not all(map(_RULE.fullmatch, names)):
        return ()
    return tuple((name.decode("ascii"), None) for name in names[:RULES])
