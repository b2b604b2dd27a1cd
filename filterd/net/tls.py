"""TLS contexts from certificate files, read again when the files change; a self-signed pair for the first start; what
another server's certificate says.

Specification: RFC 8314 (TLS for mail), RFC 9325 (TLS 1.2 and later only), RFC 5280 6 (paths, for DANE-TA), RFC 6125 6.4
(names). This is the only module that makes server-side ``ssl.SSLContext`` objects; ``cryptography`` writes the self-signed
certificate and reads those of others.

``why_no_path`` is for trust anchors that the system's store does not have. It is narrower than RFC 5280: what it does not
know in a critical extension (name constraints, policies) makes a path bad, so it errs towards "no".

Invariant: a pair that cannot be loaded (half written, key and certificate of different runs) never replaces one that
works: the old one is used until the new one is whole.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from filterd.net.channel import ServerContext, end_point_hash

SELF_SIGNED_DAYS = 3650
MAX_CHAIN = 10  # certificates of a peer that are looked at
RSA_MIN_BITS = 2048
KNOWN_EXTENSIONS = (
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
)
SIGNATURES_CHECKED = 50  # of one chain: certificates that all issue each other would have n! paths
WEAK_HASHES = ("md5", "sha1")

log = logging.getLogger("filterd.tls")

_Stamp = tuple[int, int, int, int]


def make_context(cert: str, key: str, min_version: str = "1.2", client_ca: str = "") -> ssl.SSLContext:
    """A server's context; ``cert`` is the chain, leaf first (PEM); ``min_version`` "1.2" or "1.3"; with ``client_ca`` clients
    may show a certificate of these authorities, and a bad one ends the handshake. Raises OSError, ssl.SSLError."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # TLS 1.2 only with forward secrecy and AEAD (RFC 9325 4.2); 1.3 has nothing else.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM")
    context.load_cert_chain(cert, key)
    context.end_point = _end_point(Path(cert).read_bytes())
    if client_ca:
        context.load_verify_locations(cafile=client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _end_point(chain: bytes) -> bytes:
    """tls-server-end-point of the first certificate of a PEM file, b"" when it has none."""
    try:
        leaf = x509.load_pem_x509_certificate(chain)
        digest = leaf.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return b""
    return end_point_hash(leaf.public_bytes(serialization.Encoding.DER), digest.name if digest else None)


class TlsFiles:
    """The pair of one name. ``current`` looks at the files (two stat calls) and loads them again when they changed."""

    __slots__ = ("_context", "_stamp", "cert", "client_ca", "key", "min_version")

    def __init__(self, cert: str, key: str, min_version: str = "1.2", client_ca: str = "") -> None:
        """Loads at once: raises OSError or ssl.SSLError when the pair is no good."""
        self.client_ca = client_ca
        self.cert = cert
        self.key = key
        self.min_version = min_version
        self._stamp = self._look()
        self._context = make_context(cert, key, min_version, client_ca)

    def current(self) -> ssl.SSLContext:
        try:
            stamp = self._look()
        except OSError as error:
            log.warning("certificate files cannot be read (%s); the loaded ones stay in use", error.strerror)
            return self._context
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = make_context(self.cert, self.key, self.min_version, self.client_ca)
                log.info("certificate files were read again")
            except (OSError, ssl.SSLError) as error:
                log.warning("new certificate files are no good (%s); the old ones stay in use", error)
        return self._context

    def _look(self) -> tuple[_Stamp, ...]:
        files = [Path(path).stat() for path in (self.cert, self.key, self.client_ca) if path]
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in files)


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


# -- certificates of others -----------------------------------------------------------------------
def chain_of(session: ssl.SSLObject) -> list[bytes]:
    """What the peer sent, leaf first, DER; nothing of it is verified. Public only since Python 3.13, there for longer."""
    method = getattr(session, "get_unverified_chain", None)
    if method is not None:
        return [bytes(one) for one in method() or ()][:MAX_CHAIN]
    inner = getattr(session, "_sslobj", None)
    if inner is not None and hasattr(inner, "get_unverified_chain"):
        found = inner.get_unverified_chain() or ()
        return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found][:MAX_CHAIN]
    leaf = session.getpeercert(True)
    return [leaf] if leaf else []


