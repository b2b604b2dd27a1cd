"""A page: what is sent, and the fields that keep a browser from doing more than showing it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",  # the address holds a secret
        "Cache-Control": "no-store",
        "X-Robots-Tag": "noindex",
    }
)


@dataclass(frozen=True, slots=True)
class Page:
    code: int
    body: bytes
    fields: Mapping[str, str] = field(default_factory=lambda: FIELDS)


def page(code: int, title: str, inner: str, **more: str) -> Page:
    """``inner`` is HTML; ``more``: further fields, "_" for "-"."""
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title></head>\n<body><main><h1>{html.escape(title)}</h1>\n{inner}\n</main></body></html>\n"
    )
    extra = {name.replace("_", "-"): value for name, value in more.items()}
    return Page(code, text.encode("utf-8", "replace"), {**FIELDS, **extra})
