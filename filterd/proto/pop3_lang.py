"""LANG of POP3. Specification: RFC 6856 3. Complete: all our texts are English, which is what i-default asks for (RFC 2277 4.5).

``answer`` is the whole command: the core only writes what it returns.
"""

from __future__ import annotations

_OURS = ((b"en", b"English"), (b"i-default", b"English, for everybody"))
ANY = b"*"  # RFC 6856 3: what the administrator prefers


def answer(wanted: bytes | None) -> tuple[bool, bytes, list[bytes]]:
    """Done or not, the text after +OK or -ERR, and the lines that follow. ``wanted``: a language range, None = which are there."""
    if wanted is None:
        return True, b"Languages", [tag + b" " + name for tag, name in _OURS]
    # RFC 4647 3.4: en-GB is served by en, as LANGUAGE of IMAP does.
    lower = wanted.lower()
    for tag, _ in _OURS:
        if lower in (ANY, tag) or lower.startswith(tag + b"-"):
            return True, tag + b" English it is", []
    return False, b"Only English is spoken here", []
