"""OAuth access tokens: whose is it, if it is any good?

Specification: RFC 7519 (JWT), RFC 7515 (JWS compact form), RFC 7517 and 7518 (keys; RS256 and ES256 only), RFC 8725 (what to
guard against), RFC 7662 (introspection). Complete: signatures and introspection; no encrypted tokens.

Invariants: the algorithm is the key's, never the token's choice, so neither ``none`` nor an HMAC keyed with a public key ever
counts; issuer, audience and end of life are always looked at; a token that names nobody is nobody's. What cannot be found
out now (keys or server out of reach) raises AccountsUnavailable, which is no "no".
Blocks (files, HTTP): called in the pool.
"""

from __future__ import annotations

import binascii
import json
import threading
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

from filterd.accounts.errors import AccountsUnavailable
from filterd.accounts.webfetch import FetchFailed, fetch
from filterd.config.auth import OAuth
from pipeline.adapters.crypto import KeyProblem, WebKey, web_p256, web_rsa
from pipeline.ports import Clock

LEEWAY = 30.0  # seconds that two clocks may differ
KEYS_MAX = 64
KEYS_FOR = 3600.0  # seconds until keys are fetched again
KEYS_PAUSE = 60.0  # seconds between two fetches for a key that is not known

Claims = Mapping[str, object]


class Keys(Protocol):
    def find(self, key_id: str | None) -> Sequence[WebKey]:
        """The keys of this id, all when there is none. Raises AccountsUnavailable."""
        ...


