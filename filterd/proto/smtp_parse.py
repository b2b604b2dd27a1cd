"""The grammar of SMTP commands: paths, parameters, names.

Specification: RFC 5321 4.1.2 and 4.1.3 (paths, address literals), RFC 6531 3.3 (UTF-8), RFC 1870 (SIZE), RFC 6152
(BODY), RFC 3461 (RET, ENVID, NOTIFY, ORCPT, xtext), RFC 4954 5 (AUTH=), RFC 4865 (HOLDFOR, HOLDUNTIL), draft-hall-prdr
(PRDR). Complete: yes, but no quoted controls.

All functions take the octets of a command line without CR LF and raise ``SyntaxFault`` with the reply to send. Source
routes are read and dropped (RFC 5321 appendix C); ``%`` and ``!`` in local parts mean nothing here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import datetime

from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
from pipeline.reply import Reply


class SyntaxFault(Exception):
    """The command's argument is wrong; ``reply`` says so to the client."""

    def __init__(self, code: int, enhanced_code: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, enhanced_code, text)


_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\x80-\xff"
_DOT_STRING = re.compile(rb"[%b]+(?:\.[%b]+)*" % (_ATEXT, _ATEXT))
# Japanese mobile networks gave out "a..b" and "ab." for years; such senders still write to us.
_LOOSE_DOT_STRING = re.compile(rb"[%b.]+" % _ATEXT)
_QUOTED = re.compile(rb'"((?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*)"')
# RFC 5321 4.1.2 let-dig and ldh; "_" lives in real host names. U-labels (RFC 6531) are octets above 127.
_DOMAIN = re.compile(
    rb"[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\-\x80-\xff]*[A-Za-z0-9_\x80-\xff])?"
    rb"(?:\.[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\-\x80-\xff]*[A-Za-z0-9_\x80-\xff])?)*\.?"
)
_LITERAL = re.compile(rb"\[([!-Z^-~]{1,253})\]")
_ROUTE = re.compile(rb"@[^@:,<>\s]+(?:,@[^@:,<>\s]+)*:")
_PLAIN_PATH = re.compile(
    rb"<([A-Za-z0-9_+\-]+(?:\.[A-Za-z0-9_+\-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*)>"
    rb"(?= |$)"
)
HELO_NAME = re.compile(rb"[A-Za-z0-9._\-:\[\]\x80-\xff]{1,255}")
_PARAM = re.compile(rb"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([!-<>-~\x80-\xff]+))?")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
XCHAR = re.compile(rb"\+([0-9A-Fa-f]{2})")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def helo_name(argument: bytes) -> str:
    """The argument of HELO, EHLO, LHLO: a domain or address literal, believed as little as RFC 5321 4.1.4 asks."""
    if not argument:
        raise SyntaxFault(501, "5.5.4", "A domain name is needed")
    if not HELO_NAME.fullmatch(argument):
        raise SyntaxFault(501, "5.5.4", "Not a domain name")
    try:
        return argument.decode("utf-8")
    except UnicodeDecodeError:
        raise SyntaxFault(501, "5.5.4", "Not a domain name") from None