def key_of(der: bytes) -> bytes:
    """SubjectPublicKeyInfo of a certificate as it stands there. Raises ValueError."""
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_certificate(der: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(der)
    except ValueError:
        return False
    return True


def is_public_key(der: bytes) -> bool:
    try:
        serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def describe(der: bytes) -> tuple[str, str, float]:
    """(subject, issuer, end of its life in seconds since the epoch), for people. Raises ValueError."""
    one = x509.load_der_x509_certificate(der)
    return one.subject.rfc4514_string(), one.issuer.rfc4514_string(), one.not_valid_after_utc.timestamp()


def names_of(der: bytes, common_name: bool = False) -> list[str]:
    """DNS names of a certificate, lower case; with ``common_name`` its CN when there are none (RFC 7672 3.2.2)."""
    try:
        one = x509.load_der_x509_certificate(der)
        found = [ext for ext in one.extensions if ext.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    except ValueError:
        return []
    names: list[str] = []
    for extension in found:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            names += value.get_values_for_type(x509.DNSName)
    if not names and common_name:
        names = [str(part.value) for part in one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)][-1:]
    return [name.lower().rstrip(".") for name in names]


def name_fits(presented: str, wanted: str) -> bool:
    """RFC 6125 6.4.3: ``*`` stands for exactly one whole first label. ``wanted`` ".x" is any name below x, at any depth."""
    if wanted.startswith("."):
        return presented.endswith(wanted) and presented.removesuffix(wanted) not in ("", "*")
    if presented.startswith("*."):
        first, dot, rest = wanted.partition(".")
        return bool(first and dot) and rest == presented[2:] and "." in rest
    return presented == wanted


def why_no_path(chain: Sequence[bytes], is_anchor: Callable[[bytes], bool], now: float) -> str:
    """ "" when issuers lead from the first certificate of ``chain`` to one, not the first, that ``is_anchor``; else why not."""
    try:
        loaded = [x509.load_der_x509_certificate(der) for der in chain[: MAX_CHAIN + 1]]
    except ValueError:
        return "a certificate cannot be read"
    if not loaded:
        return "there is no certificate"
    try:
        climb = _Climb(is_anchor, datetime.datetime.fromtimestamp(now, datetime.UTC))
        return climb.problem(loaded[0], loaded[1:], 0)
    except ValueError as error:
        return f"a certificate cannot be read: {error}"


@dataclass(slots=True)
class _Climb:
    """The search for a path, depth first; each certificate is used once in it."""

    is_anchor: Callable[[bytes], bool]
    now: datetime.datetime
    left: int = SIGNATURES_CHECKED

    def problem(self, one: x509.Certificate, rest: Sequence[x509.Certificate], depth: int) -> str:
        unfit = _unfit(one, depth, self.now)
        if unfit:
            return unfit
        if depth and self.is_anchor(one.public_bytes(serialization.Encoding.DER)):
            return ""
        why = "no issuer in the chain leads to the trust anchor"
        for at, issuer in enumerate(rest):
            if issuer.subject != one.issuer:
                continue
            self.left -= 1
            if self.left < 0:
                return "the chain is too tangled"
            if _signed(one, issuer):
                found = self.problem(issuer, [*rest[:at], *rest[at + 1 :]], depth + 1)
                if not found:
                    return ""
                why = found
        return why


def _signed(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    digest = one.signature_hash_algorithm
    if digest is not None and digest.name in WEAK_HASHES:
        return False
    try:
        one.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _unfit(one: x509.Certificate, depth: int, now: datetime.datetime) -> str:
    """Why this certificate may not stand at this place of a path; ``depth`` 0 is the server's own."""
    who = one.subject.rfc4514_string() or "a certificate without a subject"
    if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
        return f"{who} {'has expired' if now > one.not_valid_after_utc else 'is not valid yet'}"
    key = one.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_MIN_BITS:
        return f"{who} has a key of {key.key_size} bits only"
    extensions = {extension.oid: extension for extension in one.extensions}
    for oid, extension in extensions.items():
        if (extension.critical and oid not in KNOWN_EXTENSIONS) or oid == ExtensionOID.NAME_CONSTRAINTS:
            return f"{who} has a constraint that is not understood here ({oid.dotted_string})"
    usage = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    if usage is not None and isinstance(usage.value, x509.ExtendedKeyUsage):
        wanted = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        if not any(oid in usage.value for oid in wanted):
            return f"{who} is not for servers"
    return _unfit_issuer(extensions, depth, who) if depth else ""


def _unfit_issuer(
    extensions: dict[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]], depth: int, who: str
) -> str:
    basic, usage = extensions.get(ExtensionOID.BASIC_CONSTRAINTS), extensions.get(ExtensionOID.KEY_USAGE)
    if basic is None or not isinstance(basic.value, x509.BasicConstraints) or not basic.value.ca:
        return f"{who} may not issue certificates"
    if basic.value.path_length is not None and basic.value.path_length < depth - 1:
        return f"{who} may not issue for so long a chain"
    if usage is not None and isinstance(usage.value, x509.KeyUsage) and not usage.value.key_cert_sign:
        return f"{who} may not sign certificates"
    return ""
