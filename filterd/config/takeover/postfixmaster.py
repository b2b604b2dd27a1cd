"""Postfix's master.cf: which doors are open, and what stands there that is not Postfix's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from filterd.config.takeover.draft import Draft, Line
from filterd.config.takeover.postfixmaps import words

_PORTS = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465, "urd": 465}
_DOOR_OF = {25: "smtp", 587: "submission", 465: "submissions"}
# smtpd options of the usual submission entries: what filterd does at these doors in any case.
_USUAL = (
    "syslog_name", "smtpd_tls_security_level", "smtpd_tls_wrappermode", "smtpd_sasl_auth_enable", "smtpd_tls_auth_only",
    "smtpd_reject_unlisted_recipient", "smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions",
    "smtpd_recipient_restrictions", "smtpd_relay_restrictions", "milter_macro_daemon_name", "smtpd_sasl_type",
    "smtpd_sasl_path", "smtpd_sasl_security_options", "smtpd_etrn_restrictions",
)  # fmt: skip
_PIPES_OF_DEBIAN = ("maildrop", "uucp", "ifmail", "bsmtp", "scalemail-backend", "mailman")


def doors(draft: Draft, lines: Sequence[Line], of: Callable[[str], str], path: str) -> None:
    """listen.smtp and its fellows; without a master.cf port 25 alone."""
    if not lines:
        line = Line(path, 0, "(not there)")
        note = "no master.cf was read: only port 25 is open; submission is listen.submissions and listen.submission"
        draft.set(line, "listen.smtp", _places(of, 25), note)
        return
    for line in lines:
        fields = line.text.split(None, 7)
        if len(fields) < 8:
            draft.left(line, "is no service")
        elif fields[1] == "inet" and fields[7].split()[0] in ("smtpd", "postscreen"):
            _door(draft, line, fields[0], fields[7], of)
        elif fields[1] == "inet":
            draft.left(line, "a program of its own on a port: filterd opens its own doors only")
        elif fields[7].split()[0] == "pipe" and fields[0] not in _PIPES_OF_DEBIAN:
            draft.left(
                line,
                "a program that mail is piped to: filterd exec runs programs for scripts, aliases and .forward",
            )
        elif fields[7].split()[0] == "spawn":
            draft.left(line, "a policy service: filterd has its own checks (stage.spf, stage.greylist)")
        elif fields[7].split()[0] == "pipe":
            draft.same(line, "one of the programs that Debian's master.cf names for all")
        else:
            draft.same(line, "a process of Postfix")


def _door(draft: Draft, line: Line, service: str, command: str, of: Callable[[str], str]) -> None:
    host, _, name = service.rpartition(":")
    port = _PORTS.get(name) or (int(name) if name.isdecimal() else 0)
    options = dict(pair.partition("=")[::2] for pair in re.findall(r"-o\s+(\{[^}]*\}|\S+)", command))
    options = {key.strip("{} "): value.strip("} ") for key, value in options.items()}
    wrapped = options.get("smtpd_tls_wrappermode") == "yes"
    door = "submissions" if wrapped else _DOOR_OF.get(port, "")
    if not port or not door:
        draft.left(line, "a second SMTP door: see `filterd help hops` for one behind a content filter")
        return
    if options.get("content_filter"):
        draft.left(line, f"content_filter = {options['content_filter']}: filterd scans by its own stages")
    strange = [key for key in options if key not in (*_USUAL, "content_filter")]
    note = ""
    if command.startswith("postscreen"):
        note = "postscreen's tests are not there; stage.dnsbl and stage.greylist are"
    elif strange:
        note = f"without {', '.join(strange)}"
    host = host.strip("[]")
    places = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] if host else _places(of, port)
    draft.add(line, f"listen.{door}", places, note)


def _places(of: Callable[[str], str], port: int) -> list[object]:
    """Of inet_interfaces and inet_protocols."""
    families = words(of("inet_protocols"))
    found: list[object] = []
    for name in words(of("inet_interfaces")):
        if name == "all":
            found += [f":{port}"] if "all" in families or len(families) > 1 else [f"{_all(families)}:{port}"]
        elif name in ("loopback-only", "localhost"):
            found += [f"127.0.0.1:{port}"] if "ipv6" not in families else []
            found += [f"[::1]:{port}"] if "ipv4" not in families else []
        else:
            name = name.strip("[]")
            found.append(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
    return found


def _all(families: list[str]) -> str:
    return "0.0.0.0" if families == ["ipv4"] else "[::]"
