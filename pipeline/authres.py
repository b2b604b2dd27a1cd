"""Authentication-Results: writing ours, finding the ones that pretend to be ours.

Specification: RFC 8601 2.2 (syntax), 5 (removing forged fields). Complete: yes, but for the version (never written).
Invariants: a value from outside stands as a token, an addr-spec or a quoted string, never raw; comments hold no
parentheses. ``claimed_id`` reads hostile fields in linear time; what it cannot read is to be removed (RFC 8601 5: a field
that cannot be parsed may mean our id to somebody else's parser).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from pipeline.edits import Splice
from pipeline.verdict import AuthResult, HeaderEdit
from rules.mail import comment
from rules.mail.header import HeaderBlock

NAME = "Authentication-Results"
VALUE_LIMIT = 256  # characters of a property's value
COMMENT_LIMIT = 120
NAME_LIMIT = 512  # octets of an id that is read: a domain has 253 characters
MOST_COSTLY = 20  # ids outside ASCII in one header: each costs a microsecond an octet
_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")  # RFC 2045: no tspecials
_ADDRESS = re.compile(r"[!#$%&'*+\-/=?.0-9A-Z^_`a-z{|}~]*@[0-9A-Za-z_](?:[0-9A-Za-z_.-]*[0-9A-Za-z_])?")
_KEYWORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_PROPERTY = re.compile(r"[A-Za-z0-9-]+\.[A-Za-z0-9_-]+")
_UNSAID = re.compile(r"[^\x20-\x7e]")
_ID = re.compile(rb"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~\x80-\xff]+")
_QUOTED = re.compile(rb'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\x20-\x7e\x80-\xff]|\r?\n[ \t])*+)"')
_DIGITS = re.compile(rb"[0-9]+")
_SKIPPED = re.compile(rb"(?:[ \t\r\n]++|" + comment.FEW_LEVELS + rb")*+", re.DOTALL)


def field(authserv_id: str, results: Iterable[AuthResult]) -> HeaderEdit:
    """The edit that adds our field."""
    return HeaderEdit("add", NAME, value(authserv_id, results))


def value(authserv_id: str, results: Iterable[AuthResult]) -> str:
    """The field's value, unfolded: blanks stand where it may be folded."""
    found = [text for text in map(_result, results) if text]
    return "; ".join([_pvalue(authserv_id), *(found or ["none"])])


def _result(result: AuthResult) -> str:
    if not (_KEYWORD.fullmatch(result.method) and _KEYWORD.fullmatch(result.result)):
        return ""
    words = [f"{result.method}={result.result}"]
    if result.comment:
        words.append(f"({_comment(result.comment)})")
    if result.reason:
        words.append(f"reason={_quoted(result.reason)}")
    words += [
        f"{name}={_pvalue(text)}" for name, text in result.properties if _PROPERTY.fullmatch(name) and text
    ]
    return " ".join(words)


def _ascii(text: str) -> str:
    """Domains outside ASCII as A-labels, every other character that may not stand there as ``?``."""
    if text.isascii():
        return _UNSAID.sub("?", text)
    local, at, domain = text.rpartition("@")
    try:
        domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        pass  # no domain: shown with question marks
    return _UNSAID.sub("?", local + at + domain)


def _pvalue(text: str) -> str:
    text = _ascii(text)[:VALUE_LIMIT]
    return text if _TOKEN.fullmatch(text) or _ADDRESS.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    text = _ascii(text)[:VALUE_LIMIT]
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(text: str) -> str:
    return re.sub(r"[()\\]", "_", _ascii(text))[:COMMENT_LIMIT].strip()


# -- other people's fields ----------------------------------------------------------------------------------------


def claimed_id(raw: bytes) -> str | None:
    """The authserv-id a field's value begins with, lower case, without a final dot; None when it cannot be read."""
    name = _claimed(raw)
    return None if name is None else _normal(name)


def _claimed(raw: bytes) -> str | None:
    """The id as it is written; None when it cannot be read."""
    at = _skip(raw, 0)
    quoted = _QUOTED.match(raw, at)
    if quoted:
        name, at = re.sub(rb"\\(.)|\r?\n", rb"\1", quoted[1]), quoted.end()
    else:
        token = _ID.match(raw, at)
        if token is None:
            return None
        name, at = token[0], token.end()
    after = _skip(raw, at)
    digits = _DIGITS.match(raw, after)
    if digits and after > at:  # the version
        after = _skip(raw, digits.end())
    if after > len(raw) or raw[after : after + 1] not in (b";", b""):
        return None
    return name.decode("utf-8", "replace") if len(name) <= NAME_LIMIT else None


def _normal(name: str) -> str:
    name = name.strip().removesuffix(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            pass  # not a domain: compared as it is
    return name.casefold()


def _skip(raw: bytes, at: int) -> int:
    """Past blanks and comments (RFC 5322 3.2.2); past the end at a comment that is not closed or more than four deep."""
    found = _SKIPPED.match(raw, at)
    at = found.end() if found else at
    return at if raw[at : at + 1] != b"(" else len(raw) + 1


def forged(block: HeaderBlock, own_ids: Collection[str]) -> list[Splice]:
    """The cuts that take out every field with one of our ids, and every one whose id cannot be read, or is one too many of those
    outside ASCII."""
    own = {_normal(name) for name in own_ids}
    out = []
    costly = MOST_COSTLY
    for one in block.fields_named(NAME.lower().encode()):
        claimed = _claimed(block.value(one))
        plain = claimed is not None and claimed.isascii()
        costly -= not plain
        if claimed is None or (costly < 0 and not plain) or _normal(claimed) in own:
            out.append(Splice(one.start, one.end))
    return out
