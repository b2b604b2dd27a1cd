"""AUTHENTICATE with or without initial response. Specification: RFC 9051 6.2.2, RFC 4959. Complete: PLAIN, LOGIN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.cmd.login import require_privacy
from filterd.imap.errors import Bad, ImapError, No
from filterd.imap.parse import Parser
from filterd.imap.state import BEFORE
from filterd.proto import sasl

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mechanism = p.word().decode("ascii")
    initial = p.token() if p.more() else None
    p.end()

    def run(call: Call) -> None:
        exchange = sasl.begin(mechanism)
        if exchange is None:
            raise No("Unknown mechanism", "CANNOT" if session.rev2 else "")
        require_privacy(session)
        data = None
        if initial is not None:
            decoded = sasl.decode_initial(initial)
            if isinstance(decoded, sasl.WireFault):
                raise Bad("Invalid base64")
            data = decoded
        _go_on(session, call.tag, exchange, exchange.start(data))

    return run


def _go_on(session: Session, tag: bytes, exchange: sasl.Exchange, step: sasl.Step) -> None:
    match step:
        case sasl.Challenge(data):
            session.ask(sasl.encode(data), lambda line: _answered(session, tag, exchange, line))
        case sasl.Credentials(login, password):
            session.authenticate(tag, login, password)
        case sasl.Failed():
            session.fail(tag, No("Invalid credentials", "AUTHENTICATIONFAILED"))


def _answered(session: Session, tag: bytes, exchange: sasl.Exchange, line: bytes) -> None:
    decoded = sasl.decode_line(line)
    if isinstance(decoded, sasl.WireFault):
        error: ImapError = Bad("Cancelled" if decoded is sasl.WireFault.CANCELLED else "Invalid base64")
        session.fail(tag, error)
        return
    _go_on(session, tag, exchange, exchange.respond(decoded))


AUTHENTICATE = Spec(b"AUTHENTICATE", BEFORE, parse, store=False)