def path(argument: bytes, limits: SmtpLimits, *, reverse: bool, utf8: bool = True) -> tuple[str, bytes]:
    """Read ``<...>`` at the head of ``argument``; (mailbox, rest). "" is the null path (reverse only), "postmaster"
    stands alone (forward only). ``utf8`` False refuses octets above 127 (RFC 6531 3.5)."""
    bad = ("5.1.7", "sender") if reverse else ("5.1.3", "recipient")
    plain = _PLAIN_PATH.match(argument)
    if plain is not None and plain.end() <= 66:  # the common form, within every limit
        return plain[1].decode("ascii"), argument[plain.end() :]
    if not argument.startswith(b"<"):
        raise SyntaxFault(501, bad[0], f"Bad {bad[1]} address: <address> expected")
    end = _path_end(argument)
    if end < 0:
        raise SyntaxFault(501, bad[0], f"Bad {bad[1]} address: no closing >")
    inner, rest = argument[1:end], argument[end + 1 :]
    if rest and not rest.startswith(b" "):
        raise SyntaxFault(501, bad[0], f"Bad {bad[1]} address: blank expected behind >")
    if end + 1 > limits.path:
        raise SyntaxFault(501, bad[0], f"Bad {bad[1]} address: too long")
    if reverse and not inner:
        return "", rest
    if not reverse and inner.lower() == b"postmaster":
        return inner.decode("ascii"), rest
    route = _ROUTE.match(inner)
    if route:
        inner = inner[route.end() :]
    if not utf8 and not inner.isascii():
        raise SyntaxFault(553, "5.6.7", "SMTPUTF8 was not asked for with MAIL")
    mailbox = _mailbox(inner, limits, loose=reverse)
    if mailbox is None:
        raise SyntaxFault(501, bad[0], f"Bad {bad[1]} address syntax")
    return mailbox, rest


def _path_end(argument: bytes) -> int:
    """Offset of the > that ends the path, quoted ones passed over; -1 when there is none."""
    at = argument.find(b">")
    quote = argument.find(b'"')
    if quote < 0 or at < quote:
        return at
    quoted = _QUOTED.search(argument)
    return -1 if quoted is None else argument.find(b">", quoted.end())


def _mailbox(inner: bytes, limits: SmtpLimits, *, loose: bool) -> str | None:
    local, at, domain = inner.rpartition(b"@")
    if not at or not local or not domain:
        return None
    if len(local) > limits.local_part or len(domain) > limits.domain:
        return None
    if local.startswith(b'"'):
        quoted = _QUOTED.fullmatch(local)
        if quoted is None:
            return None
        local = _unquoted(quoted[1], local)
    elif not (_LOOSE_DOT_STRING if loose else _DOT_STRING).fullmatch(local):
        return None
    if domain.startswith(b"["):
        if not address_literal(domain):
            return None
    elif not _DOMAIN.fullmatch(domain) or any(len(label) > 63 for label in domain.split(b".")):
        return None
    try:
        return (local + b"@" + domain.rstrip(b".")).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _unquoted(content: bytes, quoted: bytes) -> bytes:
    """One spelling for one local part: quotes only where they are needed (RFC 5321 4.1.2 wants no needless ones)."""
    value = re.sub(rb"\\(.)", rb"\1", content)
    if _DOT_STRING.fullmatch(value):
        return value
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", value) + b'"'


