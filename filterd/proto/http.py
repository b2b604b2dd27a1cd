"""HTTP/1.1, the little that a page with one button needs: a sans-IO core for one request a connection.

Specification: RFC 9110, RFC 9112. Complete: no, by intent: GET, HEAD and POST; bodies by Content-Length only (a Transfer-Encoding
is answered 501); every answer closes the connection, so there is nothing to pipeline or to smuggle.

Theory of operation: the head is gathered up to ``HEAD`` octets, read strictly (only CR LF ends a line, no folded fields, one
Host, one Content-Length), then the body up to ``BODY`` octets. ``Request`` comes out once; ``respond`` answers it; ``Close``
follows. A fault is answered by the core itself, in words that tell a stranger nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

LINE: Final = 4096  # octets of the request line
HEAD: Final = 16_384  # octets of request line and fields
BODY: Final = 8192
PATIENCE: Final = 10.0  # seconds between octets
WHOLE: Final = 20.0  # seconds for a request
TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE: Final = re.compile(
    rb"(" + TOKEN + rb") (?:https?://[!-.0-~]+)?(/[!-~]*) HTTP/1\.([01])\Z", re.I
)
FIELD: Final = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*?)[ \t]*\Z")
METHODS: Final = frozenset({"GET", "HEAD", "POST"})
REASONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
        413: "Content Too Large", 414: "URI Too Long", 431: "Request Header Fields Too Large",
        500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
    }
)  # fmt: skip


@dataclass(slots=True)
class Request:
    """``path`` as it came, query included (ASCII); ``fields`` by lower-case name, the first of each."""

    method: str
    path: str
    fields: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Close:
    """Write what is ready and close."""


class HttpCore:
    """``date``: the moment, as HTTP writes it (RFC 9110 5.6.7)."""

    def __init__(self, date: Callable[[], str]) -> None:
        self._date = date
        self._buffer = bytearray()
        self._out = bytearray()
        self._request: Request | None = None
        self._length = 0
        self._state = "head"  # head -> body -> asked -> answered -> over
        self._bodiless = False

    # -- what a connection asks -------------------------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        if self._state in ("head", "body"):
            self._buffer += data
            self._read()

    def receive_eof(self) -> None:
        if self._state in ("head", "body"):
            self._state = "answered"  # nobody is there to read a word

    def lost(self) -> None:
        self._state = "over"

    def shut_down(self) -> None:
        if self._state in ("head", "body"):
            self._state = "answered"

    def timed_out(self) -> None:
        self._fault(408) if self._buffer else self.shut_down()

    def internal_error(self) -> None:
        self._fault(500)

    def tls_started(self) -> None:
        """TLS is the listener's here."""

    def next_event(self) -> Request | Close | None:
        if self._state == "asked" and self._request is not None:
            request, self._request = self._request, None
            return request
        if self._state == "answered":
            self._state = "over"
            return Close()
        return None

    def data_to_send(self) -> bytes:
        data = bytes(self._out)
        self._out.clear()
        return data

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def patience(self) -> float:
        return PATIENCE

    @property
    def prelude(self) -> float:
        return WHOLE

    @property
    def settled(self) -> bool:
        return False

    @property
    def in_text(self) -> bool:
        return False

    @property
    def text_patience(self) -> float:
        return WHOLE

    # -- reading ----------------------------------------------------------------------------------
    def _read(self) -> None:
        if self._state == "head":
            while self._buffer[:2] == b"\r\n":  # RFC 9112 2.2: empty lines before a request
                del self._buffer[:2]
            end = self._buffer.find(b"\r\n\r\n", 0, HEAD)
            line = self._buffer.find(b"\r\n", 0, LINE)
            if line < 0 and len(self._buffer) >= LINE:
                return self._fault(414)
            if end < 0:
                return self._fault(431) if len(self._buffer) >= HEAD else None
            head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            code = self._head(head)
            if code:
                return self._fault(code)
            self._state = "body"
        if self._state == "body" and self._request is not None and len(self._buffer) >= self._length:
            self._request.body = bytes(self._buffer[: self._length])
            self._buffer.clear()
            self._state = "asked"
        return None

    def _head(self, head: bytes) -> int:
        """The code of a fault, or 0."""
        lines = head.split(b"\r\n")
        found = REQUEST_LINE.match(lines[0])
        if found is None or b"\r" in head.replace(b"\r\n", b"") or b"\n" in head.replace(b"\r\n", b""):
            return 400
        fields: dict[str, list[str]] = {}
        for line in lines[1:]:
            field = FIELD.match(line)
            if field is None:
                return 400
            fields.setdefault(field[1].decode().lower(), []).append(field[2].decode("latin-1"))
        hosts = fields.get("host", [])
        if len(hosts) > 1 or (found[3] == b"1" and not hosts):  # RFC 9112 3.2
            return 400
        lengths = fields.get("content-length", [])
        if "transfer-encoding" in fields:  # RFC 9112 6.1
            return 400 if lengths else 501
        if len(lengths) > 1 or (lengths and not re.fullmatch(r"[0-9]{1,18}", lengths[0])):
            return 400
        method = found[1].decode()
        if method not in METHODS:
            return 501
        self._length = int(lengths[0]) if lengths else 0
        if self._length > BODY:
            return 413
        self._bodiless = method == "HEAD"
        flat = {name: values[0] for name, values in fields.items()}
        self._request = Request(method, found[2].decode(), flat)
        if found[3] == b"1" and self._length and flat.get("expect", "").lower() == "100-continue":
            self._out += b"HTTP/1.1 100 Continue\r\n\r\n"
        return 0

    # -- answering --------------------------------------------------------------------------------
    def respond(self, code: int, body: bytes, fields: Mapping[str, str]) -> None:
        """Answer the request. ``fields``: beside Date, Content-Length and Connection; names and values are ours."""
        lines = [
            f"HTTP/1.1 {code} {REASONS.get(code, '')}",
            f"Date: {self._date()}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in fields.items()),
        ]
        self._out += "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
        if not self._bodiless:
            self._out += body
        self._state = "answered"

    def _fault(self, code: int) -> None:
        if self._state in ("answered", "over"):
            return
        self._request = None
        self._buffer.clear()
        self.respond(code, f"{REASONS[code]}\n".encode(), {"Content-Type": "text/plain"})
