"""Line ends and the dots behind them, for whole messages at once.

Specification: RFC 5321 2.3.8 (CRLF only), 4.5.2 (transparency), RFC 1939 3. Invariant: linear, and nothing is looked at octet
by octet. ``bytes`` finds one octet many times as fast as two or three: taking all CRs out, putting one before each LF and
comparing costs a quarter of counting the pairs; a regular expression finds CRLF "." in half the time of ``bytes.find``.
"""

import re
from typing import Final

_BLOCK: Final = 1 << 20  # octets looked at in one call, during which no other thread runs
_DOT: Final = re.compile(rb"\r\n\.")


def only_crlf(data: bytes) -> bool:
    """Is each CR followed by LF, and each LF preceded by CR?"""
    at = 0
    while at < len(data):
        end = at + _BLOCK
        end += data[end - 1 : end] == b"\r"  # with its LF
        if as_lf(data[at:end]) is None:
            return False
        at = end
    return True


def as_lf(data: bytes) -> bytes | None:
    """With LF for each CRLF; None when there is a bare CR or a bare LF."""
    short = data.replace(b"\r", b"")
    return short if short.replace(b"\n", b"\r\n") == data else None


def with_crlf(data: bytes) -> bytes:
    """With CRLF in place of each LF alone; a bare CR stays."""
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def dot_line(data: bytes, start: int = 0) -> int:
    """Where the first CRLF is that a dot follows; -1: nowhere."""
    found = _DOT.search(data, start)
    return found.start() if found else -1


def dots_doubled(data: bytes) -> bytes:
    """A dot more for each line that begins with one."""
    if dot_line(data) >= 0:
        data = data.replace(b"\r\n.", b"\r\n..")
    return b"." + data if data.startswith(b".") else data
