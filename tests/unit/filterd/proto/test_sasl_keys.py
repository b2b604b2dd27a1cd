"""SCRAM's keys: RFC 7677's example, the stored form, made-up keys."""

import pytest

from filterd.proto import sasl_keys


def test_rfc_7677_example() -> None:
    keys = sasl_keys.derive("pencil", sasl_keys._decoded("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = (
        f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    ).encode()
    proof = sasl_keys._decoded("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert keys.proves(proof, message) and not keys.proves(proof, message + b"x")
    assert not keys.proves(proof[:-1], message) and not keys.proves(b"", message)
    signature = sasl_keys._decoded("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert keys.server_signature(message) == signature


def test_stored_form_round_trip() -> None:
    keys = sasl_keys.derive("x", b"s" * 16, 4096)
    assert sasl_keys.parse(keys.text()) == keys
    assert keys.text().startswith("SCRAM-SHA-256$4096:c3Nz")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "SCRAM-SHA-256$4096:c3Nz$AAAA:AAAA",
        "SCRAM-SHA-1$4096:c3Nz$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$0:c3Nz$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$99999999999:c3Nz$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$4096:$" + "A" * 43 + "=:" + "A" * 43 + "=",
    ],
)
def test_what_is_no_key_is_none(text: str) -> None:
    assert sasl_keys.parse(text) is None


def test_made_up_keys_are_steady_and_fit_nothing() -> None:
    one, again = sasl_keys.made_up(b"secret", "ann"), sasl_keys.made_up(b"secret", "ann")
    assert one == again and not one.known and one.salt != sasl_keys.made_up(b"secret", "bob").salt
    real = sasl_keys.derive("x", b"s" * sasl_keys.SALT_OCTETS)
    assert (len(one.salt), one.iterations) == (len(real.salt), real.iterations), "they look alike"
