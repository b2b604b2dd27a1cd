"""The tree of parts of a message, by offsets.

Specification: RFC 2045, 2046, 6532 (message/global). Complete: yes; message/partial and external-body stay leaves.

How it reads: one forward pass, no recursion. Each open multipart knows the next place its delimiter may stand at; an
inner one never looks farther than the next delimiter of an outer one, so each octet is read once per open multipart,
at the speed of bytes.find. A delimiter line is compared by its beginning only (RFC 2046 5.1.1), the longest open
boundary wins, the inner of two equal ones (as Dovecot does). The line end before a delimiter belongs to the delimiter;
when the same line end is also the blank line that ends a part's header, the header keeps it and the body is empty.

What callers rely on:
  start <= body_start <= end; children lie inside their parent, in order, without overlap.
  A multipart without a usable boundary is a leaf (`is_multipart` is false) with MISSING_BOUNDARY.
  `message` is set for message/rfc822 and message/global without a transfer encoding; then children == [message].
  Whatever is over a limit stays unread octets of the part it is in, with a finding.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from rules.mail import charset, encoding, limits, params
from rules.mail.findings import NONE, Finding
from rules.mail.header import HeaderBlock, scan
from rules.mail.params import Parameterised

_TEXT: Final = Parameterised("text/plain", {}, [], main=b"text/plain")
_DIGEST: Final = Parameterised("message/rfc822", {}, [], main=b"message/rfc822")
_NOTHING: Final = Parameterised("", {}, [])
_MESSAGES: Final = frozenset(("rfc822", "global"))


class Part:
    """One part: data[start:body_start] is its header with the blank line, data[body_start:end] its body."""

    __slots__ = (
        "_disposition", "_lines",
        "body_start", "budget", "children", "content_type", "ctype", "encoding", "end", "findings", "header",
        "is_multipart", "message", "start", "subtype",
    )  # fmt: skip

    def __init__(
        self, header: HeaderBlock, default: Parameterised = _TEXT, budget: params.Budget | None = None
    ) -> None:
        self.header = header
        self.budget = budget or params.Budget()  # one for all parts of a message
        self._disposition: Parameterised | None = None
        self.start = header.start
        self.body_start = header.body_start
        self.end = header.body_start
        self.children: list[Part] = []
        self.message: Part | None = None
        self.is_multipart = False
        self.findings = NONE
        self._lines = -1
        self.content_type = default
        self.encoding = "7bit"
        if header.fields:
            self._read_header(default)
        kind, _, subtype = self.content_type.value.partition("/")
        self.ctype = kind
        self.subtype = subtype

    def _read_header(self, default: Parameterised) -> None:
        header = self.header
        found = header.fields_named(b"content-type")
        if found:
            given = params.parse(header.value(found[0]), self.budget)
            main, slash, sub = given.value.partition("/")
            if main and slash and sub:
                self.content_type = given
            else:  # RFC 2045 5.2: a syntactically invalid field is text/plain
                self.content_type = _TEXT if default is _DIGEST else default
                self.findings |= {Finding.BAD_CONTENT_TYPE}
            if len(found) > 1:
                self.findings |= {Finding.DUPLICATE_CONTENT_TYPE}
            if given.findings:
                self.findings |= given.findings
        found = header.fields_named(b"content-transfer-encoding")
        if found:
            self.encoding = params.parse(header.value(found[0]), self.budget).value
            if len(found) > 1:
                self.findings |= {Finding.DUPLICATE_ENCODING}

    @property
    def params(self) -> dict[str, str]:
        """Content-Type's parameters by lower-case name, decoded. Read-only."""
        return self.content_type.params

    @property
    def data(self) -> bytes:
        """The message that the offsets refer to."""
        return self.header.data

    @property
    def size(self) -> int:
        """Octets of the body as stored."""
        return self.end - self.body_start

    @property
    def lines(self) -> int:
        """Line ends in the body (IMAP's body-fld-lines)."""
        if self._lines < 0:
            self._lines = self.header.data.count(b"\n", self.body_start, self.end)
        return self._lines

    @property
    def virtual_size(self) -> int:
        """Octets of the body when every line end is CRLF (IMAP's body-fld-octets, whatever the file's form)."""
        return self.size + self.lines - self.header.data.count(b"\r\n", self.body_start, self.end)

    def body(self, data: bytes | None = None) -> bytes:
        """The body as it came, not decoded."""
        return (self.header.data if data is None else data)[self.body_start : self.end]

    def decoded(self, limit: int | None = None) -> bytes:
        """The body, or its first `limit` octets, with the transfer encoding undone; never longer than that.

        Notes what was malformed in `findings`.
        """
        end = self.end if limit is None else min(self.end, self.body_start + limit)
        octets, noted = encoding.decode(self.header.data[self.body_start : end], self.encoding)
        if noted and limit is None:
            self.findings |= noted
        return octets

    def text(self, limit: int | None = None) -> str | None:
        """The decoded text of a text/* part (of its first `limit` octets), else None."""
        if self.ctype != "text":
            return None
        name = self.params.get("charset", "us-ascii")
        if not charset.known(name):
            self.findings |= {Finding.UNKNOWN_CHARSET}
        return charset.decode(self.decoded(limit), name)

    def disposition(self) -> Parameterised | None:
        """Content-Disposition, if there is one; read once."""
        if self._disposition is None:
            value = self.header.first(b"content-disposition")
            self._disposition = params.parse(value, self.budget) if value else _NOTHING
        return None if self._disposition is _NOTHING else self._disposition

    def filename(self) -> str | None:
        """The name a client shows for an attachment: Content-Disposition's, else Content-Type's."""
        given = self.disposition()
        name = given.params.get("filename") if given is not None else None
        return name if name is not None else self.params.get("name")

    def __repr__(self) -> str:
        return f"Part({self.ctype}/{self.subtype}, {self.start}:{self.body_start}:{self.end}, {len(self.children)})"


