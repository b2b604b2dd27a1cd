"""The packets of the milter protocol, both directions: what an MTA says to a filter and what the filter answers.

Specification: Sendmail's libmilter (``mfapi.h``, ``mfdef.h``), protocol versions 2 to 6; Postfix' MILTER_README for what
the other big client does. There is no RFC. Complete: yes, every command, response and flag of version 6.

Wire format: a packet is a length (32 bits, big endian, counting all that follows), one octet that names it, and data.
Texts end with NUL. Lines inside a header value end with LF; a body has CRLF.

Invariants: ``decode(encode(packet)) == packet``; any octets decode to a packet or raise MilterError, nothing else;
``Frames`` never holds more than one packet of ``PACKET_LIMIT`` octets beyond what was read at once.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntFlag

from pipeline.errors import PipelineError
from pipeline.reply import Reply

VERSION = 6
OLDEST = 2
CHUNK = 65_535  # MILTER_CHUNK_SIZE: octets of a body packet unless more was negotiated
# Data of one packet. libmilter takes 64 KiB, or up to 1 MiB when negotiated; Postfix sends headers of up to 100 KiB anyway.
PACKET_LIMIT = (1 << 20) + 4096
ARGUMENTS = 64  # texts of a MAIL or RCPT command
MACROS = 256  # macros of one packet
REPLY_LINES = 32  # libmilter's MAXREPLIES
_LENGTH = struct.Struct(">I")
_NEGOTIATION = struct.Struct(">III")
_LINE = re.compile(rb"([45][0-9][0-9])([ -])?(.*)", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:[ ]|$)")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class MilterError(PipelineError):
    """The other end broke the protocol; the text is for the operator."""


class Actions(IntFlag):
    """SMFIF_*: what a filter may do to a message."""

    NONE = 0
    ADDHDRS = 0x01
    CHGBODY = 0x02
    ADDRCPT = 0x04
    DELRCPT = 0x08
    CHGHDRS = 0x10
    QUARANTINE = 0x20
    CHGFROM = 0x40
    ADDRCPT_PAR = 0x80
    SETSYMLIST = 0x100


class Steps(IntFlag):
    """SMFIP_*: which steps are left out (NO...), which the filter does not answer (NR_...), and how others look."""

    NONE = 0
    NOCONNECT = 0x01
    NOHELO = 0x02
    NOMAIL = 0x04
    NORCPT = 0x08
    NOBODY = 0x10
    NOHDRS = 0x20
    NOEOH = 0x40
    NR_HDR = 0x80
    NOUNKNOWN = 0x100
    NODATA = 0x200
    SKIP = 0x400
    RCPT_REJ = 0x800
    NR_CONN = 0x1000
    NR_HELO = 0x2000
    NR_MAIL = 0x4000
    NR_RCPT = 0x8000
    NR_DATA = 0x10000
    NR_UNKN = 0x20000
    NR_EOH = 0x40000
    NR_BODY = 0x80000
    HDR_LEADSPC = 0x100000
    MDS_256K = 0x10000000
    MDS_1M = 0x20000000


class MacroStage(Enum):
    """SMFIM_*: when a filter wants which macros."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    EOM = 5
    EOH = 6


class Bare(Enum):
    """Packets that are a name and nothing else."""

    ABORT = b"A"
    QUIT_NC = b"K"  # the connection stays, a new session follows
    EOH = b"N"
    QUIT = b"Q"
    DATA = b"T"
    SHUTDOWN = b"4"
    ACCEPT = b"a"
    CONTINUE = b"c"
    DISCARD = b"d"
    CONN_FAIL = b"f"
    PROGRESS = b"p"
    REJECT = b"r"
    SKIP = b"s"
    TEMPFAIL = b"t"


@dataclass(frozen=True, slots=True)
class Negotiate:
    """SMFIC_OPTNEG, both ways. Flags stay plain numbers: bits that nobody knows yet must survive. ``macros`` by stage
    number: the names the filter wants, as it wrote them."""

    version: int
    actions: int
    steps: int
    macros: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Macros:
    """SMFIC_MACRO: values for the command whose letter is ``command``; names as they came, with or without braces."""

    command: bytes
    values: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Connect:
    """``family``: ``4``, ``6``, ``L`` (unix socket), ``U`` (unknown: then no port and no address)."""

    host: bytes
    family: bytes = b"U"
    port: int = 0
    address: bytes = b""


