"""Delivery status notifications: failure, delay, success (delivered here, or relayed to a host that reports nothing).

Specification: RFC 3464 (message/delivery-status), RFC 3461 (NOTIFY, RET, ENVID, ORCPT), RFC 6522 (multipart/report), RFC 6533
(international addresses, in their 7-bit form; message/global-headers). Complete: yes, except that there is one notification a
recipient.

Invariants: only ever made for a non-null reverse-path, always sent with the null one; ``NOTIFY`` is honoured by the caller
through ``wanted``. The original comes back as its header, or whole when RET=FULL asked for it and it is small. Nothing that
came from outside can begin a line of its own: control characters become blanks, delivery-status fields are ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate

FULL_LIMIT = 100_000  # octets; RET=FULL above this returns the header only
HEADER_LIMIT = 65_536  # of a returned header
DIAGNOSTIC_LIMIT = 900  # keeps lines below 998 octets
ENHANCED = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])", re.A)
CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
XTEXT = re.compile(r"\+([0-9A-Fa-f]{2})")
UTF8_XTEXT = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")

SUBJECTS = {
    "failed": "Undelivered mail returned to sender",
    "delayed": "Delayed mail (still being tried)",
    "relayed": "Mail relayed",
    "delivered": "Mail delivered",
}
TEXTS = {
    "failed": "Your message could not be delivered to",
    "delayed": "Your message could not be delivered yet. We keep trying{until}; there is nothing you need to do.\r\nIt waits for",
    "relayed": "Your message was handed to a mail server that does not confirm delivery, for",
    "delivered": "Your message was delivered to",
}


def wanted(params: Mapping[str, str], event: str) -> bool:
    """Does NOTIFY ask for this ``event`` (FAILURE, DELAY, SUCCESS)? Without NOTIFY: failures and delays (RFC 3461 4.1)."""
    notify = params.get("NOTIFY", "")
    if not notify:
        return event in ("FAILURE", "DELAY")
    return event in notify.upper().split(",")


def never(params: Mapping[str, str]) -> bool:
    """NOTIFY=NEVER: nothing is told at all."""
    return params.get("NOTIFY", "").upper() == "NEVER"


def xtext(text: str) -> str:
    """RFC 3461 4: undo xtext (``+2B``)."""
    return XTEXT.sub(lambda found: chr(int(found[1], 16)), text)


def compose(
    *,
    hostname: str,
    action: str,
    reverse_path: str,
    recipient: str,
    status: str,
    diagnostic: str,
    original: bytes,
    params: Mapping[str, str],
    message_id: str,
    now: float,
    remote: str = "",
    arrival: float = 0.0,
    until: float = 0.0,
) -> bytes:
    """The whole notification (CRLF). ``action``: failed, delayed, relayed or delivered; ``status`` like ``5.1.1``;
    ``until``: when a delayed message is given up."""
    boundary = f"=_{message_id.partition('@')[0]}"
    words = _plain(diagnostic)[:DIAGNOSTIC_LIMIT]
    status = status if status[:1] != "2" or action in ("relayed", "delivered") else "4" + status[1:]
    machine = _status_fields(hostname, action, recipient, status, words, params, now, remote, arrival, until)
    head = [
        f"Date: {formatdate(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{_plain(reverse_path)}>",
        f"Subject: {SUBJECTS[action]}",
        f"Message-ID: <{message_id}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
        "",
        "This is a notification in MIME format.",
        f"--{boundary}",
        "Content-Description: Notification",
    ]
    told = _told(hostname, action, recipient, words, remote, until)
    report = ["Content-Description: Delivery report", "Content-Type: message/delivery-status", "", *machine]
    body = "\r\n".join([*head, *_text_part(told), f"--{boundary}", *report, f"--{boundary}", ""]).encode(
        "utf-8", "replace"
    )
    return body + _returned(original, params, action) + b"\r\n--" + boundary.encode() + b"--\r\n"


def _text_part(lines: list[str]) -> list[str]:
    """The part for people, with its header."""
    if all(line.isascii() for line in lines):
        return ["Content-Type: text/plain; charset=us-ascii", "", *lines]
    return ["Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", "", *lines]


def _told(hostname: str, action: str, recipient: str, words: str, remote: str, until: float) -> list[str]:
    limit = f" until {formatdate(until)}" if until else ""
    lines = [
        f"This is the mail system at {hostname}.",
        "",
        TEXTS[action].format(until=limit),
        "",
        f"    <{_plain(recipient)}>",
        "",
    ]
    if action == "failed" and words[:1] == "4":
        lines += ["We tried for as long as we keep mail; it is given up now.", ""]
    if words:
        lines += [f"The answer{f' of {_plain(remote)}' if remote else ''} was:", "", f"    {words}", ""]
    return lines


def _status_fields(
    hostname: str,
    action: str,
    recipient: str,
    status: str,
    words: str,
    params: Mapping[str, str],
    now: float,
    remote: str,
    arrival: float,
    until: float,
) -> list[str]:
    """RFC 3464 2.2 and 2.3, ASCII only."""
    envelope_id = _plain(xtext(params.get("ENVID", "")))
    original = _original_recipient(params.get("ORCPT", ""))
    fields = [
        f"Reporting-MTA: dns; {hostname}",
        *([f"Original-Envelope-Id: {envelope_id}"] if envelope_id else []),
        *([f"Arrival-Date: {formatdate(arrival)}"] if arrival else []),
        "",
        *([f"Original-Recipient: {original}"] if original else []),
        f"Final-Recipient: {_typed(recipient)}",
        f"Action: {action}",
        f"Status: {status}",
        *([f"Remote-MTA: dns; {_host(remote)}"] if remote else []),
        *([f"Diagnostic-Code: smtp; {words}"] if words and action in ("failed", "delayed") else []),
        f"Last-Attempt-Date: {formatdate(now)}",
        *([f"Will-Retry-Until: {formatdate(until)}"] if until and action == "delayed" else []),
        "",
    ]
    return [line.encode("ascii", "backslashreplace").decode() for line in fields]


def _host(name: str) -> str:
    """A host's name; an address as a literal (RFC 5321 4.1.3)."""
    plain = _plain(name)
    bare = plain.replace(".", "").isdigit() or ":" in plain
    return f"[{plain}]" if bare and not plain.startswith("[") else plain