class _Level:
    """An open multipart and the next place where its delimiter may stand (proved absent before)."""

    __slots__ = ("delimiter", "depth", "next", "part")

    def __init__(self, part: Part, boundary: bytes, depth: int) -> None:
        self.part = part
        self.delimiter = b"\n--" + boundary
        self.depth = depth  # how many parts are open, this one included
        self.next = -1


def parse(data: bytes, header: HeaderBlock | None = None) -> Part:
    """Read the structure of a message; its header, when it was scanned before, is taken as it is. Never raises."""
    return _Parser(data, header).run()


class _Parser:
    __slots__ = ("budget", "count", "dashes", "data", "end", "header", "levels", "open", "work")

    def __init__(self, data: bytes, header: HeaderBlock | None) -> None:
        self.data = data
        self.end = len(data)
        self.header = header  # the root's, until it is used
        self.open: list[Part] = []
        self.levels: list[_Level] = []
        self.count = 0
        self.work = 0
        self.dashes = (0, -1)  # (from, to): no line that begins with two dashes is between
        self.budget = params.Budget()

    def run(self) -> Part:
        self._enter(0, None, _TEXT)
        root = self.open[0]
        levels = self.levels
        while levels and levels[-1].next < self.end:
            if self.count >= limits.MIME_PARTS or self.work >= limits.DELIMITER_WORK:
                root.findings |= {Finding.PARTS}
                break
            self._delimiter(levels[-1].next)
        self._close(0, self.end)
        return root

    def _enter(self, start: int, parent: Part | None, default: Parameterised) -> None:
        """Open the part that starts here, and the messages directly inside it."""
        limit = self.levels[-1].next + 1 if self.levels else self.end
        limit = min(limit, self.end)
        while True:
            part = Part(self.header or scan(self.data, start, limit), default, self.budget)
            self.header = None
            self.count += 1
            self.open.append(part)
            if parent is not None:
                parent.children.append(part)
                if parent.message is parent:
                    parent.message = part
            if part.ctype == "multipart":
                self._open_multipart(part)
                return
            if part.ctype != "message" or part.subtype not in _MESSAGES:
                return
            if part.encoding not in encoding.IDENTITY:
                part.findings |= {Finding.ENCODED_COMPOSITE}
                return
            if len(self.open) >= limits.MIME_DEPTH or self.count >= limits.MIME_PARTS:
                part.findings |= {Finding.DEPTH if len(self.open) >= limits.MIME_DEPTH else Finding.PARTS}
                return
            part.message = part  # replaced by its child at once
            parent, start, default = part, part.body_start, _TEXT

    def _open_multipart(self, part: Part) -> None:
        boundary = _boundary(part)
        if not boundary:
            part.findings |= {Finding.MISSING_BOUNDARY}
            return
        if part.encoding not in encoding.IDENTITY:
            part.findings |= {Finding.ENCODED_COMPOSITE}
        part.is_multipart = True
        if len(self.open) >= limits.MIME_DEPTH:
            part.findings |= {Finding.DEPTH}
            return
        level = _Level(part, boundary, len(self.open))
        self.levels.append(level)
        # The delimiter may be the body's very first line: its LF is then the header's last octet.
        self._search(len(self.levels) - 1, max(part.body_start - 1, 0))

    def _search(self, index: int, position: int) -> None:
        """Find the next delimiter of a level from position on, no farther than the outer levels' next one."""
        level = self.levels[index]
        bound = self.levels[index - 1].next if index else self.end
        begin, stop = self.dashes
        if not begin <= position <= stop:
            begin, stop = position, self.data.find(b"\n--", position, self.end)
            if stop < 0:
                stop = self.end
            self.dashes = (begin, stop)
        if stop >= bound and (stop > bound or bound == self.end):  # all levels share that one look
            level.next = bound
            return
        found = self.data.find(level.delimiter, stop, min(bound + len(level.delimiter), self.end))
        level.next = bound if found < 0 else found

    def _delimiter(self, at: int) -> None:
        """Act on the line after the LF at `at`, which begins with the delimiter of at least one open level."""
        data, levels = self.data, self.levels
        winner = self._winner(at)
        level = levels[winner]
        behind = at + len(level.delimiter)
        closing = data.startswith(b"--", behind, self.end)
        line_end = data.find(b"\n", behind, self.end)
        if line_end < 0:
            line_end = self.end
        content_end = at - 1 if data[at - 1 : at] == b"\r" else at
        self._close(level.depth, content_end)
        for inner in levels[winner + 1 :]:
            inner.part.findings |= {Finding.UNTERMINATED}
        stale = winner + (not closing)
        del levels[stale:]
        while stale and levels[stale - 1].next <= at:
            stale -= 1
        for index in range(stale, len(levels)):
            self._search(index, line_end)
        self.work += len(levels) - stale
        if not closing:
            default = _DIGEST if level.part.subtype == "digest" else _TEXT
            self._enter(min(line_end + 1, self.end), level.part, default)

    def _winner(self, at: int) -> int:
        """Which level a delimiter line belongs to: the longest boundary, the inner of equals."""
        data, levels = self.data, self.levels
        best, length = len(levels) - 1, -1
        for index in range(len(levels) - 1, -1, -1):
            level = levels[index]
            if level.next != at:
                break
            self.work += 1
            size = len(level.delimiter)
            if size > length and data.startswith(level.delimiter, at):
                best, length = index, size
                # "--foo--" may close "foo" or separate "foo--": an inner level that fits exactly is it.
                rest = data[at + size : at + size + 4]
                if rest[:2] == b"--":
                    rest = rest[2:]
                if rest[:1] in (b"", b"\n") or rest[:2] == b"\r\n":
                    break
        return best

    def _close(self, depth: int, end: int) -> None:
        """End all open parts deeper than `depth`."""
        for part in reversed(self.open[depth:]):
            end = max(end, part.body_start)  # a header keeps its blank line, so a parent may have to stretch
            part.end = end
            if part.is_multipart and not part.children:
                part.findings |= {Finding.NO_PARTS}
        del self.open[depth:]
        if depth == 0:
            for level in self.levels:
                level.part.findings |= {Finding.UNTERMINATED}


