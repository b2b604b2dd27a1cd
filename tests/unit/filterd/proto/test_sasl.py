from __future__ import annotations

import pytest

from filterd.proto import sasl
from filterd.proto.sasl import Challenge, Credentials, Failed, WireFault


def test_plain() -> None:
    assert sasl.Plain().start(b"\0ann\0secret") == Credentials("ann", "secret")
    assert sasl.Plain().start(b"ann\0ann\0secret") == Credentials("ann", "secret")
    assert sasl.Plain().start(None) == Challenge(b"")
    assert sasl.Plain().respond("\0jöe\0pässword".encode()) == Credentials("jöe", "pässword")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"ann",
        b"\0ann",
        b"\0\0secret",
        b"\0ann\0",
        b"bob\0ann\0secret",
        b"\0ann\0se\0cret",
        b"\0\xff\0secret",
        b"\0" + b"a" * 513 + b"\0x",
        b"\0a\0" + b"x" * 1025,
    ],
)
def test_plain_refuses(message: bytes) -> None:
    assert isinstance(sasl.Plain().start(message), Failed)


def test_login() -> None:
    exchange = sasl.Login()
    assert exchange.start(None) == Challenge(b"Username:")
    assert exchange.respond(b"ann") == Challenge(b"Password:")
    assert exchange.respond(b"secret") == Credentials("ann", "secret")
    assert sasl.Login().start(b"ann") == Challenge(b"Password:")


def test_base64_is_strict() -> None:
    assert sasl.decode_line(b"*") is WireFault.CANCELLED
    assert sasl.decode_initial(b"=") == b""
    assert sasl.decode_line(b"") == b""
    for bad in (b"a", b"YWJj\n", b"YW Jj", b"YWJj=", b"=YWJj", b"YWI=x", b"****"):
        assert sasl.decode_line(bad) is WireFault.BAD_BASE64, bad


def test_dialog_forgets_after_its_end() -> None:
    dialog = sasl.Dialog()
    assert dialog.begin("plain", None) == Challenge(b"")
    assert dialog.line(b"AGFubgBzZWNyZXQ=") == Credentials("ann", "secret")
    assert dialog.line(b"AGFubgBzZWNyZXQ=") is WireFault.CANCELLED
    assert dialog.begin("CRAM-MD5", None) is WireFault.UNKNOWN_MECHANISM
    assert dialog.begin("PLAIN", b"!") is WireFault.BAD_BASE64