def _original_recipient(orcpt: str) -> str:
    """What the sender called it (RFC 3461 4.2); RFC 6533 3 for ``utf-8;``."""
    kind, separator, address = orcpt.partition(";")
    if not separator or not kind:
        return ""
    if kind.lower() == "utf-8":
        address = UTF8_XTEXT.sub(lambda found: chr(min(int(found[1], 16), 0x10FFFF)), address)
        return _typed(_plain(address.encode("utf-8", "replace").decode()))
    return f"{_plain(kind)}; {_plain(xtext(address))}"


def _typed(address: str) -> str:
    """``rfc822; address``, or ``utf-8;`` with utf-8-addr-xtext (RFC 6533 3)."""
    plain = _plain(address)
    if plain.isascii():
        return f"rfc822; {plain}"
    coded = "".join(c if c.isascii() and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in plain)
    return f"utf-8; {coded}"


def _returned(original: bytes, params: Mapping[str, str], action: str) -> bytes:
    """The third part with its header (RFC 3461 4.3: RET concerns failures only)."""
    whole = params.get("RET", "").upper() == "FULL" and action == "failed" and len(original) <= FULL_LIMIT
    whole = whole and "REQUIRETLS" not in params  # RFC 8689 5: as if RET=HDRS
    head = _header(original)
    if _international(head):  # RFC 6533 4: as the types for mail with international header fields
        kind, text = (b"message/global", original) if whole else (b"message/global-headers", head)
    else:
        kind, text = (b"message/rfc822", original) if whole else (b"text/rfc822-headers", head)
    eight = b"" if text.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return (
        b"Content-Description: Original message\r\nContent-Type: " + kind + b"\r\n" + eight + b"\r\n" + text
    )


def _international(head: bytes) -> bool:
    """Has it fields of RFC 6532?"""
    try:
        return not head.isascii() and bool(head.decode())
    except UnicodeDecodeError:
        return False


def _header(original: bytes) -> bytes:
    """The header, whole fields up to HEADER_LIMIT octets."""
    end = original.find(b"\r\n\r\n")
    head = original[: end + 2] if end >= 0 else original
    if len(head) > HEADER_LIMIT:
        head = head[: head.rfind(b"\r\n", 0, HEADER_LIMIT) + 2]
    return head


def _plain(text: str) -> str:
    """One line without control characters."""
    return " ".join(CONTROL.sub(" ", text).split())


def status_of(reply_text: str, code: int | bool) -> str:
    """The enhanced code of a remote reply when it fits its ``code``, or a general one. ``reply_text``: a line each; Cyrus says
    the code in the last one only."""
    first = {True: "5", False: "4"}[code] if isinstance(code, bool) else str(code)[:1]
    begin, *more = reply_text.split("\n")
    for found in (ENHANCED.search(begin[:40]), *map(ENHANCED.match, more)):
        if found and found[1] == first:
            return found[0]
    return f"{first}.0.0"
