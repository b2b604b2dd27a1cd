"""Channel bindings: both ends of a TLS connection have the same, by OpenSSL; the certificate's hash rule."""

from __future__ import annotations

import _ssl
import ctypes
import hashlib
import ssl
import sys
import time
from pathlib import Path

import pytest

from filterd.net.channel import ServerContext, channel_of, end_point_hash, exported
from filterd.net.tls import make_context, self_signed
from filterd.proto.sasl import NO_CHANNEL


def handshake(folder: Path, top: ssl.TLSVersion) -> tuple[ssl.SSLObject, ssl.SSLObject, bytes]:
    """(server, client, the certificate in DER), connected."""
    key, certificate = self_signed(["localhost"], time.time())
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(certificate)
    ours = make_context(str(folder / "cert.pem"), str(folder / "key.pem"))
    ours.maximum_version = top
    theirs = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    server = ours.wrap_bio(a, b, server_side=True)
    client = theirs.wrap_bio(c, d, server_hostname="localhost")
    for _ in range(6):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            a.write(d.read())
            c.write(b.read())
    return server, client, ssl.PEM_cert_to_DER_cert(certificate.decode())


def no_exporter() -> str:
    """Why tls-exporter cannot be had here, found without asking our own code; "": it can."""
    if sys.implementation.name != "cpython":
        return f"not CPython but {sys.implementation.name}: where a connection keeps its OpenSSL object is not known"
    if not getattr(_ssl, "__file__", ""):
        return "_ssl is built into this Python"
    lent = hasattr(ctypes.CDLL(_ssl.__file__), "SSL_export_keying_material")
    return "" if lent else "OpenSSL is linked into this Python's _ssl without SSL_export_keying_material"


@pytest.mark.parametrize(
    ("top", "default"), [(ssl.TLSVersion.TLSv1_2, "tls-unique"), (ssl.TLSVersion.TLSv1_3, "tls-exporter")]
)
def test_both_ends_have_the_same(tmp_path: Path, top: ssl.TLSVersion, default: str) -> None:
    server, client, certificate = handshake(tmp_path, top)
    if default == "tls-exporter" and no_exporter():
        pytest.skip(no_exporter())
    found = channel_of(server).bindings
    assert list(found) == [default, "tls-server-end-point"], "the default one first"
    theirs = exported(client) if default == "tls-exporter" else client.get_channel_binding("tls-unique")
    assert found[default] == theirs and theirs
    assert found["tls-server-end-point"] == hashlib.sha256(certificate).digest()
    assert channel_of(server).names == ()


def test_two_connections_have_two_bindings(tmp_path: Path) -> None:
    one, other = (
        handshake(tmp_path, ssl.TLSVersion.TLSv1_3)[0],
        handshake(tmp_path, ssl.TLSVersion.TLSv1_3)[0],
    )
    if no_exporter():
        pytest.skip(no_exporter())
    assert exported(one) != exported(other) and exported(one) == exported(one)


@pytest.mark.parametrize("weak", ["md5", "sha1", "sha256"])
def test_weak_hashes_become_sha256(weak: str) -> None:
    assert end_point_hash(b"certificate", weak) == hashlib.sha256(b"certificate").digest()


def test_the_signatures_own_hash() -> None:
    assert end_point_hash(b"certificate", "sha384") == hashlib.sha384(b"certificate").digest()
    assert end_point_hash(b"certificate", None) == b"" == end_point_hash(b"certificate", "shake_9")


def test_in_clear_there_is_nothing() -> None:
    assert channel_of(None) is NO_CHANNEL and channel_of(object()) is NO_CHANNEL
    assert isinstance(ServerContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext)
