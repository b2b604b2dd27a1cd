"""SMTP replies as values. Specification: RFC 5321 section 4.2, RFC 3463 enhanced codes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: three-digit ``code``, enhanced code like ``5.7.1`` (empty for none), text fit for strangers.

    ``text`` is ASCII or UTF-8 without CR, LF or NUL but for LF between the lines of a multi-line reply.
    """

    code: int
    enhanced_code: str
    text: str

    def render(self, enhanced: bool = True) -> bytes:
        """The reply on the wire, CRLF included (RFC 5321 4.2.1 multi-line form)."""
        lines = self.text.split("\n")
        prefix = f"{self.enhanced_code} " if enhanced and self.enhanced_code else ""
        last = len(lines) - 1
        return b"".join(
            f"{self.code}{' ' if at == last else '-'}{prefix}{line}\r\n".encode("utf-8", "replace")
            for at, line in enumerate(lines)
        )

    @property
    def temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def positive(self) -> bool:
        return self.code < 400