@dataclass(frozen=True, slots=True)
class Helo:
    name: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """The path with its brackets, then the ESMTP parameters."""

    arguments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rcpt:
    arguments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """``value``: what follows the colon, lines end with LF; without its first blank unless HDR_LEADSPC."""

    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Body:
    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfMessage:
    """SMFIC_BODYEOB; it may carry the last part of the body."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An SMTP command the MTA did not know."""

    line: bytes


@dataclass(frozen=True, slots=True)
class ReplyCode:
    """The SMTP reply as the filter wants it: ``550 5.7.1 text``, lines with CRLF between them. ``%`` stands twice."""

    text: bytes


@dataclass(frozen=True, slots=True)
class AddHeader:
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class InsertHeader:
    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """``index``: the how-manieth field of that name, from 1. An empty value removes it."""

    index: int
    name: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class AddRecipient:
    address: bytes


@dataclass(frozen=True, slots=True)
class AddRecipientWith:
    """SMFIR_ADDRCPT_PAR; ``parameters`` None: none were given."""

    address: bytes
    parameters: bytes | None = None


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    address: bytes


@dataclass(frozen=True, slots=True)
class ChangeFrom:
    address: bytes
    parameters: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    data: bytes


@dataclass(frozen=True, slots=True)
class Quarantine:
    reason: bytes


Command = Negotiate | Macros | Connect | Helo | Mail | Rcpt | Header | Body | EndOfMessage | Unknown
Modification = (
    AddHeader
    | InsertHeader
    | ChangeHeader
    | AddRecipient
    | AddRecipientWith
    | DeleteRecipient
    | ChangeFrom
    | ReplaceBody
    | Quarantine
)
Packet = Command | Modification | ReplyCode | Bare


# -- printing -----------------------------------------------------------------------------------------------------


def frame(code: bytes, data: bytes = b"") -> bytes:
    """A whole packet."""
    return _LENGTH.pack(len(data) + 1) + code + data


def encode(packet: Packet) -> bytes:
    """Raises ValueError for a text with NUL in it, and for more than a packet may hold."""
    code, data = _printed(packet)
    if len(data) > PACKET_LIMIT:
        raise ValueError(f"a packet of {len(data)} octets")
    return frame(code, data)


def _texts(*texts: bytes) -> bytes:
    for text in texts:
        if b"\0" in text:
            raise ValueError("NUL in a text")
    return b"".join(text + b"\0" for text in texts)


def _named(name: bytes, value: bytes) -> bytes:
    if not name:
        raise ValueError("a field without a name")
    return _texts(name, value)


def _printed(packet: Packet) -> tuple[bytes, bytes]:
    match packet:
        case Bare():
            return packet.value, b""
        case Header(name, value):
            return b"L", _named(name, value)
        case Body(data):
            return b"B", data
        case EndOfMessage(data):
            return b"E", data
        case Macros(command, values):
            if len(command) != 1:
                raise ValueError("macros belong to one command")
            return b"D", command + b"".join(_named(name, value) for name, value in values)
        case Negotiate(version, actions, steps, macros):
            lists = b"".join(_LENGTH.pack(stage) + _texts(names) for stage, names in macros)
            return b"O", _NEGOTIATION.pack(version, actions, steps) + lists
        case Connect(host, family, port, address):
            if family == b"U":
                return b"C", _texts(host) + family
            return b"C", _texts(host) + family + port.to_bytes(2, "big") + _texts(address)
        case Helo(name):
            return b"H", _texts(name)
        case Mail(arguments):
            return b"M", _texts(*arguments)
        case Rcpt(arguments):
            return b"R", _texts(*arguments)
        case Unknown(line):
            return b"U", _texts(line)
        case _:
            return _printed_answer(packet)


def _printed_answer(packet: Modification | ReplyCode) -> tuple[bytes, bytes]:
    match packet:
        case ReplyCode(text):
            return b"y", _texts(text)
        case AddHeader(name, value):
            return b"h", _named(name, value)
        case InsertHeader(index, name, value):
            return b"i", _LENGTH.pack(index) + _named(name, value)
        case ChangeHeader(index, name, value):
            return b"m", _LENGTH.pack(index) + _named(name, value)
        case AddRecipient(address):
            return b"+", _texts(address)
        case DeleteRecipient(address):
            return b"-", _texts(address)
        case AddRecipientWith(address, parameters):
            return b"2", _texts(address) if parameters is None else _texts(address, parameters)
        case ChangeFrom(address, parameters):
            return b"e", _texts(address) if parameters is None else _texts(address, parameters)
        case ReplaceBody(data):
            return b"b", data
        case Quarantine(reason):
            return b"q", _texts(reason)


