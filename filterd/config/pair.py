"""Does a certificate belong to its key, and can a server read both? Words for the operator instead of OpenSSL's."""

from __future__ import annotations

import ssl
from pathlib import Path


class _Locked(Exception):
    """The key has a pass phrase: a server has nobody who types it."""


def fault(cert: str, key: str) -> tuple[str, str] | None:
    """("cert" or "key", what is wrong with it and what to do); None when the pair works. Files that cannot be read: OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def locked() -> bytes:
        raise _Locked

    try:
        context.load_cert_chain(cert, key, password=locked)
    except _Locked:
        text = (
            f"has a pass phrase, and nobody is there to type it: openssl pkey -in {key} -out NEW takes it off"
        )
        return "key", text
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "key", "is not the key of tls.cert: take both from the same run of what made them"
        for name, path, mark in (("cert", cert, b"CERTIFICATE"), ("key", key, b"PRIVATE KEY")):
            if b"-----BEGIN " not in (data := Path(path).read_bytes()) or mark not in data:
                return (
                    name,
                    f"has no “-----BEGIN {mark.decode()}-----”: it must be PEM (openssl converts from DER or PKCS #12)",
                )
        return (
            "cert",
            f"cannot be used: {error.reason or error}; openssl x509 -in {cert} -noout -text shows what it is",
        )
    return None