class Judge(Protocol):
    def whose(self, token: str) -> str | None:
        """The log-in name; None when the token is no good. Raises AccountsUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """``claim`` names the account; ``audience`` "" = any (only where the server that issued it is asked)."""

    issuer: str
    audience: str
    claim: str = "email"


class Signed:
    """Judges tokens by their signature."""

    def __init__(self, rules: Rules, keys: Keys, clock: Clock) -> None:
        self._rules, self._keys, self._clock = rules, keys, clock

    def whose(self, token: str) -> str | None:
        parts = token.split(".")
        if len(parts) != 3:
            return None
        header, claims = _object(_decoded(parts[0])), _object(_decoded(parts[1]))
        signature = _decoded(parts[2])
        # RFC 7515 4.1.11: an extension that must be understood is not.
        if header is None or claims is None or not signature or "crit" in header:
            return None
        key_id, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(key_id, str | None):
            return None
        data = f"{parts[0]}.{parts[1]}".encode()
        for key in self._keys.find(key_id):
            if key.algorithm == algorithm and key.verify(signature, data):
                return named(claims, self._rules, self._clock.time())
        return None


def named(claims: Claims, rules: Rules, now: float, *, loose: bool = False) -> str | None:
    """Whom claims that were verified name; ``loose``: issuer, audience and end may be absent, never others."""
    issuer, audience = claims.get("iss"), claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if rules.issuer and issuer != rules.issuer and not (loose and issuer is None):
        return None
    if rules.audience and rules.audience not in audiences and not (loose and audience is None):
        return None
    end, start = claims.get("exp"), claims.get("nbf", 0)
    if end is None and loose:
        end = now + 1
    if not _is_number(end) or not _is_number(start):
        return None
    assert isinstance(end, int | float) and isinstance(start, int | float)
    if end + LEEWAY <= now or start - LEEWAY > now:
        return None
    name = claims.get(rules.claim)
    if rules.claim == "email" and claims.get("email_verified", True) is not True:
        return None
    return name if isinstance(name, str) and name else None


class Introspected:
    """Asks the server that issued the token."""

    def __init__(self, rules: Rules, url: str, client: str, secret: str, clock: Clock) -> None:
        self._rules, self._url, self._clock = rules, url, clock
        self._login = b64encode(f"{client}:{secret}".encode()).decode()

    def whose(self, token: str) -> str | None:
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": f"Basic {self._login}",
        }
        try:
            claims = _object(fetch(self._url, form, headers))
        except FetchFailed as error:
            raise AccountsUnavailable(f"the token cannot be asked about: {error}") from error
        if claims is None:
            raise AccountsUnavailable("the answer about a token is no JSON object")
        if claims.get("active") is not True:
            return None
        return named(claims, self._rules, self._clock.time(), loose=True)


class KeySet:
    """The keys at ``read()`` (a file, a URL), looked at again after KEYS_FOR, or sooner for a key that is not known. Safe to
    use from several threads: one reads; others wait for it when no key that is known would do."""

    def __init__(self, read: Callable[[], bytes], clock: Clock) -> None:
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        self._keys: tuple[tuple[str | None, WebKey], ...] = ()
        self._fetched = self._tried = float("-inf")

    def find(self, key_id: str | None) -> Sequence[WebKey]:
        if self._due(key_id) and self._lock.acquire(blocking=not self._chosen(key_id)):
            try:
                if self._due(key_id):
                    self._look(self._clock.monotonic())
            finally:
                self._lock.release()
        return self._chosen(key_id)

    def _due(self, key_id: str | None) -> bool:
        now = self._clock.monotonic()
        return now - self._fetched > KEYS_FOR or (not self._chosen(key_id) and now - self._tried > KEYS_PAUSE)

    def _chosen(self, key_id: str | None) -> list[WebKey]:
        return [key for name, key in self._keys if key_id is None or name == key_id]

    def _look(self, now: float) -> None:
        if now - self._tried <= KEYS_PAUSE and not self._keys:
            raise AccountsUnavailable("the keys of the token issuer cannot be read")
        if now - self._tried <= KEYS_PAUSE:
            return
        self._tried = now
        try:
            self._keys = parse_keys(self._read())
        except (OSError, FetchFailed, ValueError) as error:
            if not self._keys:
                raise AccountsUnavailable(f"the keys of the token issuer cannot be read: {error}") from error
            return  # the last good ones
        self._fetched = now


def parse_keys(data: bytes) -> tuple[tuple[str | None, WebKey], ...]:
    """(id, key) of a JWK set; keys of other kinds and uses are left out. Raises ValueError."""
    found = _object(data)
    keys = found.get("keys") if found is not None else None
    if not isinstance(keys, list):
        raise ValueError("not a set of JSON Web Keys")
    out: list[tuple[str | None, WebKey]] = []
    for one in keys[:KEYS_MAX]:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig":
            continue
        try:
            key = _web_key(one)
        except (KeyProblem, ValueError):
            continue
        name = one.get("kid")
        if key is not None and one.get("alg", key.algorithm) == key.algorithm:
            out.append((name if isinstance(name, str) else None, key))
    return tuple(out)


def _web_key(one: Mapping[str, object]) -> WebKey | None:
    if one.get("kty") == "RSA":
        return web_rsa(_number(one.get("n")), _number(one.get("e")))
    if one.get("kty") == "EC" and one.get("crv") == "P-256":
        return web_p256(_number(one.get("x")), _number(one.get("y")))
    return None


def _number(value: object) -> int:
    octets = _decoded(value) if isinstance(value, str) else b""
    if not octets:
        raise ValueError("a number is missing")
    return int.from_bytes(octets)


def _decoded(text: str) -> bytes:
    """base64url without padding; b"" for anything else."""
    if not text.isascii() or "=" in text or not text.replace("-", "a").replace("_", "a").isalnum():
        return b""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return b""


def _object(data: bytes) -> dict[str, object] | None:
    """A JSON object whose names are all different."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a name twice")
        return made

    try:
        found = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def judge_of(oauth: OAuth, clock: Clock) -> Judge | None:
    """As configured; None when no tokens are taken."""
    rules = Rules(oauth.issuer, oauth.audience, oauth.claim)
    if oauth.introspection:
        secret = next(iter(oauth.client_secret), "")
        return Introspected(rules, oauth.introspection, oauth.client_id, secret, clock)
    if not oauth.keys:
        return None
    where = oauth.keys
    read = partial(fetch, where) if "://" in where else Path(where).read_bytes
    return Signed(rules, KeySet(read, clock), clock)
