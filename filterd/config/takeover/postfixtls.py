"""Postfix's TLS parameters, both ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from filterd.config.takeover.draft import Draft, Line
from filterd.config.takeover.postfixmaps import told, words

Of = Callable[[str], str]
_LEVELS = {
    "none": ("none", ""),
    "may": ("opportunistic", ""),
    "dane": ("dane", ""),
    "verify": ("secure", ""),
    "secure": ("secure", ""),
    "encrypt": (
        "secure",
        "Postfix asked for TLS without looking at the certificate; here it has to prove who is there",
    ),
    "dane-only": ("secure", "Postfix asked for TLSA records; here a certificate that is trusted is enough"),
}
_SYSTEM_CA = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs", "/etc/pki/tls/certs/ca-bundle.crt")


def _cert(draft: Draft, line: Line, value: str, of: Of) -> None:
    if value in ("", "none"):
        draft.same(line, "no certificate: tls.mode stays what it is")
        return
    draft.set(line, "tls.cert", value)
    draft.set(line, "tls.key", of("smtpd_tls_key_file") or value)
    draft.set(line, "tls.mode", "files")


def _chain(draft: Draft, line: Line, value: str, _: Of) -> None:
    files = words(value)
    if not files:
        draft.same(line, "no certificate: tls.mode stays what it is")
        return
    if len(files) > 1:
        draft.left(line, "one certificate with its key serves all: further files have no place")
    draft.set(line, "tls.cert", files[0])
    draft.set(line, "tls.key", files[0])
    draft.set(line, "tls.mode", "files")


def _key(draft: Draft, line: Line, _: str, of: Of) -> None:
    if of("smtpd_tls_cert_file"):
        draft.same(line, "told with smtpd_tls_cert_file")
    else:
        draft.left(line, "a key without a certificate")


def _level(draft: Draft, line: Line, value: str, _: Of) -> None:
    words_of = _LEVELS.get(value)
    if words_of is None:
        draft.left(line, f"{value or 'nothing'} has no like in queue.tls")
    else:
        draft.set(line, "queue.tls", words_of[0], words_of[1])


def _old_level(draft: Draft, line: Line, value: str, of: Of) -> None:
    if of("smtp_tls_security_level"):
        draft.same(line, "smtp_tls_security_level says more")
    else:
        draft.set(line, "queue.tls", "opportunistic" if value == "yes" else "none")


def _protocols(draft: Draft, line: Line, value: str, _: Of) -> None:
    if "TLSv1.3" in value and (">=TLSv1.3" in value.replace(" ", "") or "!TLSv1.2" in value):
        draft.set(line, "tls.min_version", "1.3")
    else:
        draft.set(line, "tls.min_version", "1.2", "TLS before 1.2 is not spoken in any case")


def _authorities(draft: Draft, line: Line, value: str, _: Of) -> None:
    if value in (*_SYSTEM_CA, ""):
        draft.same(line, "the system's authorities are trusted")
    elif line.text.startswith("smtp_tls_CApath"):
        draft.left(line, "a folder of authorities: queue.tls_ca takes one file")
    else:
        draft.set(line, "queue.tls_ca", value)


def _policy(draft: Draft, line: Line, value: str, _: Of) -> None:
    for at, entry in told(draft, line, value):
        level, *rest = words(entry.value) or [""]
        known = _LEVELS.get(level)
        if known is None:
            draft.left(at, f"{level or 'nothing'} has no like in queue.tls")
            continue
        names = [one for part in rest if part.startswith("match=") for one in part[6:].split(":")]
        target = ("queue.tls_policy", entry.key.strip("[]").lower())
        draft.set(at, "domain", entry.key.strip("[]").lower(), "", target)
        draft.set(at, "tls", known[0], known[1], target)
        if known[0] == "secure" and names and not set(names) & {"nexthop", "dot-nexthop", "hostname"}:
            draft.set(at, "names", list(names), "", target)
        elif names or any(not part.startswith("match=") for part in rest):
            draft.left(at, f"{' '.join(rest)}: the usual names and protocols hold")


def _left_to_tls(draft: Draft, line: Line, _: str, __: Of) -> None:
    draft.same(line, "ciphers are those of the system's OpenSSL, with forward secrecy")


HANDLERS: Mapping[str, Callable[[Draft, Line, str, Of], None]] = MappingProxyType(
    {
        "smtpd_tls_cert_file": _cert,
        "smtpd_tls_key_file": _key,
        "smtpd_tls_chain_files": _chain,
        "smtpd_tls_protocols": _protocols,
        "smtpd_tls_mandatory_protocols": _protocols,
        "smtp_tls_security_level": _level,
        "smtp_use_tls": _old_level,
        "smtp_tls_CAfile": _authorities,
        "smtp_tls_CApath": _authorities,
        "smtpd_tls_CAfile": lambda draft, line, _value, _of: draft.left(line, "people's certificates: see tls.client_ca"),
        "smtpd_tls_CApath": lambda draft, line, _value, _of: draft.left(line, "people's certificates: see tls.client_ca"),
        "smtp_tls_policy_maps": _policy,
        **dict.fromkeys(
            (
                "smtpd_tls_ciphers", "smtpd_tls_mandatory_ciphers", "smtp_tls_ciphers", "smtp_tls_mandatory_ciphers",
                "tls_high_cipherlist", "tls_medium_cipherlist", "smtpd_tls_exclude_ciphers", "smtp_tls_exclude_ciphers",
                "smtpd_tls_mandatory_exclude_ciphers", "smtp_tls_mandatory_exclude_ciphers", "smtp_tls_protocols",
                "smtp_tls_mandatory_protocols", "tls_ssl_options", "smtp_dns_support_level",
            ),
            _left_to_tls,
        ),
    }
)  # fmt: skip
