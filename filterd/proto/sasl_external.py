"""EXTERNAL: the client is whom its TLS certificate names.

Specification: RFC 4422 Appendix A. Complete: yes. The certificate was verified by TLS; its addresses are in
``Channel.names``. An authorization identity chooses among them; without one the first counts.
"""

from __future__ import annotations

from filterd.accounts.directory import Account
from filterd.accounts.names import fold
from filterd.proto.sasl import LOGIN_MAX, Challenge, Channel, Failed, Proof, Step

NAME = "EXTERNAL"


class External:
    """One exchange on a channel that has names."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        if len(data) > LOGIN_MAX or b"\0" in data:
            return Failed("malformed authorization identity")
        try:
            wanted = data.decode("utf-8")
        except UnicodeDecodeError:
            return Failed("the authorization identity must be UTF-8")
        names = [fold(name) for name in self._channel.names]
        if not wanted:
            return Proof(names[0], True) if names else Failed("no certificate")
        return Proof(wanted, fold(wanted) in names)

    def judged(self, account: Account | None) -> bytes | None:
        return None
