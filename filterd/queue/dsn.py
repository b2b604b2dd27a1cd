"""Delivery status notifications (RFC 3464, RFC 3461, RFC 6522): failure, delay, success (relayed).

Invariant: only ever made for a non-null reverse-path, always sent with the null one; ``NOTIFY`` is honoured by the caller through
``wanted``. The original comes back as its header, or whole when RET=FULL asked for it and it is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate

FULL_LIMIT = 100_000  # RET=FULL above this returns the header only


def wanted(params: Mapping[str, str], event: str) -> bool:
    """Does NOTIFY ask for this ``event`` (FAILURE, DELAY, SUCCESS)? Without NOTIFY: failures and delays (RFC 3461 4.1)."""
    notify = params.get("NOTIFY", "")
    if not notify:
        return event in ("FAILURE", "DELAY")
    return event in notify.upper().split(",")


def xtext(text: str) -> str:
    """RFC 3461 4: undo xtext (``+2B``)."""
    out, at = [], 0
    while at < len(text):
        if text[at] == "+" and len(text) >= at + 3:
            try:
                out.append(chr(int(text[at + 1 : at + 3], 16)))
                at += 3
                continue
            except ValueError:
                pass
        out.append(text[at])
        at += 1
    return "".join(out)


TEXTS = {
    "failed": "Your message could not be delivered to",
    "delayed": "Your message could not be delivered yet; we keep trying, there is nothing you need to do. It waits for",
    "relayed": "Your message was handed to a mail server that does not confirm delivery, for",
}


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
) -> bytes:
    """The whole notification (CRLF). ``action``: failed, delayed or relayed; ``status`` like ``5.1.1``."""
    boundary = f"=_{message_id.partition('@')[0]}"
    subject = {
        "failed": "Undelivered mail returned to sender",
        "delayed": "Delayed mail (still being tried)",
        "relayed": "Mail relayed",
    }
    words = " ".join(diagnostic.split())[:900]
    orcpt = xtext(params.get("ORCPT", ""))
    head, sep, _ = original.partition(b"\r\n\r\n")
    whole = params.get("RET") == "FULL" and action == "failed" and len(original) <= FULL_LIMIT
    eight = b"" if (original if whole else head).isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    kind = b"message/rfc822" if whole else b"text/rfc822-headers"
    returned = original if whole else head + sep
    lines = [
        f"Date: {formatdate(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{reverse_path}>",
        f"Subject: {subject[action]}",
        f"Message-ID: <{message_id}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=utf-8",
        "",
        f"This is the mail system at {hostname}.",
        "",
        f"{TEXTS[action]}",
        "",
        f"    <{recipient}>",
        "",
        f"The reason given{f' by {remote}' if remote else ''}:",
        "",
        f"    {words}",
        "",
        f"--{boundary}",
        "Content-Type: message/delivery-status",
        "",
        f"Reporting-MTA: dns; {hostname}",
        *([f"Original-Envelope-Id: {xtext(params['ENVID'])}"] if params.get("ENVID") else []),
        *([f"Arrival-Date: {formatdate(arrival)}"] if arrival else []),
        "",
        *([f"Original-Recipient: {orcpt}"] if ";" in orcpt else []),
        f"Final-Recipient: rfc822; {recipient}",
        f"Action: {action}",
        f"Status: {status}",
        *([f"Remote-MTA: dns; {remote}"] if remote else []),
        f"Diagnostic-Code: smtp; {words}",
        f"Last-Attempt-Date: {formatdate(now)}",
        "",
        f"--{boundary}",
    ]
    body = "\r\n".join(lines).encode() + b"\r\nContent-Type: " + kind + b"\r\n" + eight + b"\r\n" + returned
    return body + b"\r\n--" + boundary.encode() + b"--\r\n"


def status_of(reply_text: str, permanent: bool) -> str:
    """The enhanced code of a remote reply, or a general one."""
    for word in reply_text.split()[:3]:
        parts = word.split(".")
        if len(parts) == 3 and all(part.isdigit() for part in parts) and parts[0] in ("2", "4", "5"):
            return word
    return "5.0.0" if permanent else "4.0.0"
