"""The mechanisms of a door, put together: which are offered on a connection, and their exchanges.

Specification: RFC 4422 3.2, RFC 5802 6. Invariants: what is announced works for everybody who has a password; a mechanism
that would show a password, or what a stranger could guess one from, is not offered without TLS unless the operator says so.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from dataclasses import dataclass

from filterd.proto.sasl import MECHANISMS, Channel, Exchange, Login, Plain, WireFault
from filterd.proto.sasl_external import NAME as EXTERNAL
from filterd.proto.sasl_external import External
from filterd.proto.sasl_keys import NAME as SCRAM
from filterd.proto.sasl_oauth import BEARER, XOAUTH2, OAuth
from filterd.proto.sasl_scram import NONCE_OCTETS, PLUS, KeySource, Nonce, Scram


def chance() -> bytes:
    """The server's part of a nonce."""
    return b64encode(secrets.token_bytes(NONCE_OCTETS))


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """Implements ``sasl.Offer``. ``keys``: SCRAM's, None = not offered; ``scram_always``: also when there are accounts without;
    ``scram_in_clear``: also without TLS; ``announce_plus``: -PLUS too, which who asks for it gets in any case. ``oauth``: the
    tokens' issuer as clients are told it, None = no tokens are taken. EXTERNAL is for whom TLS knows by a certificate."""

    keys: KeySource | None = None
    scram_always: bool = False
    scram_in_clear: bool = False
    announce_plus: bool = False
    oauth: str | None = None
    nonce: Nonce = chance

    def names(self, channel: Channel, safe: bool) -> tuple[str, ...]:
        names = list(MECHANISMS) if safe else []
        keys = self.keys if safe or self.scram_in_clear else None
        if keys is not None and (self.scram_always or keys.scram_offered()):
            names.append(SCRAM)
            if self.announce_plus and channel.bindings:
                names.append(PLUS)
        if safe and self.oauth is not None:
            names += [BEARER, XOAUTH2]
        if channel.names:
            names.append(EXTERNAL)
        return tuple(names)

    def begin(self, mechanism: str, channel: Channel, safe: bool) -> Exchange | WireFault:
        name = mechanism.upper()
        offered = self.names(channel, safe)
        if name == PLUS and SCRAM in offered and channel.bindings and self.keys is not None:
            return Scram(self.keys, channel, self.nonce, bound=True, plus_offered=PLUS in offered)
        if name not in offered:
            return WireFault.NEEDS_TLS if name in self.names(channel, True) else WireFault.UNKNOWN_MECHANISM
        if name == SCRAM and self.keys is not None:
            return Scram(self.keys, channel, self.nonce, bound=False, plus_offered=PLUS in offered)
        if name in (BEARER, XOAUTH2):
            return OAuth(name, self.oauth or "")
        if name == EXTERNAL:
            return External(channel)
        return Plain() if name == "PLAIN" else Login()