def _boundary(part: Part) -> bytes:
    """The boundary octets; empty when there is none that can be used."""
    text = part.content_type.params.get("boundary", "")
    boundary = text.encode("utf-8", "surrogateescape") if text.isascii() else _raw_boundary(part, text)
    boundary = boundary.rstrip(b" \t")  # RFC 2046 5.1.1: it does not end with a blank
    if len(boundary) > limits.BOUNDARY_OCTETS:
        part.findings |= {Finding.LONG_BOUNDARY}
        return b""
    return b"" if b"\n" in boundary else boundary


def _raw_boundary(part: Part, text: str) -> bytes:
    """A boundary outside ASCII as the octets that stand in the message."""
    for name, value in part.content_type.raw:
        if name.lower() == b"boundary":
            return value
    return text.encode("utf-8", "replace")


def walk(part: Part) -> Iterator[Part]:
    """All parts, a parent before its children."""
    stack = [part]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(current.children))


def numbered(root: Part) -> Iterator[tuple[str, Part]]:
    """Parts with their IMAP section numbers; the bodies of messages that are multiparts have none of their own."""
    stack: list[tuple[str, Part]] = list(reversed(_inside("", root)))
    while stack:
        number, part = stack.pop()
        yield number, part
        if part.message is not None:
            stack.extend(reversed(_inside(number + ".", part.message)))
        elif part.is_multipart:
            stack.extend(
                (f"{number}.{index}", part.children[index - 1]) for index in range(len(part.children), 0, -1)
            )


def _inside(prefix: str, message: Part) -> list[tuple[str, Part]]:
    if message.is_multipart and message.children:
        return [(f"{prefix}{index}", child) for index, child in enumerate(message.children, 1)]
    return [(f"{prefix}1", message)]


def section(root: Part, path: Sequence[int]) -> Part | None:
    """The part of an IMAP section number (RFC 9051 6.4.5); the empty path is the message itself."""
    if not path:
        return root
    part: Part | None = _child(root, path[0])
    for number in path[1:]:
        if part is None:
            return None
        if part.message is not None:
            part = _child(part.message, number)
        elif part.is_multipart and 1 <= number <= len(part.children):
            part = part.children[number - 1]
        else:
            return None
    return part


def _child(message: Part, number: int) -> Part | None:
    if message.is_multipart and message.children:
        return message.children[number - 1] if 1 <= number <= len(message.children) else None
    return message if number == 1 else None


def all_findings(root: Part) -> frozenset[Finding]:
    """Everything noticed in the tree so far (decoding notes more)."""
    found: set[Finding] = set()
    for part in walk(root):
        found |= part.findings
        found |= part.header.findings
    return frozenset(found)
