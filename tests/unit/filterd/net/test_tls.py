from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

import pytest

from filterd.net.tls import TlsFiles, ensure_self_signed, make_context, self_signed

NOW = 1_790_000_000.0


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    cert, key = str(tmp_path / "tls" / "cert.pem"), str(tmp_path / "tls" / "key.pem")
    assert ensure_self_signed(cert, key, ["mx.example.org", "192.0.2.1", "::1"], NOW)
    return cert, key


def test_self_signed_once_and_the_key_is_private(pair: tuple[str, str]) -> None:
    cert, key = pair
    before = Path(cert).read_bytes()
    assert not ensure_self_signed(cert, key, ["other.example"], NOW)
    assert Path(cert).read_bytes() == before
    assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600


def test_context_is_strict(pair: tuple[str, str]) -> None:
    context = make_context(*pair)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all(
        "CBC" not in cipher["name"] and "RSA-" not in cipher["name"][:4] for cipher in context.get_ciphers()
    )


def test_min_version_holds_over_reloads(pair: tuple[str, str]) -> None:
    files = TlsFiles(*pair, min_version="1.3")
    assert files.current().minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_changed_pair_is_used_and_a_broken_one_is_not(pair: tuple[str, str]) -> None:
    cert, key = pair
    files = TlsFiles(cert, key)
    first = files.current()
    assert files.current() is first
    new_key, new_cert = self_signed(["mx.example.org"], NOW)
    _replace(cert, new_cert)
    assert files.current() is first  # certificate of one run, key of another
    _replace(key, new_key)
    second = files.current()
    assert second is not first
    _replace(cert, b"nonsense")
    assert files.current() is second
    Path(key).unlink()
    assert files.current() is second


def _replace(path: str, data: bytes) -> None:
    Path(path + ".new").write_bytes(data)
    os.replace(path + ".new", path)


def test_a_bad_pair_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    (tmp_path / "cert.pem").write_text("x")
    (tmp_path / "key.pem").write_text("x")
    with pytest.raises(ssl.SSLError):
        TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