# -- reading ------------------------------------------------------------------------------------------------------


class Frames:
    """Cuts a stream into packets, however it arrives."""

    def __init__(self, limit: int = PACKET_LIMIT) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._limit = limit

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def __len__(self) -> int:
        """Octets fed and not yet taken."""
        return len(self._buffer) - self._at

    def take(self) -> tuple[bytes, bytes] | None:
        """The next packet's name and data. Raises MilterError for a length that cannot be."""
        have = len(self._buffer) - self._at
        if have < 4:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._at)
        if not 0 < length <= self._limit + 1:
            raise MilterError(f"a packet of {length} octets")
        if have < 4 + length:
            return None
        start = self._at + 4
        self._at = start + length
        return bytes(self._buffer[start : start + 1]), bytes(self._buffer[start + 1 : start + length])

    def next(self) -> Packet | None:
        """The next packet, read. Raises MilterError."""
        found = self.take()
        return None if found is None else decode(*found)


def decode(code: bytes, data: bytes) -> Packet:
    """One packet. Raises MilterError when it is none."""
    bare = _BARE.get(code)
    if bare is not None:
        if data:
            raise MilterError(f"{bare.name} with {len(data)} octets of data")
        return bare
    reader = _READERS.get(code)
    if reader is None:
        raise MilterError(f"no packet has the name {code!r}")
    return reader(data)


def _split(data: bytes, what: str, most: int) -> tuple[bytes, ...]:
    """Texts, each with its NUL."""
    if not data.endswith(b"\0"):
        raise MilterError(f"{what}: a text without its end")
    if data.count(b"\0") > most:
        raise MilterError(f"{what}: more than {most} texts")
    return tuple(data[:-1].split(b"\0"))


def _one(data: bytes, what: str) -> bytes:
    return _split(data, what, 1)[0]


def _field(data: bytes, what: str) -> tuple[bytes, bytes]:
    name, value = _split(data, what, 2) if data.count(b"\0") == 2 else (b"", b"")
    if not name:
        raise MilterError(f"{what}: not a name and a value")
    return name, value


def _placed(data: bytes, what: str) -> tuple[int, bytes, bytes]:
    if len(data) < 4:
        raise MilterError(f"{what}: too short")
    return (_LENGTH.unpack_from(data)[0], *_field(data[4:], what))


def _header(data: bytes) -> Header:
    return Header(*_field(data, "HEADER"))


def _negotiate(data: bytes) -> Negotiate:
    if len(data) < _NEGOTIATION.size:
        raise MilterError("OPTNEG: too short")
    version, actions, steps = _NEGOTIATION.unpack_from(data)
    at = _NEGOTIATION.size
    macros: list[tuple[int, bytes]] = []
    while at < len(data):
        end = data.find(b"\0", at + 4)
        if end < 0 or len(macros) >= len(MacroStage):
            raise MilterError("OPTNEG: a list of macros without its end, or too many")
        macros.append((_LENGTH.unpack_from(data, at)[0], data[at + 4 : end]))
        at = end + 1
    return Negotiate(version, actions, steps, tuple(macros))


def _macros(data: bytes) -> Macros:
    if not data:
        raise MilterError("MACRO: for no command")
    if len(data) == 1:
        return Macros(data)
    texts = _split(data[1:], "MACRO", 2 * MACROS)
    if len(texts) % 2 or not all(texts[::2]):
        raise MilterError("MACRO: not names and values")
    return Macros(data[:1], tuple(zip(texts[::2], texts[1::2], strict=True)))


def _connect(data: bytes) -> Connect:
    host, end, rest = data.partition(b"\0")
    if not end or not rest:
        raise MilterError("CONNECT: too short")
    family = rest[:1]
    if family == b"U":
        if len(rest) > 1:
            raise MilterError("CONNECT: data after an unknown address")
        return Connect(host)
    if family not in (b"4", b"6", b"L") or len(rest) < 4:
        raise MilterError("CONNECT: not an address")
    return Connect(host, family, int.from_bytes(rest[1:3], "big"), _one(rest[3:], "CONNECT"))


