"""A message with UTF-8 in its headers, for those who only know ASCII: its surrogate.

Specification: RFC 6857 (which RFC 6855 7 and RFC 6856 2.1 name). Complete: yes, but that comments in address fields and in
Content-Type are not kept, and that what is broken or beyond a limit is not read: its octets outside ASCII become ``?``.

What it keeps: addresses that have no ASCII form stand encoded where the name stands (an empty group, so nobody can write to a
wrong one), domains become A-labels, texts encoded words, parameters (file names) those of RFC 2231, message ids that no
field may have go to ``Downgraded-`` fields. Raw octets that are not UTF-8 are read as everywhere here (``charset.lenient``).
What it loses: signatures over the header no longer fit, and answers to an address without an ASCII form are not possible.

Only headers are changed, of the message and of all its parts, and the recipients in delivery reports; a body is never.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from rules.mail import address, comment, encoding, mime, params, words
from rules.mail.header import HeaderBlock, HeaderField, make_field, scan, unfold

_BLANKS: Final = re.compile(rb"([ \t]+)")
_ASCII: Final = bytes(octet if octet < 0x80 else 0x3F for octet in range(256))
_LABEL_OCTETS: Final = 63
_DOTS: Final = re.compile("[.\u3002\uff0e\uff61]")
_REPORTS: Final = frozenset(("delivery-status", "global-delivery-status"))
_RECIPIENTS: Final = frozenset((b"original-recipient", b"final-recipient"))
_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_NESTED: Final = re.compile(rb"multipart/|message/", re.IGNORECASE)
# (start, end, what stands there instead), in order and apart.
_Change = tuple[int, int, bytes]


def plain(data: bytes) -> bool:
    """Whether a look is enough to know that ``surrogate`` changes nothing; False: ask it."""
    if data.isascii():
        return True
    found = _HEAD.search(data)
    head = data[: found.end()] if found is not None else data
    return head.isascii() and _NESTED.search(head) is None


def surrogate(data: bytes) -> bytes:
    """The message (CRLF line ends) with ASCII in all its headers; ``data`` itself when that is so. Never raises."""
    if plain(data):
        return data
    pieces: list[bytes] = []
    done = 0
    for part in mime.walk(mime.parse(data)):
        for start, end, text in _changes(part):
            pieces += (data[done:start], text)
            done = end
    if not done:
        return data
    pieces.append(data[done:])
    return b"".join(pieces)


def _changes(part: mime.Part) -> Iterator[_Change]:
    data, block = part.data, part.header
    if not data[block.start : block.body_start].isascii():
        for field in block.fields:
            raw = block.raw(field)
            if not raw.isascii():
                yield field.start, field.end, _field(block, field)
        left = block.fields[-1].end if block.fields else block.start
        rest = data[left : block.body_start]
        if not rest.isascii():  # beyond a limit
            yield left, block.body_start, rest.translate(_ASCII)
    if part.ctype == "message" and part.subtype in _REPORTS and part.encoding in encoding.IDENTITY:
        yield from _report(part)


def _report(part: mime.Part) -> Iterator[_Change]:
    """RFC 6857 4.2. The body is groups of fields with blank lines between them (RFC 3464 2.1)."""
    at = part.body_start
    while at < part.end:
        block = scan(part.data, at, part.end)
        for field in block.fields:
            if field.lname in _RECIPIENTS and not block.raw(field).isascii():
                yield field.start, field.end, _field(block, field)
        if block.body_start <= at:
            break
        at = block.body_start


def _field(block: HeaderBlock, field: HeaderField) -> bytes:
    """One field anew, with its line end if it had one."""
    value = unfold(block.value(field)).strip(b" \t\r\n")
    if not field.name:  # a line that is no field
        made = _text(value) + b"\r\n"
    else:
        name, text = _FIELDS.get(field.lname, _unstructured)(field.name, value)
        made = make_field(name, text.translate(_ASCII))
    return made if block.raw(field).endswith(b"\n") else made.removesuffix(b"\r\n")


# -- what a value is made of (RFC 6857 3.1) ---------------------------------------------------------------------------------
def _text(value: bytes) -> bytes:
    """Words outside ASCII encoded; what is encoded already is put together with its neighbours, as blanks between encoded
    words are not shown."""
    out: list[bytes] = []
    run: list[bytes] = []
    tokens = _BLANKS.split(value)
    for index in range(0, len(tokens), 2):
        token, blank = tokens[index], tokens[index - 1] if index else b""
        odd = not token.isascii() or b"=?" in token
        if odd and run:
            run += (blank, token)
        elif odd:
            out.append(blank)
            run = [token]
        else:
            out += (_run(run), blank, token)
            run = []
    out.append(_run(run))
    return b"".join(out)


def _run(tokens: list[bytes]) -> bytes:
    value = b"".join(tokens)
    return value if value.isascii() else words.encode_text(words.decode(value))


def _split(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(text, the comment that follows it) until the end."""
    marks, at = comment.harmless(value), 0
    while (start := marks.find(b"(", at)) >= 0:
        end = comment.read(marks, start).end
        yield value[at:start], value[start:end]
        at = end
    yield value[at:], b""


def _comment(value: bytes) -> bytes:
    return value if value.isascii() else b"(" + words.encode_text(words.decode(value[1:-1])) + b")"