def address_literal(domain: bytes) -> bool:
    """``[192.0.2.1]``, ``[IPv6:2001:db8::1]`` (RFC 5321 4.1.3); tags that nobody registered are refused."""
    found = _LITERAL.fullmatch(domain)
    if found is None:
        return False
    text = found[1].decode("ascii")
    try:
        if text[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(text[5:])
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return "%" not in text


def parameters(rest: bytes, checks: Mapping[str, Callable[[str], None]]) -> dict[str, str]:
    """ESMTP parameters behind a path: ``checks`` by upper-case name judges each value ("" when there is none).

    Unknown names are 555 (RFC 5321 4.1.1.11), a name given twice 501. Values stay as written.
    """
    out: dict[str, str] = {}
    for token in rest.split():
        found = _PARAM.fullmatch(token)
        if found is None:
            raise SyntaxFault(501, "5.5.4", "Bad parameter syntax")
        name = found[1].decode("ascii").upper()
        check = checks.get(name)
        if check is None:
            raise SyntaxFault(555, "5.5.4", f"Unsupported parameter {name}")
        if name in out:
            raise SyntaxFault(501, "5.5.4", f"Parameter {name} given twice")
        try:
            value = (found[2] or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise SyntaxFault(501, "5.5.4", f"Bad value of {name}") from None
        check(value)
        out[name] = value
    return out


def _refuse(name: str) -> SyntaxFault:
    return SyntaxFault(501, "5.5.4", f"Bad value of {name}")


def _size(value: str) -> None:
    # RFC 1870 4: 1 to 20 digits.
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise _refuse("SIZE")


def _body(value: str) -> None:
    if value.upper() in ("7BIT", "8BITMIME"):
        return
    if value.upper() == "BINARYMIME":
        raise SyntaxFault(555, "5.6.1", "BINARYMIME is not offered")
    raise _refuse("BODY")


def _smtputf8(value: str) -> None:
    if value:
        raise _refuse("SMTPUTF8")


def _ret(value: str) -> None:
    if value.upper() not in ("FULL", "HDRS"):
        raise _refuse("RET")


def _envid(value: str) -> None:
    # RFC 3461 4.4: xtext of printable characters, at most 100 of them.
    decoded = xtext(value)
    if (
        not value
        or decoded is None
        or len(value) > 300
        or not 0 < len(decoded) <= 100
        or not printable(decoded)
    ):
        raise _refuse("ENVID")


def _notify(value: str) -> None:
    words = value.upper().split(",")
    if words == ["NEVER"]:
        return
    if len(set(words)) != len(words) or not set(words) <= {"SUCCESS", "FAILURE", "DELAY"}:
        raise _refuse("NOTIFY")


def _orcpt(value: str) -> None:
    # RFC 3461 4.2 and RFC 6533 3: addr-type ";" xtext (or utf-8-addr-xtext), 500 octets.
    kind, semicolon, address = value.partition(";")
    good = (
        semicolon
        and address
        and len(value.encode()) <= 500
        and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9\-]*", kind)
    )
    if not good or (kind.lower() != "utf-8" and xtext(address) is None):
        raise _refuse("ORCPT")


def _auth(value: str) -> None:
    # RFC 4954 5: read and not believed.
    if value != "<>" and not (value and xtext(value)):
        raise _refuse("AUTH")


def _prdr(value: str) -> None:
    if value:
        raise _refuse("PRDR")


def _require_tls(value: str) -> None:
    if value:  # RFC 8689 2: it has none
        raise _refuse("REQUIRETLS")


def _kept_in(value: str) -> None:
    # xtext of the name in UTF-8
    if not value or not xtext(value):
        raise _refuse("XMAILBOX")


def _hold_for(value: str) -> None:
    # RFC 4865 4: one to nine digits, no leading zero.
    if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise _refuse("HOLDFOR")


def _hold_until(value: str) -> None:
    if date_time(value) is None:
        raise _refuse("HOLDUNTIL")


MAIL_PARAMETERS: Mapping[str, Callable[[str], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "SMTPUTF8": _smtputf8,
    "RET": _ret,
    "ENVID": _envid,
}
MAIL_PARAMETERS_AUTH: Mapping[str, Callable[[str], None]] = {**MAIL_PARAMETERS, "AUTH": _auth}
MAIL_PARAMETERS_HOLD: Mapping[str, Callable[[str], None]] = {"HOLDFOR": _hold_for, "HOLDUNTIL": _hold_until}
RCPT_PARAMETERS: Mapping[str, Callable[[str], None]] = {"NOTIFY": _notify, "ORCPT": _orcpt}
RCPT_PARAMETERS_OWN: Mapping[str, Callable[[str], None]] = {**RCPT_PARAMETERS, "XMAILBOX": _kept_in}


def printable(text: str) -> bool:
    return all(" " <= char <= "~" for char in text)


def xtext(value: str) -> str | None:
    """Decode xtext (RFC 3461 4); None when it is none. Octets above 127 are read as UTF-8, else Latin-1."""
    try:
        raw = value.encode("ascii")
    except UnicodeEncodeError:
        return None
    if not _XTEXT.fullmatch(raw):
        return None
    decoded = XCHAR.sub(lambda found: bytes((int(found[1], 16),)), raw)
    try:
        return decoded.decode("utf-8")
    except UnicodeDecodeError:
        return decoded.decode("latin-1")


def mail_parameters(config: SmtpConfig) -> Mapping[str, Callable[[str], None]]:
    """The parameters of MAIL that this door offers."""
    checks = MAIL_PARAMETERS_AUTH if config.auth else MAIL_PARAMETERS
    if config.prdr:
        checks = {**checks, "PRDR": _prdr}
    if config.requiretls:
        checks = {**checks, "REQUIRETLS": _require_tls}
    return {**checks, **MAIL_PARAMETERS_HOLD} if config.hold_limit else checks


def date_time(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 date-time with its zone (RFC 4865 and erratum 2040); None when it is none."""
    if not _DATE_TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def held_until(params: Mapping[str, str], now: float) -> float:
    """When a message may be released (RFC 4865), in seconds since the epoch; 0 when it need not wait."""
    if "HOLDFOR" in params:
        return now + int(params["HOLDFOR"])
    return (date_time(params["HOLDUNTIL"]) or 0.0) if "HOLDUNTIL" in params else 0.0


def check_hold(params: Mapping[str, str], limit: int, now: float) -> None:
    """RFC 4865 4: one of the two parameters, and not beyond what EHLO announced. Raises SyntaxFault."""
    if "HOLDFOR" in params and "HOLDUNTIL" in params:
        raise SyntaxFault(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")
    until = held_until(params, now)
    if until > now + limit:
        raise SyntaxFault(501, "5.5.4", f"The message may be held for {limit} seconds at most")
    if "HOLDUNTIL" in params and until < now:
        raise SyntaxFault(501, "5.5.4", "HOLDUNTIL has passed already")


def mail(argument: bytes, config: SmtpConfig, esmtp: bool) -> tuple[str, dict[str, str]]:
    """The argument of MAIL: reverse path and parameters, checked against what is offered."""
    if argument[:5].upper() != b"FROM:":
        raise SyntaxFault(501, "5.5.4", "Syntax: MAIL FROM:<address>")
    reverse_path, rest = path(argument[5:].lstrip(b" "), config.limits, reverse=True)
    params: dict[str, str] = {}
    if rest:
        params = _extensions(rest, mail_parameters(config), esmtp)
    if "SMTPUTF8" not in params and not reverse_path.isascii():
        raise SyntaxFault(553, "5.6.7", "A UTF-8 address needs SMTPUTF8")
    if int(params.get("SIZE") or 0) > config.size_limit:
        raise SyntaxFault(552, "5.3.4", "Message size exceeds the limit")
    return reverse_path, params


def rcpt(
    argument: bytes, limits: SmtpLimits, esmtp: bool, utf8: bool, mailbox: bool = False
) -> tuple[str, dict[str, str]]:
    """The argument of RCPT: forward path and parameters. ``utf8``: SMTPUTF8 came with MAIL; ``mailbox``: XMAILBOX is offered."""
    if argument[:3].upper() != b"TO:":
        raise SyntaxFault(501, "5.5.4", "Syntax: RCPT TO:<address>")
    forward_path, rest = path(argument[3:].lstrip(b" "), limits, reverse=False, utf8=utf8)
    checks = RCPT_PARAMETERS_OWN if mailbox else RCPT_PARAMETERS
    return forward_path, _extensions(rest, checks, esmtp) if rest else {}


def bdat(argument: bytes) -> tuple[int, bool] | None:
    """(octets, LAST) of BDAT (RFC 3030 2), None when it is neither."""
    words = argument.split()
    if not 1 <= len(words) <= 2 or not words[0].isdigit() or len(words[0]) > 20:
        return None
    last = len(words) == 2
    if last and words[1].upper() != b"LAST":
        return None
    return int(words[0]), last


def _extensions(rest: bytes, checks: Mapping[str, Callable[[str], None]], esmtp: bool) -> dict[str, str]:
    if not esmtp and rest.strip():
        raise SyntaxFault(555, "5.5.4", "Parameters need EHLO")
    return parameters(rest, checks)
