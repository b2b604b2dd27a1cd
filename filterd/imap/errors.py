"""What a command can end in besides OK.

    ImapError
    ├── Bad     the client broke the grammar or the state: tagged BAD
    └── No      the command was understood and refused: tagged NO, ``code`` is the response code of RFC 5530 and others

``Fatal`` ends the connection with BYE. Texts are fit for strangers.
"""

from __future__ import annotations


class ImapError(Exception):
    """Base. ``code`` without brackets, "" for none."""

    kind = b"BAD"

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.code = code

    def render(self, tag: bytes) -> bytes:
        """The tagged line, CRLF included."""
        code = f"[{self.code}] " if self.code else ""
        return b"%b %b %b\r\n" % (tag, self.kind, f"{code}{self.text}".encode("ascii", "replace"))


class Bad(ImapError):
    kind = b"BAD"


class No(ImapError):
    kind = b"NO"


class Fatal(Exception):
    """The connection cannot go on: BYE with this text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
