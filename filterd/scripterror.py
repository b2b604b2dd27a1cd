"""Tells the owner of a script that failed, once: a message of our own in INBOX, beside the mail that was kept.

The same fault of the same script is told again only after AGAIN_SECONDS (Sieve state of the account, as vacation's memory).
The notice has no answer address of a stranger and is never seen by a script.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from email.utils import make_msgid

from rules import compose
from rules.actions import Place
from rules.mail import words

AGAIN_SECONDS = 30 * 86_400


def key(script_digest: str, error: str, place: Place | None) -> bytes:
    """What is remembered: this fault of this script. Its place tells it from others, for the text of an error may be a
    stranger's and differ from mail to mail; where no place is to blame (a budget of the run, a script that does not
    compile) the text is ours.
    """
    fault = f"{place.script}:{place.line}" if place is not None else error
    text = f"script-error\0{script_digest}\0{fault}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def notice(account: str, script: str, error: str, about: str, hostname: str, at: float) -> bytes:
    """The message. ``about``: which mail it happened with, "" when that says nothing."""
    name = f' "{script}"' if script else ""
    lines = [
        f"Your filter script{name} failed, and the message was kept in INBOX:",
        "",
        f"    {error}",
        "",
        *([f"It happened with: {about}", ""] if about else []),
        "Messages are kept as long as the script fails like this; you are told once.",
        "Correct the script and upload it again (or make another one active). To see what happened:",
        "    filterd explain (the X-Filterd-Trace of the message)",
    ]
    fields, body = compose.body_fields("\r\n".join(lines))
    head = [
        (b"From", compose.mailbox_field("Mail filter", f"postmaster@{account.rpartition('@')[2]}")),
        (b"To", f"<{account}>".encode("ascii", "replace")),
        (b"Subject", words.encode_text(f"Your filter script{name} failed")),
        (b"Auto-Submitted", b"auto-generated"),
        *fields,
    ]
    moment = datetime.fromtimestamp(at, UTC).astimezone()
    return compose.build(head, moment, make_msgid(domain=hostname).strip("<>"), body)
