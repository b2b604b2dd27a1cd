"""Whether a TLS session is what is demanded of its host, and in which words it is refused.

Specification: RFC 7672 3 (DANE), RFC 8461 4.1 (names: subjectAltName only), RFC 6125 6.4. The chain of a ``NAMED`` demand was
verified by the handshake; its names are checked here, because what is acceptable need not be the host's name.
"""

from __future__ import annotations

import ipaddress
import ssl

from filterd.net.tls import chain_of, name_fits, names_of
from filterd.queue import dane
from filterd.queue.dane import Judgement
from filterd.queue.route import Hop
from filterd.queue.tlsdemand import Demand, Level, TlsResult

EXPIRED = (9, 10, 11)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED; CRL
MISMATCH = (62, 63, 64)  # host name, e-mail, address
UNTRUSTED = (2, 18, 19, 20, 21, 27)  # no issuer, self-signed, not in the store


def server_name(hop: Hop) -> str | None:
    """What to say in SNI: the TLSA base domain (RFC 7672 8.1), else the host's name; None for an address."""
    if hop.demand is not None and hop.demand.level is Level.DANE and hop.demand.names:
        return hop.demand.names[0]
    return None if _is_address(hop.name) or hop.name.startswith("[") else hop.name


def refusal(error: ssl.SSLCertVerificationError) -> tuple[str, TlsResult]:
    """The handshake failed by the certificate: in words, and in a report's."""
    if error.verify_code in EXPIRED:
        result = TlsResult.EXPIRED
    elif error.verify_code in MISMATCH:
        result = TlsResult.MISMATCH
    else:
        result = TlsResult.UNTRUSTED if error.verify_code in UNTRUSTED else TlsResult.FAILURE
    return f"the certificate is not good: {error.verify_message}", result


def judge(demand: Demand, session: ssl.SSLObject, now: float) -> Judgement:
    """After the handshake. ``now``: seconds since the epoch."""
    if demand.level is Level.DANE:
        return dane.judge(demand.tlsa, chain_of(session), demand.names, now)
    if demand.level is Level.NAMED:
        leaf = session.getpeercert(True)
        presented = names_of(leaf) if leaf else []
        if any(name_fits(one, wanted) for one in presented for wanted in demand.names):
            return Judgement(TlsResult.OK, f"the certificate is good for {demand.names[0]} ({demand.why})")
        text = f"the certificate is for {', '.join(presented[:5]) or 'no name'}, not for {demand.names[0]}"
        return Judgement(TlsResult.MISMATCH, f"{text} ({demand.why})")
    return Judgement(TlsResult.OK, "")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
