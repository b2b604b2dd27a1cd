"""Key records."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.crypto import PrivateKey
from pipeline.dkim.keys import KeyRecord, parse_record, usable


def p_of(key: PrivateKey) -> str:
    return key.record().rpartition("p=")[2]


def test_what_we_publish_is_usable(rsa_key: PrivateKey, ed_key: PrivateKey) -> None:
    for key, bits in ((rsa_key, 2048), (ed_key, 256)):
        record = parse_record(key.record())
        assert isinstance(record, KeyRecord)
        assert (record.key.kind, record.key.bits) == (key.kind, bits)


@pytest.mark.parametrize(
    "form",
    [
        "p={p}",
        "v=DKIM1; p={p}",
        "v=DKIM1; k=rsa; h=sha256; s=email; t=y:s; n=a note; x=unknown; p={p};",
        "k=rsa; s=*; h=sha1:sha256; p=  {p}",
        "v=DKIM1; p={folded}",
    ],
)
def test_good_forms(rsa_key: PrivateKey, form: str) -> None:
    p = p_of(rsa_key)
    assert isinstance(parse_record(form.format(p=p, folded=p[:70] + " " + p[70:])), KeyRecord)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("k=rsa; v=DKIM1; p={p}", "first"),
        ("v=DKIM2; p={p}", "first"),
        ("v=DKIM1", "no p="),
        ("v=DKIM1; p=", "revoked"),
        ("v=DKIM1; k=dsa; p={p}", "kind"),
        ("v=DKIM1; s=tlsrpt; p={p}", "not for mail"),
        ("v=DKIM1; p={p}!", "base64"),
        ("v=DKIM1; k=ed25519; p={p}", "length"),
        ("v=DKIM1; p=AAAA", "read"),
        ("v=spf1 -all", "first"),
        ("p={p}; p={p}", "twice"),
        ("p=" + "A" * 4000, "too long"),
        ("p=" + "A" * 20000, "too long"),
    ],
)
def test_bad_forms(rsa_key: PrivateKey, form: str, why: str) -> None:
    record = parse_record(form.replace("{p}", p_of(rsa_key)))
    assert isinstance(record, str)
    assert why in record


def _published(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return "p=" + base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def test_key_sizes_exponents_and_kinds() -> None:
    odd = (1 << 2047) + 12345
    huge = rsa.RSAPublicNumbers(e=(1 << 40) + 1, n=odd).public_key()
    assert "exponent" in str(parse_record(_published(huge)))
    giant = rsa.RSAPublicNumbers(e=65537, n=(1 << 16383) + 1).public_key()
    assert "too long" in str(parse_record(_published(giant)))
    large = rsa.RSAPublicNumbers(e=65537, n=(1 << 8191) + 1).public_key()
    assert "bits" in str(parse_record(_published(large)))
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert "not an RSA key" in str(parse_record(_published(curve)))


def test_several_records(rsa_key: PrivateKey) -> None:
    keys, _ = usable(("v=spf1 -all", rsa_key.record()))
    assert len(keys) == 1
    keys, reason = usable(("v=DKIM1; p=",))
    assert (keys, reason) == ([], "the key is revoked")


@given(st.text(max_size=100))
def test_never_raises(text: str) -> None:
    assert isinstance(parse_record("v=DKIM1; " + text), (str, KeyRecord))
