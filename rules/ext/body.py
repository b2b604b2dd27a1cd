"""body: what is behind the header.

Specification: RFC 5173. Complete: yes. :text is all text parts, decoded, each a string of its own; HTML
without its mark-up, as people mean what they see. Parts with an unknown transfer encoding are left out. No
transform sets match variables (section 6). Bodies are looked at up to ``limits.body_text`` octets; more is
cut off, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rules.bound import constants
from rules.context import StateKey
from rules.htmltext import visible_text
from rules.mail import charset, mime
from rules.mail.mime import Part
from rules.match import expand, link_match
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run
    from rules.sources import Source

_MARKUP = ("text/html", "application/xhtml+xml")
_ENCODINGS = ("7bit", "8bit", "binary", "quoted-printable", "base64", "")
_TYPE = re.compile(r"[^/]+(/[^/]+)?")
_CACHE: StateKey[dict[tuple[int, str, tuple[str, ...]], list[str]]] = StateKey("body", dict)


@dataclass(frozen=True, slots=True)
class BodySource:
    """The strings of one transform ("raw", "text", "content" with its types)."""

    transform: str
    types: tuple[str, ...] = ()
    slow = True  # class attribute: asked for only when a rule may need it

    def values(self, run: Run) -> Sequence[str]:
        """The strings, made once for each state of the message."""
        cache = run.get(_CACHE)
        key = (run.view.version, self.transform, self.types)
        found = cache.get(key)
        if found is None:
            found = cache[key] = _extract(run, self.transform, self.types)
        return found


def _extract(run: Run, transform: str, types: tuple[str, ...]) -> list[str]:
    message = run.view.message
    block = message.header
    if block.body_start <= block.end or block.body_start > len(message.data):
        return []  # RFC 5173 4: a header without an empty line has no body at all
    most = run.limits.body_text
    if transform == "raw":
        return [charset.lenient(message.data[block.body_start : block.body_start + most])]
    out: list[str] = []
    wanted = types if transform == "content" else ("text", "application/xhtml+xml")
    for number, part in enumerate(mime.walk(message.root)):
        if number >= run.limits.mime_parts or most <= 0:
            break
        if not any(_is_type(part, name) for name in wanted):
            continue
        for text in _strings(part, most):
            most -= len(text)
            markup = transform == "text" and f"{part.ctype}/{part.subtype}" in _MARKUP
            out.append(visible_text(text) if markup else text)
    return out


def _is_type(part: Part, name: str) -> bool:
    """RFC 5173 5.2"""
    if not name:
        return True
    kind, slash, subtype = name.partition("/")
    if "/" in part.subtype or not _TYPE.fullmatch(name) or part.ctype != kind:
        return False
    return not slash or part.subtype == subtype


def _strings(part: Part, most: int) -> list[str]:
    """What a part has to be searched: its text, the preamble and epilogue of a multipart, the header of a message."""
    data = part.data
    if part.is_multipart:
        if not part.children:
            return [charset.lenient(data[part.body_start : part.end][:most])]
        # From the first delimiter on, and up to the last one's end, nothing of the multipart itself is left.
        before = data[part.body_start : part.children[0].start]
        after = data[part.children[-1].end : part.end]
        return [
            charset.lenient(_before_delimiter(before)[:most]),
            charset.lenient(_behind_delimiter(after)[:most]),
        ]
    if part.message is not None:
        inner = part.message.header
        return [charset.lenient(data[inner.start : inner.end][:most])]
    if part.encoding not in _ENCODINGS:
        return []
    text = part.text()
    if text is None:
        name = part.params.get("charset", "")
        data = part.decoded()[:most]
        text = charset.decode(data, name) if name and charset.known(name) else charset.lenient(data)
    return [text[:most]]


def _before_delimiter(data: bytes) -> bytes:
    """The preamble: without the line of the delimiter."""
    end = data.rstrip(b"\r\n").rfind(b"\n")
    return data[: end + 1] if end >= 0 else b""


def _behind_delimiter(data: bytes) -> bytes:
    """The epilogue: behind the line of the closing delimiter."""
    start = data.find(b"\n", data.find(b"--") if b"--" in data else 0)
    return data[start + 1 :] if start >= 0 else b""


def _source(bound: Bound) -> BodySource | None:
    if bound.has("raw"):
        return BodySource("raw")
    if not bound.has("content"):
        return BodySource("text")
    types = constants(bound.tag_texts("content") or ())
    return None if types is None else BodySource("content", tuple(name.lower() for name in types))


def _sources(bound: Bound) -> tuple[Source, ...] | None:
    source = _source(bound)
    return None if source is None else (source,)


def _body(bound: Bound) -> TestFn:
    match = link_match(bound)
    fixed = _source(bound)
    types = bound.tag_texts("content") or ()

    def test(run: Run) -> bool:
        source = fixed or BodySource("content", tuple(name.lower() for name in expand(run, types)))
        captures, run.captures = run.captures, False
        try:
            return match(run, source.values(run))
        finally:
            run.captures = captures

    return test


_ON = ("body",)
_GROUP = "body transform"

EXTENSION = Extension(
    "body",
    ("body",),
    dialect="RFC 5173",
    tests=(
        TestSpec(
            "body",
            ("body",),
            (Param("keys", Kind.STRINGS),),
            link=_body,
            matches=True,
            reads=("body",),
            sources=_sources,
        ),
    ),
    tags=(
        TagSpec("raw", _ON, group=_GROUP),
        TagSpec("text", _ON, group=_GROUP),
        TagSpec("content", _ON, kind=Kind.STRINGS, group=_GROUP),
    ),
)
