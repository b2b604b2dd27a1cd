"""What a TLS connection is bound to: channel binding data for SASL, and whom the client's certificate names.

Specification: RFC 5929 3 (tls-unique) and 4 (tls-server-end-point), RFC 9266 (tls-exporter), RFC 5280 4.2.1.6 (rfc822Name).
Complete: yes. Python's ``ssl`` does not lend the exporter of RFC 5705, so it is asked of the OpenSSL that ``ssl`` itself is
linked to. The pointer to it is taken only when the object beside it is the very context the connection says it has;
where that does not hold (another Python, a static OpenSSL) there is no tls-exporter, and no binding over TLS 1.3.

Invariant: the default binding of the TLS version (tls-exporter from 1.3 on, tls-unique before) is there, or none is: a
client that has only the default one must never be led to a mechanism that then fails.
"""

from __future__ import annotations

import _ssl
import ctypes
import hashlib
import ssl
from dataclasses import dataclass
from functools import cache

from filterd.proto.sasl import NO_CHANNEL, Channel

EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 2
EXPORTER_OCTETS = 32
_HEAD = object.__basicsize__  # of a Python object; behind it: Socket, SSL, context
_POINTER = ctypes.sizeof(ctypes.c_void_p)


class ServerContext(ssl.SSLContext):
    """A server's context that knows the hash of its certificate (RFC 5929 4.1)."""

    end_point: bytes = b""


def end_point_hash(certificate: bytes, algorithm: str | None) -> bytes:
    """tls-server-end-point of a DER certificate whose signature uses ``algorithm``: MD5 and SHA-1 become SHA-256; b"" where
    it is undefined (signatures without a hash, as Ed25519's)."""
    if algorithm is None:
        return b""
    name = "sha256" if algorithm in ("md5", "sha1") else algorithm
    try:
        return hashlib.new(name, certificate).digest()
    except ValueError:
        return b""


def channel_of(connection: object) -> Channel:
    """``connection``: the transport's ``ssl_object``, None in clear."""
    if not isinstance(connection, ssl.SSLObject | ssl.SSLSocket):
        return NO_CHANNEL
    return Channel(_bindings(connection), _names(connection))


def _bindings(connection: ssl.SSLObject | ssl.SSLSocket) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if connection.version() == "TLSv1.3":
        found["tls-exporter"] = exported(connection)
    else:
        found["tls-unique"] = connection.get_channel_binding("tls-unique") or b""
    if not all(found.values()):
        return {}
    context = connection.context
    if isinstance(context, ServerContext) and context.end_point:
        found["tls-server-end-point"] = context.end_point
    return found


@dataclass(frozen=True, slots=True)
class _Library:
    """OpenSSL as Python's own ``ssl`` has it loaded."""

    loaded: ctypes.CDLL

    @classmethod
    @cache
    def find(cls) -> _Library | None:
        try:
            loaded = ctypes.CDLL(getattr(_ssl, "__file__", "") or None)
            loaded.SSL_export_keying_material.argtypes = [
                ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
                ctypes.c_size_t, ctypes.c_int,
            ]  # fmt: skip
            loaded.SSL_export_keying_material.restype = ctypes.c_int
        except (OSError, AttributeError):
            return None
        return cls(loaded)

    def export(self, pointer: int) -> bytes:
        out = ctypes.create_string_buffer(EXPORTER_OCTETS)
        label = EXPORTER_LABEL
        # RFC 9266 2: a context of no octets, which before TLS 1.3 is not the same as none
        done = self.loaded.SSL_export_keying_material(
            pointer, out, EXPORTER_OCTETS, label, len(label), b"", 0, 1
        )
        return out.raw if done == 1 else b""


def exported(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """tls-exporter, b"" when it cannot be had."""
    inner = getattr(connection, "_sslobj", None)
    library = _Library.find() if inner is not None else None
    if inner is None or library is None or not _laid_out_as_known(inner):
        return b""
    pointer = ctypes.c_void_p.from_address(id(inner) + _HEAD + _POINTER).value
    return library.export(pointer) if pointer else b""


def _laid_out_as_known(inner: object) -> bool:
    """CPython's PySSLSocket: head, Socket, ssl, ctx. Seen by what stands in the third place."""
    if type(inner).__basicsize__ < _HEAD + 3 * _POINTER:
        return False
    third = ctypes.c_void_p.from_address(id(inner) + _HEAD + 2 * _POINTER).value
    return third == id(getattr(inner, "context", None))


def _names(connection: ssl.SSLObject | ssl.SSLSocket) -> tuple[str, ...]:
    """Addresses of the client's verified certificate: rfc822Name, else a common name that is an address."""
    try:
        certificate = connection.getpeercert()
    except ValueError:
        return ()
    if not certificate:
        return ()
    alternatives = certificate.get("subjectAltName", ())
    names = [str(one[1]) for one in alternatives if isinstance(one, tuple) and one[0] == "email"]
    if not names:
        names = [
            str(pair[1])
            for part in certificate.get("subject", ())
            if isinstance(part, tuple)
            for pair in part
            if isinstance(pair, tuple) and pair[0] == "commonName" and "@" in str(pair[1])
        ]
    return tuple(names)
