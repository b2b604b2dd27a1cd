"""LOGIN. Specification: RFC 9051 6.2.3. Complete. Refused before TLS unless the configuration allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import No
from filterd.imap.parse import Parser
from filterd.imap.state import BEFORE
from filterd.proto import sasl

if TYPE_CHECKING:
    from filterd.imap.session import Session


def parse(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    login = p.astring()
    p.sp()
    password = p.astring()
    p.end()

    def run(call: Call) -> None:
        require_privacy(session)
        match sasl.credentials(login, password):
            case sasl.Credentials(name, secret):
                session.authenticate(call.tag, name, secret)
            case sasl.Failed():
                raise No("Invalid credentials", "AUTHENTICATIONFAILED")

    return run


def require_privacy(session: Session) -> None:
    """RFC 9051 11.1: no password in clear."""
    if not session.tls and not session.config.allow_plaintext:
        raise No("Use TLS first", "PRIVACYREQUIRED")


LOGIN = Spec(b"LOGIN", BEFORE, parse, store=False)
