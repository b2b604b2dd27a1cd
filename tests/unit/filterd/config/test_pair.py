"""What is wrong with a certificate and its key, in words."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from filterd.__main__ import main
from filterd.config.pair import fault
from filterd.net.tls import ensure_self_signed


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    ensure_self_signed(str(cert), str(key), ["mail.example.org"], 1_700_000_000)
    return cert, key


def told(cert: Path, key: Path) -> str:
    found = fault(str(cert), str(key))
    return "" if found is None else " ".join(found)


def test_each_fault_has_its_words(pair: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = pair
    assert told(cert, key) == ""
    other = tmp_path / "other.pem"
    ensure_self_signed(str(tmp_path / "c2.pem"), str(other), ["mail.example.org"], 1_700_000_000)
    assert told(cert, other).startswith("key is not the key of tls.cert")
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"\x30\x82junk")
    assert told(junk, key).startswith("cert has no “-----BEGIN CERTIFICATE-----”")
    assert told(cert, junk).startswith("key has no “-----BEGIN PRIVATE KEY-----”")
    cut = tmp_path / "cut.pem"
    cut.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "cert cannot be used" in told(cut, key)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    assert "key has a pass phrase" in told(cert, locked)
    with pytest.raises(OSError):
        fault(str(tmp_path / "none"), str(key))
    assert ssl.OPENSSL_VERSION


def test_config_check_places_it(pair: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    file = tmp_path / "filterd.toml"
    text = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n[tls]\nmode = "files"\ncert = "cert.pem"\n'
    file.write_text(text + 'key = "key.pem"\n')
    assert main(["config", "check", "-c", str(file)]) == 0
    pair[1].write_text("junk")
    assert main(["config", "check", "-c", str(file)]) == 1
    assert f"{file}:8:1  bad value  tls.key" in capsys.readouterr().out
