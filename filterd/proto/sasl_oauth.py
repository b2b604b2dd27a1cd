"""OAUTHBEARER and XOAUTH2: the client shows an access token.

Specification: RFC 7628 (OAUTHBEARER; gs2 header of RFC 5801), Google's XOAUTH2. Complete: yes; host and port are read over,
since a token says itself for whom it is. Whether the token is good is the judge's to say; on refusal the client hears an
error object, answers with anything, and then the exchange fails (RFC 7628 3.2.3).
"""

from __future__ import annotations

import json
import re

from filterd.accounts.directory import Account
from filterd.proto.sasl import LOGIN_MAX, Challenge, Failed, Step, Token

BEARER, XOAUTH2 = "OAUTHBEARER", "XOAUTH2"
TOKEN_MAX = 8192  # octets

_TOKEN = rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(?P<token>[A-Za-z0-9\-._~+/]{1,%d}=*)" % TOKEN_MAX
_BEARER = re.compile(
    rb"[ny],(?:a=(?P<user>(?:[^,\0=\x01]|=2C|=3D)*))?,\x01"
    rb"(?:(?!auth=)[A-Za-z]+=[^\x01]*\x01)*auth=%b\x01(?:(?!auth=)[A-Za-z]+=[^\x01]*\x01)*\x01" % _TOKEN
)
_XOAUTH2 = re.compile(rb"user=(?P<user>[^\x01\0]+)\x01auth=%b\x01\x01" % _TOKEN)


class OAuth:
    """One exchange of either mechanism. ``issuer``: where clients may read how to get a token, "" = not told."""

    __slots__ = ("_issuer", "_name", "_refused")

    def __init__(self, name: str, issuer: str) -> None:
        self._name = name
        self._issuer = issuer
        self._refused = False

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        if self._refused:
            return Failed("invalid token")
        found = (_BEARER if self._name == BEARER else _XOAUTH2).fullmatch(data)
        if found is None:
            return Failed(f"malformed {self._name} message")
        user = found["user"] or b""
        if self._name == BEARER:
            user = user.replace(b"=2C", b",").replace(b"=3D", b"=")
        try:
            login = user.decode("utf-8")
        except UnicodeDecodeError:
            return Failed("the user name must be UTF-8")
        if len(user) > LOGIN_MAX:
            return Failed("user name too long")
        return Token(login, found["token"].decode("ascii"))

    def judged(self, account: Account | None) -> bytes | None:
        if account is not None:
            return None
        self._refused = True
        if self._name == XOAUTH2:
            return json.dumps({"status": "401", "schemes": "bearer", "scope": "mail"}).encode()
        error = {"status": "invalid_token"}
        if self._issuer.startswith("https://"):
            error["openid-configuration"] = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        return json.dumps(error).encode()
