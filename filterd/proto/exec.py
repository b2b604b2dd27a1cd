"""The words between the mail server and ``filterd-exec``, which runs programs for scripts: a sans-IO codec for both ends.

One request and one answer a connection, each two frames: a head (JSON) and octets. A frame is its length in four octets,
big-endian, and that many octets. Request: ``{"program", "arguments", "facts"}`` and the program's input. Answer:
``{"status", "error"}`` and its output; ``status`` is the exit status, negative for a program that was ended, null when
there is none of that name. Invariant: no length is believed beyond its limit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HEAD_OCTETS = 1 << 20  # 64 arguments of 8 KiB, escaped
BODY_OCTETS = 256 << 20
ARGUMENTS = 64
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """The other end does not keep to the protocol."""


@dataclass(frozen=True, slots=True)
class Request:
    """``facts``: USER, SENDER, RECIPIENT and such, for the program's environment."""

    program: str
    arguments: tuple[str, ...] = ()
    data: bytes = b""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int | None
    output: bytes = b""
    error: str = ""


def frame(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def encode_request(request: Request) -> bytes:
    head = {"program": request.program, "arguments": request.arguments, "facts": dict(request.facts)}
    return frame(json.dumps(head).encode()) + frame(request.data)


def encode_answer(answer: Answer) -> bytes:
    head = {"status": answer.status, "error": answer.error}
    return frame(json.dumps(head).encode()) + frame(answer.output)


class Pair:
    """Reads a head and a body. ``feed`` as octets come; ``done`` when both are here. Raises WireError."""

    __slots__ = ("_buffer", "_frames", "_limits")

    def __init__(self, body: int = BODY_OCTETS) -> None:
        self._limits = (HEAD_OCTETS, body)
        self._buffer = bytearray()
        self._frames: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while len(self._frames) < 2 and len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._limits[len(self._frames)]:
                raise WireError(f"a frame of {length} octets")
            if len(self._buffer) < _LENGTH.size + length:
                return
            self._frames.append(bytes(self._buffer[_LENGTH.size : _LENGTH.size + length]))
            del self._buffer[: _LENGTH.size + length]
        if len(self._frames) == 2 and self._buffer:
            raise WireError("more octets than were announced")

    @property
    def done(self) -> bool:
        return len(self._frames) == 2

    def request(self) -> Request:
        head = self._head()
        program, arguments, facts = (head.get(name) for name in ("program", "arguments", "facts"))
        if not isinstance(program, str) or not isinstance(arguments, list) or not isinstance(facts, dict):
            raise WireError("a request without its fields")
        return Request(program, _texts(arguments), self._frames[1], dict(_pairs(facts)))

    def answer(self) -> Answer:
        head = self._head()
        status, error = head.get("status"), head.get("error")
        if not (status is None or type(status) is int) or not isinstance(error, str):
            raise WireError("an answer without its fields")
        return Answer(status, self._frames[1], error)

    def _head(self) -> Mapping[str, object]:
        if not self.done:
            raise WireError("the connection ended early")
        try:
            head = json.loads(self._frames[0])
        except (ValueError, RecursionError):
            raise WireError("the head is no JSON") from None
        if not isinstance(head, dict):
            raise WireError("the head is no object")
        return head


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if len(values) > ARGUMENTS or not all(isinstance(one, str) and "\0" not in one for one in values):
        raise WireError("arguments that cannot be given")
    return tuple(str(one) for one in values)


def _pairs(facts: Mapping[object, object]) -> Sequence[tuple[str, str]]:
    return [
        (name, value)
        for name, value in facts.items()
        if isinstance(name, str) and isinstance(value, str) and "\0" not in name + value and "=" not in name
    ]
