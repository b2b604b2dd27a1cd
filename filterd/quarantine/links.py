"""Signed links: whoever has one may release one copy of one account, until the copy is too old.

``TOKEN`` is URL-safe base64 of ``id|expiry`` (seconds since the epoch), a full stop, and the first MAC_OCTETS octets of
HMAC-SHA256 over purpose, id, account and expiry under a secret of this server. Nothing in it tells whose it is; a token that was
changed, is for another account's copy or is too old is worth nothing, and the answer does not say which.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from filterd.quarantine.base import Held

SECRET = "quarantine"
PURPOSE = "filterd quarantine release"
PATH = "/q/"
MAC_OCTETS = 18
LONGEST = 200  # characters


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


@dataclass(frozen=True, slots=True)
class Links:
    """``base_url`` as configured, without a slash at its end; "" = there are no pages."""

    secret: bytes
    base_url: str = ""

    def _mac(self, name: str, account: str, expiry: int) -> bytes:
        text = "\0".join((PURPOSE, name, account, str(expiry))).encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, "sha256").digest()[:MAC_OCTETS]

    def token(self, row: Held) -> str:
        expiry = int(row.expires)
        mac = self._mac(row.id, row.account, expiry)
        return f"{_encoded(f'{row.id}|{expiry}'.encode())}.{_encoded(mac)}"

    def url(self, row: Held) -> str:
        return f"{self.base_url}{PATH}{self.token(row)}" if self.base_url else ""

    def opens(self, token: str, now: float, find: Callable[[str], Sequence[Held]]) -> Held | None:
        """The copy it is for; None when it is worth nothing. ``find``: the rows with an id."""
        if len(token) > LONGEST or not token.isascii():
            return None
        said, dot, mac = token.partition(".")
        try:
            name, bar, expiry = _decoded(said).decode("ascii").partition("|")
            given = _decoded(mac)
        except ValueError:  # binascii.Error and UnicodeDecodeError are such
            return None
        if not (dot and bar and expiry.isascii() and expiry.isdigit()) or int(expiry) < now:
            return None
        for row in find(name):
            if row.id == name and hmac.compare_digest(given, self._mac(name, row.account, int(expiry))):
                return row
        return None
