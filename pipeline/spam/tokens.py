"""What the Bayes classifier reads in a message: words, hosts of links, senders, and facts about its parts.

Only what a message keeps on its way into a mailbox and back is looked at: fields that servers add (Received, Return-Path,
X-Spam-*, Authentication-Results) are left alone, so what is learned from a mailbox fits what is judged at the door.

Tokens are kept as 64 bit numbers, by a keyed BLAKE2b: who has the table cannot read words in it, nor try them without the key.
Invariants: linear in the octets looked at, of which there are at most ``TEXT_OCTETS`` of decoded text and ``TOKENS``
different tokens; nothing raises on any octets; the order of tokens does not matter.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

from rules.mail import mime
from rules.mail.message import Message

TEXT_OCTETS: Final = 128 << 10  # of decoded text, all parts together
FIELD_CHARS: Final = 2000  # of one header field
PARTS: Final = 50
TOKENS: Final = 6000
SHORT, LONG = 3, 16  # characters of a word that is taken as it is

_WORD = re.compile(r"[\w$£€¥%'’\-]+")
_RUN = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")  # no blanks between words
_LINK = re.compile(r"(?i:https?|ftp)://([^\s\"'<>/?#]{1,200})([^\s\"'<>]{0,400})")
_ADDRESS = re.compile(r"@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})")
_TAG = re.compile(r"<(/?)([A-Za-z!?][^\s<>/]*)([^<>]*)>?")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_SILENT = ("script", "style", "title")  # elements whose text nobody reads
_INLINE = frozenset(("b", "i", "u", "em", "strong", "font", "span", "a", "big", "small", "tt", "!", "s"))
_PRESENT = (
    "reply-to", "sender", "list-id", "list-unsubscribe", "list-post", "precedence", "errors-to", "in-reply-to", "references",
    "organization", "mime-version", "x-priority", "importance", "x-msmail-priority", "cc", "message-id", "date", "to",
    "x-mailer", "user-agent",
)  # fmt: skip
_WORDS_OF = ("subject", "x-mailer", "user-agent", "organization", "list-id")


def tokens(message: Message) -> list[str]:
    """The different tokens of a message, those of the header first; at most TOKENS."""
    seen: dict[str, None] = {}
    for one in _all(message):
        seen[one] = None
        if len(seen) >= TOKENS:
            break
    return list(seen)


def hashed(names: Iterable[str], key: bytes) -> list[int]:
    """Signed 64 bit numbers; ``key`` up to 64 octets."""
    start = blake2b(digest_size=8, key=key[:64])
    out = []
    for name in names:
        one = start.copy()
        one.update(name.encode("utf-8", "surrogatepass"))
        out.append(int.from_bytes(one.digest(), "big", signed=True))
    return out


def _all(message: Message) -> Iterator[str]:
    yield from _header(message)
    left = TEXT_OCTETS
    count = 0
    for part in mime.walk(message.root):
        count += 1
        if count > PARTS:
            yield "mime:many"
            break
        yield from _facts(part)
        if part.ctype != "text" or left <= 0:
            continue
        text = part.text(left) or ""
        left -= part.size
        yield from _body(text, part.subtype == "html" or "<html" in text[:2000].lower())
    yield f"mime:parts:{min(count, 5)}"


def _header(message: Message) -> Iterator[str]:
    for name in _PRESENT:
        if name.encode() not in message.header:
            yield f"without:{name}"
    for name in _WORDS_OF:
        text = message.text(name.encode())[:FIELD_CHARS]
        if not text:
            continue
        if name == "subject" and text.isupper():
            yield "subject:capitals"
        for word in _words(_folded(text)):
            yield f"{name}:{word}"
    for name in ("from", "reply-to", "sender"):
        for box in message.addresses(name.encode())[:4]:
            address = box.address.lower()[:200]
            yield f"{name}:{address}"
            for domain in _domains(address.rpartition("@")[2]):
                yield f"{name}:@{domain}"
            for word in _words(_folded(message.text(name.encode())[:FIELD_CHARS])):
                yield f"{name}:{word}"
    count = len(message.addresses(b"to")) + len(message.addresses(b"cc"))
    yield f"to:{count if count < 4 else 'several' if count < 12 else 'many'}"


def _facts(part: mime.Part) -> Iterator[str]:
    yield f"mime:{part.ctype}/{part.subtype}"[:80]
    yield f"mime:{part.encoding}"[:40]
    given = part.params.get("charset")
    if given:
        yield f"charset:{given.lower()}"[:40]
    name = part.filename()
    if name:
        yield f"file:{name.rpartition('.')[2].lower()}"[:24]


def _body(text: str, is_html: bool) -> Iterator[str]:
    for match in _LINK.finditer(text):
        yield from _link(match[1], match[2])
    for match in _ADDRESS.finditer(text):
        yield f"mail:{match[1].lower()}"
    if is_html:
        text, found = _without_tags(text)
        yield from found
    before = ""
    for word in _words(_folded(_LINK.sub(" ", text))):
        yield word
        if before:
            yield f"{before} {word}"
        before = word


def _link(host: str, rest: str) -> Iterator[str]:
    host = host.rpartition("@")[2].partition(":")[0].lower()
    yield "link"
    if host.replace(".", "").isdigit():
        yield "link:number"
    for domain in _domains(host):
        yield f"link:{domain}"
    for word in _WORD.findall(rest.lower())[:20]:
        if SHORT <= len(word) <= LONG:
            yield f"path:{word}"


def _domains(host: str) -> Iterator[str]:
    """A host and the domains above it."""
    for _ in range(5):
        if "." not in host:
            return
        yield host
        host = host.partition(".")[2]


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text.translate(_INVISIBLE)).casefold()


def _words(text: str) -> Iterator[str]:
    for raw in _WORD.findall(text):
        word = raw.strip("'’-_")
        size = len(word)
        if size < SHORT:
            continue
        if not word.isascii() and _RUN.search(word):
            yield from _pairs(word)
        elif size <= LONG:
            yield word
            if "-" in word:
                yield from (piece for piece in word.split("-") if len(piece) >= SHORT)
        else:
            yield f"long:{word[0]}:{size // 10}"


def _pairs(word: str) -> Iterator[str]:
    """Two characters at a time, where words are not set apart."""
    for run in _RUN.findall(word[:400]):
        yield from (run[at : at + 2] for at in range(len(run) - 1))


def _without_tags(text: str) -> tuple[str, list[str]]:
    """What a reader sees, and what the tags tell."""
    pieces: list[str] = []
    found: dict[str, None] = {}
    at = silent = 0
    ends = _Ends(text)
    for match in _TAG.finditer(text):
        if match.start() < silent:
            continue
        pieces.append(text[max(at, silent) : match.start()])
        at = match.end()
        name = match[2].lower()
        if name.startswith("!--"):
            silent = at = ends.after("-->", match.start() + 4)
            continue
        if name in _SILENT and not match[1]:
            silent = at = ends.after(f"</{name}", at)
            continue
        if name not in _INLINE:
            pieces.append(" ")
        if not match[1] and len(found) < 60:
            found[f"html:{name[:16]}"] = None
            attributes = match[3].lower()
            if "display:none" in attributes or "font-size:0" in attributes:
                found["html:hidden"] = None
    pieces.append(text[max(at, silent) :])
    return html.unescape("".join(pieces)), list(found)


class _Ends:
    """Where something ends; what is not there is looked for once only."""

    def __init__(self, text: str) -> None:
        self._text = text.lower()
        self._absent: set[str] = set()

    def after(self, what: str, start: int) -> int:
        """Behind the next ``what``; the place itself when there is none: then the rest is read as text."""
        if what in self._absent:
            return start
        at = self._text.find(what, start)
        if at < 0:
            self._absent.add(what)
            return start
        return at + len(what)
