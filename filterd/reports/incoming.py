"""Reports that others send us: DMARC aggregate reports (RFC 7489 appendix C, RFC 6713 gzip or zip) and SMTP TLS reports
(RFC 8460 4, JSON), recognised in a message by what is in its parts, not by its Subject.

Invariants: nothing here raises on any input; at most PARTS attachments, UNPACKED octets each, RECORDS records, DEPTH
levels, NODES elements at a time; a document type declaration ends the reading (no entities of strangers are expanded).
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from rules.mail import mime
from rules.mail.message import Message

PACKED = 10 << 20
UNPACKED = 20 << 20
PARTS = 20
RECORDS = 100_000
DEPTH = 12
NODES = 20_000  # elements that are remembered at a time: the head, and one record
TEXT = 1024  # characters of one value
LAST_SECOND = 253_402_300_799  # of the year 9999
_BLANKS = b"\xef\xbb\xbf \t\r\n"  # and the mark of UTF-8
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # the marks of UTF-16
_TYPES = (b"gzip", b"zip", b"xml", b"tlsrpt", b"octet-stream")


@dataclass(frozen=True, slots=True)
class Line:
    """One record of a DMARC report."""

    ip: str
    count: int
    disposition: str
    dkim: str
    spf: str
    header_from: str
    reasons: tuple[str, ...] = ()
    results: tuple[str, ...] = ()  # "dkim example.org pass", "spf example.org fail"


@dataclass(frozen=True, slots=True)
class DmarcReport:
    """Times in seconds since the epoch."""

    org: str
    email: str
    report_id: str
    domain: str
    policy: str
    begin: int
    end: int
    lines: tuple[Line, ...] = ()

    @property
    def kind(self) -> str:
        return "dmarc"

    @property
    def messages(self) -> int:
        return sum(line.count for line in self.lines)

    @property
    def failed(self) -> int:
        return sum(line.count for line in self.lines if line.dkim != "pass" and line.spf != "pass")


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What was seen of one policy. ``failures``: "certificate-expired 3 from mx.example"."""

    domain: str
    kind: str
    succeeded: int
    failed: int
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsReport:
    """``begin`` and ``end`` as written (RFC 3339)."""

    org: str
    contact: str
    report_id: str
    begin: str
    end: str
    policies: tuple[TlsPolicy, ...] = ()

    @property
    def kind(self) -> str:
        return "tls"


Report = DmarcReport | TlsReport


def likely(bodystructure: bytes) -> bool:
    """Could a message of this BODYSTRUCTURE carry a report?"""
    lowered = bodystructure.lower()
    return any(kind in lowered for kind in _TYPES)


def recognise(data: bytes) -> Report | None:
    """The first report in a message, or in a bare file (XML, JSON, gzip, zip); None when there is none."""
    if data[:2] in (b"\x1f\x8b", b"PK") or data.lstrip()[:1] in (b"<", b"{"):
        return _read(data)
    for part in _parts(Message(data)):
        found = _read(part.decoded(PACKED))
        if found is not None:
            return found
    return None


def _parts(message: Message) -> Iterator[mime.Part]:
    count = 0
    for part in mime.walk(message.root):
        if part.is_multipart or part.message is not None:
            continue
        kind = f"{part.ctype}/{part.subtype}".encode("utf-8", "replace")
        if likely(kind) or (part.filename() or "").lower().endswith((".gz", ".zip", ".xml", ".json")):
            count += 1
            if count > PARTS:
                return
            yield part


def _read(data: bytes) -> Report | None:
    text = _unpacked(data)
    head = text[:64].lstrip(_BLANKS)
    if head[:1] == b"{":
        return _tls(text)
    if head[:1] == b"<" or text[:2] in _WIDE:
        return _dmarc(text)
    return None


def _unpacked(data: bytes) -> bytes:
    """The content of a gzip or zip file, other octets as they are; b"" for what is broken or too large."""
    try:
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(31)
            out = unpacker.decompress(data, UNPACKED)
            return b"" if unpacker.unconsumed_tail else out
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return _of_archive(archive)
    except (zlib.error, zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError):
        return b""
    return data


def _of_archive(archive: zipfile.ZipFile) -> bytes:
    """The first file that looks like a report: what packs a folder may put files of its own in front of it."""
    left = UNPACKED
    for entry in archive.infolist()[:PARTS]:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            continue  # LZMA takes the memory that the file asks for
        if entry.is_dir() or entry.file_size > left:
            continue
        with archive.open(entry) as file:
            text = file.read(left)
        left -= len(text)
        if text[:64].lstrip(_BLANKS)[:1] in (b"<", b"{") or text[:2] in _WIDE:
            return text
    return b""


