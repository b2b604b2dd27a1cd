"""The first words of a message. Specification: RFC 8970 section 3.1 and 4. Complete.

Rendered once, with the index row. The first part with words that a reader sees counts, as parts follow each other (of
alternatives the plain one comes first); attachments do not. Little is looked at first, more only where that had too few words,
so that long messages cost no more than short ones.
"""

from __future__ import annotations

import html
import re

from filterd.imap.names import nstring
from rules.mail import mime

CHARACTERS = 200  # at most
_LOOKS = (1500, 12_000, 65_536)  # octets of a part
_MOST = 65_536  # octets of all parts together
_SLICE = 4096  # characters of HTML whose tags are taken away at a time
_HIDDEN = ("style", "script", "head", "title")
_COMMENT = ("<!--", "-->")
_INLINE = re.compile(
    r"</?(?:a|abbr|b|big|code|em|font|i|mark|s|small|span|strike|strong|sub|sup|tt|u|wbr)(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
_TAG = re.compile(r"<[^<>]*>")
# What no reader sees: controls, soft hyphens, joiners and marks of direction; senders fill up the preview with them.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff]+"
)
_SIGNATURE = re.compile(r"^-- $", re.MULTILINE)


def rendered(root: mime.Part) -> bytes:
    """The value of the FETCH item: a string, never empty octets."""
    return nstring(preview(root).encode("utf-8", "replace"))


def preview(root: mime.Part) -> str:
    """At most CHARACTERS, blanks collapsed; "" when there are no words."""
    left = _MOST
    for part in mime.walk(root):
        if left <= 0:
            break
        if part.ctype != "text" or part.subtype not in ("plain", "html") or _attached(part):
            continue
        words = _plain if part.subtype == "plain" else _html
        found = ""
        for octets in _LOOKS:
            left -= min(octets, part.size)
            found = words(part.text(octets) or "")
            if len(found) >= CHARACTERS or part.size <= octets:
                break
        if found:
            return found[:CHARACTERS].rstrip()
    return ""


def _attached(part: mime.Part) -> bool:
    given = part.disposition()
    return given is not None and given.value == "attachment"


def _plain(text: str) -> str:
    """Without quoted lines and what stands behind the signature's mark."""
    if ">" in text:
        text = "\n".join([line for line in text.split("\n") if not line.startswith(">")])
    if "-- " in text:
        text = _SIGNATURE.split(text.replace("\r\n", "\n"), maxsplit=1)[0]
    return _seen(text)


def _html(text: str) -> str:
    """Words of HTML; tags are taken away until there are enough."""
    text = _visible(text)
    found = ""
    for at in (_SLICE, len(text)):
        piece = text[:at]
        open_at = piece.rfind("<")
        if open_at > piece.rfind(">"):
            piece = piece[:open_at]
        found = _seen(html.unescape(_TAG.sub(" ", _INLINE.sub("", piece))))
        if len(found) >= CHARACTERS or at >= len(text):
            break
    return found


def _seen(text: str) -> str:
    text = " ".join(text.split(None, CHARACTERS)[:CHARACTERS])  # as many words are enough
    if text.isascii() and text.isprintable():
        return text
    return " ".join(_UNSEEN.sub("", text).split())


def _visible(text: str) -> str:
    """HTML without what no reader sees; each kind is cut from left to right, once."""
    lower = text.lower()
    if len(lower) != len(text):  # a letter that grows when lowered: offsets would not fit
        lower = "".join([ch.lower() if len(ch.lower()) == 1 else ch for ch in text])
    for begin, end in (_COMMENT, *((f"<{tag}", f"</{tag}") for tag in _HIDDEN)):
        start = lower.find(begin)
        if start < 0:
            continue
        kept, kept_lower, at = [], [], 0
        while start >= 0:
            kept.append(text[at:start])
            kept_lower.append(lower[at:start])
            at = lower.find(end, start + len(begin))
            if at < 0:
                at = len(text)
                break
            if end == _COMMENT[1]:
                at += len(end)
            start = lower.find(begin, at)
        kept.append(text[at:])
        kept_lower.append(lower[at:])
        text, lower = "".join(kept), "".join(kept_lower)
    return text
