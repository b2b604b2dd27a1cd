"""TLS contexts from certificate files, read again when the files change; a self-signed pair for the first start.

Specification: RFC 8314 (TLS for mail), RFC 9325 (TLS 1.2 and later only). This is the only module that makes
server-side ``ssl.SSLContext`` objects; ``cryptography`` writes the self-signed certificate.

Invariant: a pair that cannot be loaded (half written, key and certificate of different runs) never replaces one that
works: the old one is used until the new one is whole.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SELF_SIGNED_DAYS = 3650

log = logging.getLogger("filterd.tls")

_Stamp = tuple[int, int, int, int]


def make_context(cert: str, key: str, min_version: str = "1.2") -> ssl.SSLContext:
    """A server's context; ``cert`` is the chain, leaf first (PEM); ``min_version`` "1.2" or "1.3". Raises OSError,
    ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # TLS 1.2 only with forward secrecy and AEAD (RFC 9325 4.2); 1.3 has nothing else.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM")
    context.load_cert_chain(cert, key)
    return context


class TlsFiles:
    """The pair of one name. ``current`` looks at the files (two stat calls) and loads them again when they changed."""

    __slots__ = ("_context", "_stamp", "cert", "key", "min_version")

    def __init__(self, cert: str, key: str, min_version: str = "1.2") -> None:
        """Loads at once: raises OSError or ssl.SSLError when the pair is no good."""
        self.cert = cert
        self.key = key
        self.min_version = min_version
        self._stamp = self._look()
        self._context = make_context(cert, key, min_version)

    def current(self) -> ssl.SSLContext:
        try:
            stamp = self._look()
        except OSError as error:
            log.warning("certificate files cannot be read (%s); the loaded ones stay in use", error.strerror)
            return self._context
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = make_context(self.cert, self.key, self.min_version)
                log.info("certificate files were read again")
            except (OSError, ssl.SSLError) as error:
                log.warning("new certificate files are no good (%s); the old ones stay in use", error)
        return self._context

    def _look(self) -> tuple[_Stamp, _Stamp]:
        cert, key = Path(self.cert).stat(), Path(self.key).stat()
        return (
            (cert.st_ino, cert.st_size, cert.st_mtime_ns, cert.st_ctime_ns),
            (key.st_ino, key.st_size, key.st_mtime_ns, key.st_ctime_ns),
        )


def ensure_self_signed(cert: str, key: str, names: Sequence[str], now: float) -> bool:
    """Write a self-signed pair for ``names`` (host names, addresses) unless both files are there; True when written.

    ``now``: seconds since the epoch. The key is readable by the owner alone. Raises OSError.
    """
    if Path(cert).exists() and Path(key).exists():
        return False
    key_pem, cert_pem = self_signed(names, now)
    for path, data, mode in ((key, key_pem, 0o600), (cert, cert_pem, 0o644)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return True


def self_signed(names: Sequence[str], now: float) -> tuple[bytes, bytes]:
    """(key, certificate) as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime.fromtimestamp(now, datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - datetime.timedelta(days=1))
        .not_valid_after(start + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
