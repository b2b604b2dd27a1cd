"""HTTP/1.1 as a client speaks it: one request, one response, no sockets.

Specification: RFC 9112 (messages), RFC 9110 (fields). Complete for one exchange on a connection of its own: Content-Length,
chunked and close-delimited bodies, interim responses; no upgrades, no compression, no trailers kept.
Invariants: a response is told only when it is whole; whatever is over a limit, ambiguous (two lengths, a length beside a
transfer coding: RFC 9112 6.3) or cut raises StageFault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import StageFault
from pipeline.wire.clamd import shown

HEAD_LIMIT: Final = 16 << 10  # octets of status line and fields
BODY_LIMIT: Final = 1 << 20
FIELDS: Final = 100
CHUNK_LINE: Final = 1024
INTERIM: Final = 5  # 1xx responses before the real one

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_PRINTABLE = re.compile(r"[^\x20-\x7e\x80-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Response:
    """``fields`` by lower-case name; equal names joined by a comma."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def request(method: str, path: str, host: str, fields: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """The whole request; values lose what would break a field (controls), the connection is closed afterwards."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {clean(value)}" for name, value in fields]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body


def clean(value: str) -> str:
    """A value that stays in its field."""
    return _PRINTABLE.sub(" ", value).strip()[:1000]


class ResponseReader:
    """Takes octets as they come. ``response`` is set when it is whole. Every method raises StageFault."""

    def __init__(self, what: str) -> None:
        self.response: Response | None = None
        self._what = what  # whom the texts are about: "rspamd"
        self._data = bytearray()
        self._status = 0
        self._fields: dict[str, str] = {}
        self._length: int | None = None
        self._chunked = False
        self._body = bytearray()
        self._left = -1  # octets of the chunk; -1: its line comes next; -2: trailers
        self._interim = 0

    def receive(self, data: bytes) -> None:
        self._data += data
        while not self._status and self._head():
            pass
        if self._status and self.response is None:
            if self._chunked:
                self._chunks()
            else:
                self._plain()

    def eof(self) -> None:
        """The other side has closed: what has neither length nor coding ends here."""
        if self.response is not None:
            return
        if self._status and not self._chunked and self._length is None:
            self._finish(bytes(self._data))
            return
        if not self._status and not self._data:
            raise self._fault("closed the connection without an answer")
        raise self._fault("cut its answer off")

    def _fault(self, text: str) -> StageFault:
        return StageFault("protocol", f"{self._what} {text}")

    def _head(self) -> bool:
        """One head; True when it was an interim one and the next may be there."""
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_LIMIT:
            if len(self._data) > HEAD_LIMIT:
                raise self._fault(f"sent more than {HEAD_LIMIT} octets of header")
            if not b"HTTP/1.".startswith(self._data[:7]):
                raise self._fault(f"does not speak HTTP: {shown(bytes(self._data[:80]))}")
            return False
        lines = bytes(self._data[:end]).split(b"\r\n")
        del self._data[: end + 4]
        found = _STATUS.fullmatch(lines[0])
        if found is None or len(lines) > FIELDS:
            raise self._fault(f"does not speak HTTP: {shown(lines[0][:80])}")
        status = int(found[1])
        if 100 <= status < 200 and status != 101:
            self._interim += 1
            if self._interim > INTERIM:
                raise self._fault("sent too many interim answers")
            return True
        self._read_fields(lines[1:])
        self._status = status
        return False

    def _read_fields(self, lines: list[bytes]) -> None:
        for line in lines:
            found = _FIELD.fullmatch(line)
            if found is None:
                raise self._fault(f"sent an odd header field: {shown(line[:80])}")
            name, value = found[1].decode("ascii").lower(), found[2].decode("latin-1")
            self._fields[name] = f"{self._fields[name]}, {value}" if name in self._fields else value
        coding, length = self._fields.get("transfer-encoding"), self._fields.get("content-length")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise self._fault("sent a body whose length is not clear")
            self._chunked = True
        elif length is not None:
            if not (length.isascii() and length.isdigit() and len(length) < 10):
                raise self._fault("sent a body whose length is not clear")
            self._length = int(length)
            if self._length > BODY_LIMIT:
                raise self._fault(f"announced {length} octets, the limit is {BODY_LIMIT}")
        if self._fields.get("content-encoding", "identity").lower() != "identity":
            raise self._fault("compressed its answer, which was not asked for")

    def _plain(self) -> None:
        if len(self._data) > BODY_LIMIT:
            raise self._fault(f"sent more than {BODY_LIMIT} octets")
        if self._length is not None and len(self._data) >= self._length:
            if len(self._data) > self._length:
                raise self._fault("sent more than it announced")
            self._finish(bytes(self._data))

    def _chunks(self) -> None:
        while True:
            if self._left >= 0:
                if len(self._data) < self._left + 2:
                    return
                self._body += self._data[: self._left]
                if self._data[self._left : self._left + 2] != b"\r\n":
                    raise self._fault("sent a chunk of another length than announced")
                del self._data[: self._left + 2]
                self._left = -1
            end = self._data.find(b"\r\n")
            if end < 0:
                if len(self._data) > CHUNK_LINE:
                    raise self._fault("sent a chunk without a length")
                return
            line = bytes(self._data[:end])
            del self._data[: end + 2]
            if self._left == -2:  # trailers: read, not kept
                if not line:
                    self._finish(bytes(self._body))
                    return
                continue
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise self._fault("sent a chunk without a length")
            size = int(found[1], 16)
            if len(self._body) + size > BODY_LIMIT:
                raise self._fault(f"sent more than {BODY_LIMIT} octets")
            self._left = size or -2

    def _finish(self, body: bytes) -> None:
        self.response = Response(self._status, self._fields, body)
