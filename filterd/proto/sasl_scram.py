"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: the server's side of the exchange.

Specification: RFC 5802, RFC 7677, RFC 5929 and 9266 (channel bindings, as ``Channel`` gives them). Complete: yes; the
server's errors are told by the protocol around it, not by ``e=``.

    C  n,,n=ann,r=CLIENT            gs2 header, user name, nonce
    S  r=CLIENTSERVER,s=SALT,i=N    for a name without keys a made-up salt, the same each time
    C  c=GS2,r=CLIENTSERVER,p=PROOF
    S  v=SIGNATURE                  when the proof was judged good
    C  (nothing)

Invariants: whether the proof is right is told by nobody but the judge of ``Proof``, so a wrong one costs what a wrong
password costs; a client that could bind the channel and was told that we cannot (flag ``y`` while we offer PLUS) is
refused: somebody removed the offer on the way (RFC 5802 6).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from typing import Protocol

from filterd.accounts.directory import Account
from filterd.proto.sasl import (
    LOGIN_MAX,
    Challenge,
    Channel,
    Failed,
    Granted,
    Proof,
    Step,
    WireFault,
    decode_base64,
)
from filterd.proto.sasl_keys import NAME, ScramKeys
from filterd.proto.sasl_prep import Unprepared, saslprep

PLUS = f"{NAME}-PLUS"
NONCE_OCTETS = 18
MESSAGE_MAX = 4096  # octets of one client message

_NONCE = rb"[\x21-\x2b\x2d-\x7e]{1,256}"  # RFC 5802 5.1: printable, no comma
# An authzid of no octets is against the grammar; gsasl sends it for one that was not given.
_VALUE = rb"[^,\0=]|=2C|=3D"
_FIRST = re.compile(
    rb"(?P<gs2>(?P<flag>n|y|p=(?P<type>[A-Za-z0-9.\-]{1,64})),(?:a=(?P<authzid>(?:%b)*))?,)"
    rb"(?P<bare>n=(?P<name>(?:%b)+),r=(?P<nonce>%b)(?:,[A-Za-z]=[^,\0]+)*)" % (_VALUE, _VALUE, _NONCE)
)
_FINAL = re.compile(
    rb"(?P<without>c=(?P<binding>[A-Za-z0-9+/=]{1,4096}),r=(?P<nonce>%b)(?:,[A-Za-z]=[^,\0]+)*)"
    rb",p=(?P<proof>[A-Za-z0-9+/=]{1,128})" % _NONCE
)


class KeySource(Protocol):
    """Where the keys are."""

    def scram(self, login: str) -> ScramKeys:
        """Made-up ones (``known`` False) for whom has none. From memory."""
        ...

    def scram_offered(self) -> bool:
        """Can everybody who has a password log in so?"""
        ...


Nonce = Callable[[], bytes]


class Scram:
    """One exchange. ``bound``: as SCRAM-SHA-256-PLUS; ``plus_offered``: that was announced on this connection."""

    __slots__ = (
        "_account",
        "_bound",
        "_channel",
        "_first",
        "_gs2",
        "_keys",
        "_last",
        "_login",
        "_nonce",
        "_plus_offered",
        "_server",
        "_server_nonce",
        "_source",
    )  # fmt: skip

    def __init__(
        self, source: KeySource, channel: Channel, nonce: Nonce, *, bound: bool, plus_offered: bool
    ) -> None:
        self._source = source
        self._channel = channel
        self._server_nonce = nonce
        self._bound = bound
        self._plus_offered = plus_offered
        self._gs2 = self._first = self._server = self._nonce = self._last = b""
        self._login = ""
        self._keys: ScramKeys | None = None
        self._account: Account | None = None

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        if len(data) > MESSAGE_MAX:
            return Failed("message too long")
        if self._account is not None:
            return Granted(self._account) if not data else Failed("unexpected octets at the end")
        if self._keys is None:
            return self._opened(data)
        return self._closed(data, self._keys)

    def judged(self, account: Account | None) -> bytes | None:
        if account is None:
            return None
        self._account = account
        return b"v=" + self._last

    def _opened(self, data: bytes) -> Step:
        found = _FIRST.fullmatch(data)
        if found is None:
            # "m=" in front is an extension that must be understood (RFC 5802 5.1): none is.
            return Failed("malformed SCRAM message")
        wrong = self._wrong_flag(found["flag"], found["type"])
        if wrong:
            return Failed(wrong)
        try:
            name = _name(found["name"])
            authzid = _name(found["authzid"]) if found["authzid"] else name
        except ValueError:
            return Failed("malformed user name")
        if authzid != name:
            return Failed("authorization identity must be the login name")
        self._login = name
        self._keys = self._source.scram(name)
        self._gs2, self._first = found["gs2"], found["bare"]
        if found["type"]:
            self._gs2 += self._channel.bindings[found["type"].decode("ascii")]
        self._nonce = found["nonce"] + self._server_nonce()
        salt = b64encode(self._keys.salt)
        self._server = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._keys.iterations)
        return Challenge(self._server)

    def _wrong_flag(self, flag: bytes, binding: bytes | None) -> str:
        if self._bound:
            if binding is None:
                return "channel binding is missing"
            return "" if binding.decode("ascii") in self._channel.bindings else "unsupported channel binding"
        if binding is not None:
            return "channel binding belongs to the PLUS mechanism"
        if flag == b"y" and self._plus_offered:
            return "the server does support channel binding"  # RFC 5802 6: a downgrade
        return ""

    def _closed(self, data: bytes, keys: ScramKeys) -> Step:
        found = _FINAL.fullmatch(data)
        binding = decode_base64(found["binding"]) if found else b""
        proof = decode_base64(found["proof"]) if found else b""
        if found is None or isinstance(binding, WireFault) or isinstance(proof, WireFault):
            return Failed("malformed SCRAM message")
        message = b",".join((self._first, self._server, found["without"]))
        good = keys.proves(proof, message) and found["nonce"] == self._nonce and binding == self._gs2
        self._last = b64encode(keys.server_signature(message))
        return Proof(self._login, good)


def _name(value: bytes) -> str:
    """RFC 5802 5.1: =2C and =3D for comma and equals sign; then SASLprep. Raises ValueError."""
    text = value.replace(b"=2C", b",").replace(b"=3D", b"=").decode("utf-8")
    try:
        name = saslprep(text)
    except Unprepared:
        name = text  # nobody has such a name; the exchange goes on like any other
    if not name or len(name.encode()) > LOGIN_MAX:
        raise ValueError("a user name of no use")
    return name