def _with_parameters(data: bytes, what: str) -> tuple[bytes, bytes | None]:
    texts = _split(data, what, 2)
    return texts[0], texts[1] if len(texts) > 1 else None


_BARE = {one.value: one for one in Bare}
_READERS: dict[bytes, Callable[[bytes], Packet]] = {
    b"B": Body,
    b"C": _connect,
    b"D": _macros,
    b"E": EndOfMessage,
    b"H": lambda data: Helo(_one(data, "HELO")),
    b"L": _header,
    b"M": lambda data: Mail(_split(data, "MAIL", ARGUMENTS)),
    b"O": _negotiate,
    b"R": lambda data: Rcpt(_split(data, "RCPT", ARGUMENTS)),
    b"U": lambda data: Unknown(_one(data, "UNKNOWN")),
    b"+": lambda data: AddRecipient(_one(data, "ADDRCPT")),
    b"-": lambda data: DeleteRecipient(_one(data, "DELRCPT")),
    b"2": lambda data: AddRecipientWith(*_with_parameters(data, "ADDRCPT_PAR")),
    b"b": ReplaceBody,
    b"e": lambda data: ChangeFrom(*_with_parameters(data, "CHGFROM")),
    b"h": lambda data: AddHeader(*_field(data, "ADDHEADER")),
    b"i": lambda data: InsertHeader(*_placed(data, "INSHEADER")),
    b"m": lambda data: ChangeHeader(*_placed(data, "CHGHEADER")),
    b"q": lambda data: Quarantine(_one(data, "QUARANTINE")),
    b"y": lambda data: ReplyCode(_one(data, "REPLYCODE")),
}


# -- replies, macros, values --------------------------------------------------------------------------------------


def reply_code(reply: Reply, utf8: bool = True) -> ReplyCode:
    """Our reply for an MTA. Postfix refuses one without an enhanced code; Sendmail and Postfix read ``%%`` as ``%``.
    RFC 6531 3.7.4.2: UTF-8 only for a client that asked for it (``utf8``); the MTA hands on what it is told."""
    enhanced = reply.enhanced_code or ("4.0.0" if reply.temporary else "5.0.0")
    lines = [_UNSAFE.sub(" ", line) for line in reply.text.split("\n")][:REPLY_LINES]
    if not utf8:
        lines = [line.encode("ascii", "replace").decode("ascii") for line in lines]
    last = len(lines) - 1
    out = [f"{reply.code}{' ' if at == last else '-'}{enhanced} {line}" for at, line in enumerate(lines)]
    return ReplyCode("\r\n".join(out).replace("%", "%%").encode("utf-8", "replace"))


def reply_of(packet: ReplyCode) -> Reply:
    """What a filter wants said. Raises MilterError when it is no negative SMTP reply."""
    lines = packet.text.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    if len(lines) > REPLY_LINES:
        raise MilterError(f"REPLYCODE: more than {REPLY_LINES} lines")
    code, enhanced, texts = 0, "", []
    for at, line in enumerate(lines):
        found = _LINE.fullmatch(line)
        if found is None or (found[3] and not found[2]) or (code and int(found[1]) != code):
            raise MilterError(f"REPLYCODE: not a reply: {line[:80]!r}")
        if at < len(lines) - 1 and found[2] != b"-":
            raise MilterError("REPLYCODE: lines after the last one")
        code = int(found[1])
        text = found[3].replace(b"%%", b"%").decode("utf-8", "replace")
        status = _ENHANCED.match(text)
        if status is not None and status[1][0] == str(code)[0]:
            enhanced = enhanced or status[1]
            text = text[status.end() :]
        texts.append(_UNSAFE.sub(" ", text).strip())
    return Reply(code, enhanced, "\n".join(texts))


def macro_name(name: bytes) -> str:
    """``{auth_type}`` and ``auth_type`` are the same macro."""
    return name.removeprefix(b"{").removesuffix(b"}").decode("ascii", "replace")


def macro_text(name: str) -> bytes:
    """As Sendmail writes it: one letter alone, longer names in braces."""
    return name.encode() if len(name) == 1 else f"{{{name}}}".encode()


def text(value: bytes) -> str:
    """Texts of the envelope: UTF-8, other octets kept."""
    return value.decode("utf-8", "surrogateescape")


def octets(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")
