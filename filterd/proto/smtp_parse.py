"""The grammar of SMTP commands: paths, parameters, names.

Specification: RFC 5321 4.1.2 and 4.1.3 (paths, address literals), RFC 6531 3.3 (UTF-8), RFC 1870 (SIZE), RFC 6152
(BODY), RFC 3461 (RET, ENVID, NOTIFY, ORCPT, xtext), RFC 4954 5 (AUTH=). Complete: yes, but no quoted controls.

All functions take the octets of a command line without CR LF and raise ``SyntaxFault`` with the reply to send. Source
routes are read and dropped (RFC 5321 appendix C); ``%`` and ``!`` in local parts mean nothing here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

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
_HELO = re.compile(rb"[A-Za-z0-9._\-:\[\]\x80-\xff]{1,255}")
_PARAM = re.compile(rb"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([!-<>-~\x80-\xff]+))?")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_XCHAR = re.compile(rb"\+([0-9A-Fa-f]{2})")


def helo_name(argument: bytes) -> str:
    """The argument of HELO, EHLO, LHLO: a domain or address literal, believed as little as RFC 5321 4.1.4 asks."""
    if not argument:
        raise SyntaxFault(501, "5.5.4", "A domain name is needed")
    if not _HELO.fullmatch(argument):
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
        or not _printable(decoded)
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


MAIL_PARAMETERS: Mapping[str, Callable[[str], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "SMTPUTF8": _smtputf8,
    "RET": _ret,
    "ENVID": _envid,
}
MAIL_PARAMETERS_AUTH: Mapping[str, Callable[[str], None]] = {**MAIL_PARAMETERS, "AUTH": _auth}
RCPT_PARAMETERS: Mapping[str, Callable[[str], None]] = {"NOTIFY": _notify, "ORCPT": _orcpt}


def _printable(text: str) -> bool:
    return all(" " <= char <= "~" for char in text)


def xtext(value: str) -> str | None:
    """Decode xtext (RFC 3461 4); None when it is none. Octets above 127 are read as UTF-8, else Latin-1."""
    try:
        raw = value.encode("ascii")
    except UnicodeEncodeError:
        return None
    if not _XTEXT.fullmatch(raw):
        return None
    decoded = _XCHAR.sub(lambda found: bytes((int(found[1], 16),)), raw)
    try:
        return decoded.decode("utf-8")
    except UnicodeDecodeError:
        return decoded.decode("latin-1")


def mail(argument: bytes, config: SmtpConfig, esmtp: bool) -> tuple[str, dict[str, str]]:
    """The argument of MAIL: reverse path and parameters, checked against what is offered."""
    if argument[:5].upper() != b"FROM:":
        raise SyntaxFault(501, "5.5.4", "Syntax: MAIL FROM:<address>")
    reverse_path, rest = path(argument[5:].lstrip(b" "), config.limits, reverse=True)
    params: dict[str, str] = {}
    if rest:
        params = _extensions(rest, MAIL_PARAMETERS_AUTH if config.auth else MAIL_PARAMETERS, esmtp)
    if "SMTPUTF8" not in params and not reverse_path.isascii():
        raise SyntaxFault(553, "5.6.7", "A UTF-8 address needs SMTPUTF8")
    if int(params.get("SIZE") or 0) > config.size_limit:
        raise SyntaxFault(552, "5.3.4", "Message size exceeds the limit")
    return reverse_path, params


def rcpt(argument: bytes, limits: SmtpLimits, esmtp: bool, utf8: bool) -> tuple[str, dict[str, str]]:
    """The argument of RCPT: forward path and parameters. ``utf8``: SMTPUTF8 was given with MAIL."""
    if argument[:3].upper() != b"TO:":
        raise SyntaxFault(501, "5.5.4", "Syntax: RCPT TO:<address>")
    forward_path, rest = path(argument[3:].lstrip(b" "), limits, reverse=False, utf8=utf8)
    return forward_path, _extensions(rest, RCPT_PARAMETERS, esmtp) if rest else {}


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


_XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")


def xclient(argument: bytes) -> dict[str, str]:
    """Attributes of XCLIENT, decoded and checked; "" for [UNAVAILABLE] and [TEMPUNAVAIL]; addresses without "IPV6:"."""
    facts: dict[str, str] = {}
    for token in argument.split():
        raw_name, equals, raw_value = token.partition(b"=")
        name = raw_name.decode("latin-1").upper()
        if not equals or name not in _XCLIENT_NAMES:
            raise SyntaxFault(501, "5.5.4", "Bad XCLIENT attribute")
        # Some clients write the hex of xtext in lower case: it is read in any case.
        value = xtext(_XCHAR.sub(lambda found: found[0].upper(), raw_value).decode("latin-1"))
        if value is None or (not _printable(value) and name != "LOGIN"):
            raise SyntaxFault(501, "5.5.4", f"Bad value of {name}")
        if value.upper() in ("[UNAVAILABLE]", "[TEMPUNAVAIL]"):
            value = ""
        facts[name] = _xclient_value(name, value)
    if not facts:
        raise SyntaxFault(501, "5.5.4", "XCLIENT needs attributes")
    return facts


def _xclient_value(name: str, value: str) -> str:
    bad = SyntaxFault(501, "5.5.4", f"Bad value of {name}")
    if name in ("ADDR", "DESTADDR") and value:
        if value[:5].upper() == "IPV6:":
            value = value[5:]
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            raise bad from None
        mapped = address.ipv4_mapped if address.version == 6 else None
        return str(mapped or address)
    if name in ("PORT", "DESTPORT") and value:
        if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) < 65536):
            raise bad
    if name == "PROTO":
        value = value.upper()
        if value not in ("", "SMTP", "ESMTP"):
            raise bad
    if name in ("HELO", "NAME") and value and not _HELO.fullmatch(value.encode("utf-8")):
        raise bad
    return value
