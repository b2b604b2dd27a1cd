"""Postfix: main.cf (or `postconf -n`), master.cf beside it, and the text tables that they name.

Source: postconf(5), master(5) of Postfix 3.7. Values are expanded ($name, ${name}, ${name?x}, ${name:x}) before they are
read; a parameter that occurs twice counts the last time, as Postfix takes it. What a handler does not know is left out with
the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from types import MappingProxyType

from filterd.config.takeover import postfixdomains, postfixpolicy
from filterd.config.takeover.draft import Draft, Line, machine_name
from filterd.config.takeover.postfixmaster import doors
from filterd.config.takeover.postfixtls import HANDLERS as TLS_HANDLERS

MAX_DEPTH = 20
_REFERENCE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\s*(?:([?:])([^{}]*))?\}|\((\w+)\))")
Values = dict[str, tuple[str, Line]]
Handler = Callable[[Draft, Line, str, Callable[[str], str]], None]

# Nothing to do: filterd has no such thing to choose, or always does so.
SAME = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "biff", "readme_directory", "html_directory", "manpage_directory", "sample_directory", "mail_owner",
                "setgid_group", "queue_directory", "command_directory", "daemon_directory", "data_directory",
                "config_directory", "sendmail_path", "newaliases_path", "mailq_path", "debugger_command", "debug_peer_level",
                "debug_peer_list", "shlib_directory", "meta_directory", "compatibility_level", "mail_version",
                "inet_protocols", "default_process_limit", "in_flow_delay", "smtpd_tls_session_cache_database",
                "smtp_tls_session_cache_database", "smtpd_tls_session_cache_timeout", "tls_random_source", "maillog_file",
                "smtpd_tls_loglevel", "smtp_tls_loglevel", "default_database_type", "alias_database", "mail_name",
                "smtp_tls_note_starttls_offer", "smtpd_tls_dh1024_param_file", "smtpd_tls_dh512_param_file",
                "smtpd_tls_eecdh_grade", "tls_preempt_cipherlist", "address_verify_map", "syslog_name", "syslog_facility",
            ),
            "a matter of Postfix's own house",
        ),
        "smtpd_helo_required": "a greeting is always asked for",
        "disable_vrfy_command": "VRFY tells nobody anything",
        "smtpd_tls_auth_only": "passwords are taken over TLS only",
        "smtpd_sasl_auth_enable": "people log in at submission; never at port 25",
        "smtpd_sasl_security_options": "plain passwords over TLS only",
        "smtpd_sasl_tls_security_options": "plain passwords over TLS only",
        "smtpd_sasl_local_domain": "people log in with their whole address",
        "smtpd_sasl_type": "accounts are filterd's own",
        "smtpd_sasl_path": "accounts are filterd's own",
        "broken_sasl_auth_clients": "AUTH is offered as the standards say",
        "smtpd_sasl_authenticated_header": "our Received line never names who logged in",
        "smtpd_tls_received_header": "Received says ESMTPS",
        "smtpd_tls_security_level": "TLS is offered wherever there is a certificate",
        "smtpd_use_tls": "TLS is offered wherever there is a certificate",
        "smtpd_delay_reject": "refusals of clients come at RCPT TO",
        "strict_rfc821_envelopes": "always so",
        "unknown_local_recipient_reject_code": "unknown people are refused with 550",
        "local_recipient_maps": "who has an account or an alias is known",
        "milter_protocol": "the newest that both know is spoken",
        "milter_mail_macros": "the usual macros are sent",
        "append_dot_mydomain": "addresses are taken as they come",
        "append_at_myorigin": "addresses are taken as they come",
        "enable_long_queue_ids": "ids are never used twice",
        "smtp_sasl_security_options": "a log-in at a relay is made over TLS",
        "smtp_sasl_tls_security_options": "a log-in at a relay is made over TLS",
        "smtp_sasl_mechanism_filter": "the best that both know is taken",
        "smtp_sasl_auth_enable": "told with relayhost",
        "smtp_sasl_password_maps": "told with relayhost",
        "smtp_tls_wrappermode": "told with relayhost",
        "header_size_limit": "headers are bounded",
        "mime_nesting_limit": "MIME is bounded",
        "soft_bounce": "for tests",
        "smtputf8_enable": "SMTPUTF8 is offered",
        "virtual_uid_maps": "mail belongs to server.user",
        "virtual_gid_maps": "mail belongs to server.user",
        "virtual_minimum_uid": "mail belongs to server.user",
        "allow_percent_hack": "never so",
        "swap_bangpath": "never so",
        "smtpd_sender_login_maps": "who logs in may send as his own addresses and aliases only",
        "parent_domain_matches_subdomains": "Postfix's lists are read as they are meant",
        "line_length_limit": "lines are bounded",
        "mydomain": "used where other lines name it",
        "mynetworks_style": "told with mynetworks",
    }
)  # fmt: skip
DEFAULTS = MappingProxyType(
    {
        "myorigin": "$myhostname", "mydestination": "$myhostname, localhost.$mydomain, localhost",
        "config_directory": "/etc/postfix", "queue_directory": "/var/spool/postfix", "data_directory": "/var/lib/postfix",
        "default_database_type": "hash", "mail_name": "Postfix", "inet_protocols": "all", "inet_interfaces": "all",
        "virtual_mailbox_maps": "", "virtual_alias_maps": "", "relay_domains": "", "transport_maps": "", "smtp_sasl_auth_enable":
        "no", "smtp_sasl_password_maps": "", "smtp_tls_wrappermode": "no", "smtpd_tls_cert_file": "", "mynetworks": "",
        "relay_recipient_maps": "", "recipient_delimiter": "", "milter_default_action": "tempfail", "alias_maps": "",
        "virtual_alias_domains": "", "smtpd_tls_key_file": "$smtpd_tls_cert_file",
    }
)  # fmt: skip


def read(draft: Draft, path: str, text: str) -> None:
    """``path`` of main.cf; "-" came from elsewhere, then there is no master.cf beside it."""
    values: Values = {}
    for line in logical(text, path):
        name, sign, value = line.text.partition("=")
        name = name.strip()
        if not sign or not re.fullmatch(r"\w+", name):
            draft.left(line, "is no parameter: NAME = VALUE")
            continue
        if name in values:
            draft.same(values[name][1], f"{line.place} sets {name} again, and the last one counts")
        values[name] = (value.strip(), line)

    def of(name: str) -> str:
        return expanded(values, f"${name}")

    hostname = of("myhostname") or machine_name()
    given = values.get("myhostname", ("", Line(path, 0, "myhostname")))[1]
    note = "" if "myhostname" in values else "Postfix takes the machine's name when myhostname is not there"
    if "." not in hostname:
        hostname, note = (
            f"{hostname}.{of('mydomain')}",
            "the machine's name alone is no name for others; give its whole name",
        )
    draft.set(given, "server.hostname", hostname.lower(), note)
    handlers: dict[str, Handler] = {**postfixdomains.HANDLERS, **postfixpolicy.HANDLERS, **TLS_HANDLERS}
    postfixdomains.local_domains(draft, values, of)
    for name, (_, line) in values.items():
        if name == "myhostname" or name in postfixdomains.FIRST:
            continue
        if name in SAME:
            draft.same(line, SAME[name])
        elif name in handlers:
            handlers[name](draft, line, of(name), of)
        else:
            draft.left(line, "filterd has nothing that is set like this")
    postfixdomains.remaining(draft, values, of)
    if path != "-":
        _master(draft, os.path.join(os.path.dirname(path), "master.cf"), of)


def _master(draft: Draft, path: str, of: Callable[[str], str]) -> None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        text = ""
    doors(draft, list(logical(text, path)), of, path)


def logical(text: str, path: str) -> Iterator[Line]:
    """Logical lines: what begins with blanks continues, comments and empty lines stand anywhere."""
    current: list[str] = []
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if line[0] in " \t" and current:
            current.append(bare)
            continue
        if current:
            yield Line(path, start, " ".join(current))
        current, start = [bare], number
    if current:
        yield Line(path, start, " ".join(current))


def expanded(values: Values, text: str, depth: int = 0) -> str:
    """With every reference filled in; what is unknown becomes nothing, as in Postfix."""
    if depth > MAX_DEPTH:
        return ""

    def value(name: str) -> str:
        if name == "mydomain" and name not in values:
            host = values.get("myhostname", (machine_name(), None))[0]
            return host.partition(".")[2] or "localdomain"
        if name == "myhostname" and name not in values:
            return machine_name()
        raw = values[name][0] if name in values else DEFAULTS.get(name, "")
        return expanded(values, raw, depth + 1)

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[5]
        if name is None:
            return "$"
        if match[3] == "?":
            return expanded(values, match[4], depth + 1) if value(name) else ""
        if match[3] == ":":
            return value(name) or expanded(values, match[4], depth + 1)
        return value(name)

    return _REFERENCE.sub(fill, text).strip()
