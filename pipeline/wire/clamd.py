"""The replies of clamd, judged strictly: only the exact good answer is good.

Format: one line for one ``nINSTREAM`` or ``nVERSION`` command (clamd(8), "COMMANDS"), ended by LF:
``stream: OK``, ``stream: NAME FOUND``, ``stream: TEXT ERROR``, ``INSTREAM size limit exceeded. ERROR``;
``ClamAV ENGINE[/SIGNATURES/DATE]`` with the date as in asctime(3).
Invariant: whatever is not exactly one of these raises StageFault; nothing unexpected is ever taken for clean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import StageFault

REPLY_LIMIT = 4096  # octets; the longest honest line is a signature's name
NAME_LIMIT = 200  # characters of a signature's name that we repeat

_FOUND = re.compile(rb"stream: (?P<name>[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?) FOUND")
_ERROR = re.compile(rb"(?:stream: )?(?P<text>[\x20-\x7e]+) ERROR")
_SIZE = b"INSTREAM size limit exceeded. ERROR"
_VERSION = re.compile(
    rb"ClamAV (?P<engine>[0-9A-Za-z.+~_-]{1,40})(?:/(?P<number>\d{1,9})/(?P<date>[A-Za-z0-9: ]{1,40}))?"
)


@dataclass(frozen=True, slots=True)
class Scan:
    """clamd's judgement of one stream: ``virus`` is the signature's name, "" for clean."""

    virus: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """``signatures`` is the date of the signature database, None when clamd did not tell."""

    engine: str
    number: str = ""
    signatures: datetime | None = None


def one_line(raw: bytes) -> bytes:
    """The single LF-ended line that ``raw`` must be, without its end. Raises StageFault."""
    if len(raw) > REPLY_LIMIT:
        raise StageFault("protocol", f"clamd's answer is longer than {REPLY_LIMIT} octets")
    if not raw:
        raise StageFault("protocol", "clamd closed the connection without an answer")
    if not raw.endswith(b"\n"):
        raise StageFault("protocol", f"clamd's answer was cut: {shown(raw)}")
    line = raw[:-1]
    if b"\n" in line:
        raise StageFault("protocol", f"clamd said more than one line: {shown(raw)}")
    return line


def judge(raw: bytes) -> Scan:
    """The answer to INSTREAM. Raises StageFault for anything but a clear verdict."""
    line = one_line(raw)
    if line == b"stream: OK":
        return Scan()
    found = _FOUND.fullmatch(line)
    if found:
        return Scan(found["name"].decode("ascii")[:NAME_LIMIT])
    if line == _SIZE:
        raise StageFault(
            "resource", "larger than clamd's StreamMaxLength: raise that, or lower max_size of this stage"
        )
    error = _ERROR.fullmatch(line)
    if error:
        raise StageFault(
            "unavailable", f"clamd reports an error: {error['text'].decode('ascii')[:NAME_LIMIT]}"
        )
    raise StageFault("protocol", f"not an answer of clamd: {shown(raw)}")


def version(raw: bytes) -> Version:
    """The answer to VERSION. Raises StageFault."""
    match = _VERSION.fullmatch(one_line(raw))
    if match is None:
        raise StageFault("protocol", f"not a version of clamd: {shown(raw)}")
    date = _date(match["date"].decode("ascii")) if match["date"] else None
    return Version(match["engine"].decode("ascii"), (match["number"] or b"").decode("ascii"), date)


def _date(text: str) -> datetime | None:
    """clamd prints the database's time by asctime(3), in its own zone: taken as UTC, the age is told in hours."""
    try:
        return datetime.strptime(" ".join(text.split()), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return None


def shown(raw: bytes) -> str:
    """A foreign answer for the operator's eyes: short, escaped."""
    return ascii(raw[:80].decode("latin-1"))
