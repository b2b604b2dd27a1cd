"""The first words of a message. Specification: RFC 8970 section 4. Complete."""

from __future__ import annotations

import html
import re

from rules.mail import mime

_TAG = re.compile(r"<[^<>]*>")
_BLANKS = re.compile(r"\s+")
_HIDDEN = ("style", "script", "head")
_LOOK = 65_536  # characters of the part that are looked at
_OCTETS = 4 * _LOOK  # and octets


def preview(root: mime.Part, size: int) -> str:
    """At most ``size`` characters of the first text part, blanks collapsed, quoted lines left out."""
    for wanted in ("plain", "html"):
        for part in mime.walk(root):
            if part.ctype != "text" or part.subtype != wanted:
                continue
            text = (part.text(_OCTETS) or "")[:_LOOK]
            if wanted == "html":
                text = html.unescape(_TAG.sub(" ", _visible(text)))
            else:
                text = "\n".join(line for line in text.split("\n") if not line.startswith(">"))
            return _BLANKS.sub(" ", text).strip()[:size]
    return ""


def _visible(text: str) -> str:
    """HTML without what no reader sees; each kind is cut from left to right, once."""
    for tag in _HIDDEN:
        lower = text.lower()
        if len(lower) != len(text):  # a letter that grows when lowered: offsets would not fit
            return text
        out: list[str] = []
        at = 0
        while (start := lower.find("<" + tag, at)) >= 0:
            out.append(text[at:start])
            at = lower.find(f"</{tag}", start)
            if at < 0:
                at = len(text)
        out.append(text[at:])
        text = "".join(out)
    return text
