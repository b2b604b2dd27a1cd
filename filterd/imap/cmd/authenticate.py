"""AUTHENTICATE with or without initial response. Specification: RFC 9051 6.2.2, RFC 4959. Complete: yes; the mechanisms
are those of ``ImapServerConfig.mechanisms``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import Bad, No
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
        dialog = sasl.Dialog(session.config.mechanisms)
        safe = session.tls or session.config.allow_plaintext
        go_on(session, call.tag, dialog, dialog.begin(mechanism, initial, session.channel, safe))

    return run


def go_on(session: Session, tag: bytes, dialog: sasl.Dialog, step: sasl.Step | sasl.WireFault) -> None:
    match step:
        case sasl.Challenge(data):
            session.ask(sasl.encode(data), lambda line: go_on(session, tag, dialog, dialog.line(line)))
        case sasl.Credentials(login, password):
            session.authenticate(tag, login, password)
        case sasl.Proof() | sasl.Token() | sasl.Granted():
            session.authenticate(tag, "", "", step, dialog)
        case sasl.Failed():
            session.fail(tag, No("Invalid credentials", "AUTHENTICATIONFAILED"))
        case sasl.WireFault.UNKNOWN_MECHANISM:
            session.fail(tag, No("Unknown mechanism", "CANNOT" if session.rev2 else ""))
        case sasl.WireFault.NEEDS_TLS:
            session.fail(tag, No("Use TLS first", "PRIVACYREQUIRED"))
        case sasl.WireFault.CANCELLED:
            session.fail(tag, Bad("Cancelled"))
        case sasl.WireFault.BAD_BASE64:
            session.fail(tag, Bad("Invalid base64"))


AUTHENTICATE = Spec(b"AUTHENTICATE", BEFORE, parse, store=False)