# -- DMARC ---------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    name: str
    text: str = ""
    children: list[_Node] = field(default_factory=list)

    def find(self, *path: str) -> _Node | None:
        node: _Node | None = self
        for name in path:
            node = next((child for child in node.children if child.name == name), None) if node else None
        return node

    def get(self, *path: str) -> str:
        node = self.find(*path)
        return node.text.strip() if node is not None else ""

    def all(self, name: str) -> list[_Node]:
        return [child for child in self.children if child.name == name]


class _Refused(Exception):
    pass


class _Reader:
    """Builds the tree of everything but the records; each record becomes a Line and is forgotten."""

    def __init__(self) -> None:
        self.root = _Node("")
        self.lines: list[Line] = []
        self._stack = [self.root]
        self._nodes = 0
        self._before = 0  # the record under way

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._nodes += 1
        if len(self._stack) > DEPTH or len(self.lines) >= RECORDS or self._nodes > NODES:
            raise _Refused
        node = _Node(name.rpartition(":")[2])
        if node.name == "record" and len(self._stack) == 2:
            self._before = self._nodes - 1
        parent = self._stack[-1]
        if len(parent.children) > 1000:
            raise _Refused
        parent.children.append(node)
        self._stack.append(node)

    def end(self, _name: str) -> None:
        node = self._stack.pop()
        if node.name == "record" and len(self._stack) == 2:
            self._stack[-1].children.pop()
            self._nodes = self._before
            self.lines.append(_line(node))

    def text(self, data: str) -> None:
        node = self._stack[-1]
        if len(node.text) < TEXT:
            node.text += data[:TEXT]

    def doctype(self, *_: object) -> NoReturn:
        raise _Refused


def _dmarc(text: bytes) -> DmarcReport | None:
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, _Refused, ValueError, LookupError):
        return None
    feedback = reader.root.find("feedback")
    if feedback is None or feedback.find("policy_published") is None:
        return None
    policy = feedback.get("policy_published", "p")
    return DmarcReport(
        org=feedback.get("report_metadata", "org_name"),
        email=feedback.get("report_metadata", "email"),
        report_id=feedback.get("report_metadata", "report_id"),
        domain=feedback.get("policy_published", "domain").lower(),
        policy=policy,
        begin=_moment(feedback.get("report_metadata", "date_range", "begin")),
        end=_moment(feedback.get("report_metadata", "date_range", "end")),
        lines=tuple(reader.lines),
    )


def _line(record: _Node) -> Line:
    evaluated = record.find("row", "policy_evaluated") or _Node("")
    results = record.find("auth_results") or _Node("")
    return Line(
        ip=record.get("row", "source_ip"),
        count=_number(record.get("row", "count")),
        disposition=evaluated.get("disposition"),
        dkim=evaluated.get("dkim"),
        spf=evaluated.get("spf"),
        header_from=record.get("identifiers", "header_from"),
        reasons=tuple(reason.get("type") for reason in evaluated.all("reason")),
        results=tuple(
            f"{one.name} {one.get('domain')} {one.get('result')}"
            for one in results.children
            if one.name in ("dkim", "spf")
        ),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 13 else 0


def _moment(text: str) -> int:
    """Seconds since the epoch; 0 for what no calendar has."""
    seconds = _number(text)
    return seconds if seconds <= LAST_SECOND else 0


# -- TLS -----------------------------------------------------------------------------------------------------------------


def _tls(text: bytes) -> TlsReport | None:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("policies"), list):
        return None
    span = told.get("date-range")
    return TlsReport(
        org=_word(told, "organization-name"),
        contact=_word(told, "contact-info"),
        report_id=_word(told, "report-id"),
        begin=_word(span, "start-datetime"),
        end=_word(span, "end-datetime"),
        policies=tuple(_tls_policy(one) for one in told["policies"][:RECORDS] if isinstance(one, dict)),
    )


def _tls_policy(told: dict[str, object]) -> TlsPolicy:
    policy, summary, details = told.get("policy"), told.get("summary"), told.get("failure-details")
    failures = []
    for one in (details if isinstance(details, list) else [])[:1000]:
        host = _word(one, "receiving-mx-hostname")
        failures.append(
            f"{_word(one, 'result-type')} {_count(one, 'failed-session-count')}"
            + (f" at {host}" if host else "")
        )
    return TlsPolicy(
        domain=_word(policy, "policy-domain"),
        kind=_word(policy, "policy-type"),
        succeeded=_count(summary, "total-successful-session-count"),
        failed=_count(summary, "total-failure-session-count"),
        failures=tuple(failures),
    )


def _word(where: object, name: str) -> str:
    value = where.get(name) if isinstance(where, dict) else None
    return value[:TEXT] if isinstance(value, str) else ""


def _count(where: object, name: str) -> int:
    value = where.get(name) if isinstance(where, dict) else None
    return value if isinstance(value, int) and 0 <= value < 10**12 else 0
