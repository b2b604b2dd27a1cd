"""Signing."""

from __future__ import annotations

import pytest

from pipeline.adapters.crypto import KeyProblem, generate, load_private
from pipeline.adapters.dkimpy import SigningError, sign
from pipeline.dkim.sign import names_to_sign
from rules.mail.header import scan

MESSAGE = b"From: a@example.org\r\nTo: b@example.net\r\nTo: c@example.net\r\nX-Mailer: no\r\n\r\nhi\r\n"


def test_the_field_is_one_whole_field() -> None:
    field = sign(MESSAGE, "example.org", "2026a", generate("ed25519"))
    assert field.startswith(b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.org;")
    assert field.endswith(b"\r\n")
    assert len(scan(field + MESSAGE).fields) == 5
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))


def test_names() -> None:
    names = names_to_sign(scan(MESSAGE))
    assert names == [b"from", b"to", b"to", b"from", b"to", b"subject", b"date"]
    many = names_to_sign(scan(b"To: x\r\n" * 5000 + MESSAGE))
    assert many == [b"from", b"to", b"from", b"to", b"subject", b"date"]


@pytest.mark.parametrize("message", [b"", b"To: x\r\n\r\n", b"\r\nbody\r\n"])
def test_no_from_no_signature(message: bytes) -> None:
    with pytest.raises(SigningError):
        sign(message, "example.org", "s", generate("ed25519"))


def test_odd_header_lines_are_no_obstacle() -> None:
    assert sign(b"garbage line\r\n" + MESSAGE, "example.org", "s", generate("ed25519"))


def test_keys_are_written_and_read() -> None:
    for kind in ("rsa", "ed25519"):
        key = generate(kind)
        again = load_private(key.pem())
        assert (again.record(), again.algorithm) == (key.record(), f"{kind}-sha256")
    assert "k=rsa; p=" in load_private(generate("rsa", 1024).pem()).record()
    for bad in (b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(KeyProblem):
            load_private(bad)
    with pytest.raises(KeyProblem):
        generate("rsa", 512)