def _a_labels(domain: str) -> str | None:
    """The domain as ASCII (RFC 5891 4.4); None: it is no domain. Nothing is mapped but case: ``faß.de`` is not ``fass.de``."""
    if domain.isascii():
        return domain
    labels: list[str] = []
    for label in _DOTS.split(unicodedata.normalize("NFC", domain.lower())):
        if not label.isascii():
            if len(label) > _LABEL_OCTETS or not all(map(_in_label, label)):
                return None
            label = "xn--" + label.encode("punycode").decode("ascii")
        if not 0 < len(label) <= _LABEL_OCTETS:
            return None
        labels.append(label)
    return ".".join(labels)


def _in_label(character: str) -> bool:
    return character.isalnum() or character == "-" or unicodedata.category(character).startswith("M")


def _mailbox(one: address.Mailbox) -> bytes:
    domain = _a_labels(one.domain)
    if one.local.isascii() and domain is not None:
        return address.render(one._replace(domain=domain))
    if not one.name:
        return words.encode_phrase(one.address) + b" :;"
    name = words.encode_phrase(one.name)
    # Blanks between encoded words are not shown, so it is one of the encoded ones.
    shown = " " + one.address if name.endswith(b"?=") else one.address
    return name + b" " + words.encode_phrase(shown) + b" :;"


def _group(one: address.Group) -> bytes:
    if all(member.local.isascii() and _a_labels(member.domain) is not None for member in one.members):
        return words.encode_phrase(one.name) + b": " + b", ".join(map(_mailbox, one.members)) + b";"
    name = words.encode_phrase(one.name)
    members = ", ".join([f"{m.name} <{m.address}>" if m.name else m.address for m in one.members])
    return name + b" " + words.encode_phrase(" " + members if name.endswith(b"?=") else members) + b" :;"


# -- fields (RFC 6857 3.2): (name, value) -> the new ones -------------------------------------------------------------------
def _unstructured(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, _text(value)


def _addresses(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    found = address.parse_list(value)
    if not found.items or found.findings:  # broken, or not read to its end
        return name, _text(value)
    return name, b", ".join(
        [_group(one) if isinstance(one, address.Group) else _mailbox(one) for one in found.items]
    )


def _commented(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, b"".join([text + _comment(inner) for text, inner in _split(value)])


def _identifiers(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if all(text.isascii() for text, _ in _split(value)):
        return _commented(name, value)
    return b"Downgraded-" + name, _text(value)


def _recipient(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """RFC 6857 3.1.9: utf-8-address to utf-8-addr-xtext (RFC 6533 3)."""
    kind, semicolon, rest = value.partition(b";")
    if not semicolon or kind.strip().lower() != b"utf-8":
        return b"Downgraded-" + name, _text(value)
    made = [
        "".join([c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in words.decode(text)]).encode()
        + _comment(inner)
        for text, inner in _split(rest)
    ]
    return name, kind + b";" + b"".join(made)


def _parameters(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    found = params.parse(value)
    known = [params.render(key, text) for key, text in found.params.items() if key.isascii()]
    return name, b"; ".join([found.main, *known])


def _received(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """RFC 6857 3.2.4: FOR and ID go where they cannot be said."""
    return name, b"".join([_clauses(text) + _comment(inner) for text, inner in _split(value)])


def _clauses(text: bytes) -> bytes:
    if text.isascii():
        return text
    kept: list[bytes] = []
    tokens = _BLANKS.split(text)
    for index in range(0, len(tokens), 2):
        token = tokens[index]
        if index:
            kept.append(tokens[index - 1])
        if token.isascii():
            kept.append(token)
            continue
        word = token.rstrip(b";")
        clause = kept[-2].lower() if len(kept) > 1 else b""
        made = _trace_word(word) if clause != b"id" else None
        if made is None and clause in (b"for", b"id"):
            del kept[-2:]
            made = b""
        kept.append((word if made is None else made) + token[len(word) :])
    return b"".join(kept)


def _trace_word(word: bytes) -> bytes | None:
    """A domain or an address of a domain, in ASCII."""
    local, at, domain = words.decode(word.strip(b"<>")).rpartition("@")
    if not local.isascii():
        return None
    found = _a_labels(domain)
    if found is None:
        return None
    made = f"{local}{at}{found}".encode()
    return b"<" + made + b">" if word.startswith(b"<") else made


_Rule = Callable[[bytes, bytes], tuple[bytes, bytes]]
_BY_RULE: Final[tuple[tuple[_Rule, bytes], ...]] = (
    (
        _addresses,
        b"from sender to cc bcc reply-to resent-from resent-sender resent-to resent-cc resent-bcc resent-reply-to"
        b" return-path disposition-notification-to",
    ),
    (
        _commented,
        b"date resent-date mime-version content-id content-transfer-encoding content-language accept-language auto-submitted",
    ),
    (_identifiers, b"message-id resent-message-id in-reply-to references"),
    (_recipient, b"original-recipient final-recipient"),
    (_parameters, b"content-type content-disposition"),
    (_received, b"received"),
)
_FIELDS: Final[Mapping[bytes, _Rule]] = MappingProxyType(
    {name: rule for rule, names in _BY_RULE for name in names.split()}
)
