"""vnd.dovecot.report: abuse reports.

Specification: spec-bosch-sieve-report, RFC 5965. Complete: yes. ``compose_report`` makes the mail out of the action. A
report never goes to the account itself; of several with the same type and recipient the first is sent; the keep is left
alone.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from rules import compose
from rules.actions import Report
from rules.errors import RunError
from rules.ext.actions import check_address, is_address, the_address
from rules.host import ScriptEnvelope
from rules.mail import words
from rules.mail.header import make_field, scan
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec
from rules.view import crlf

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]{1,100}")  # RFC 2045 5.1


def _check(checker: Checker, bound: Bound) -> None:
    kind = bound.text(0)
    if isinstance(kind, str) and not _TOKEN.fullmatch(kind):
        message = f'"{kind[:60]}" is not a feedback type'
        checker.error(checker.where(bound, 0), "feedback-type", message, 'write "abuse" or another token')
    check_address(checker, bound, 2)


def _report(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        kind, text, to = (run.expand(bound.text(index)) for index in range(3))
        run.seen, run.key = to, kind
        if not _TOKEN.fullmatch(kind):
            raise RunError(f'report: "{kind[:60]}" is not a feedback type')
        if not is_address(to):
            raise RunError(f'report: "{to[:60]}" is not an address')
        if len(text) > run.limits.reason:
            raise RunError(f"report: the text is longer than {run.limits.reason} characters")
        to = the_address(to)
        own = {one.lower() for one in (*run.host.own_addresses(), run.envelope.rcpt_to)}
        if to.lower() in own:
            run.seen = f"{to}: not sent, it is the account's own address"
            return
        told = [one for one in run.result.actions if isinstance(one, Report)]
        if any((one.feedback_type.lower(), one.to.lower()) == (kind.lower(), to.lower()) for one in told):
            run.seen = f"{to}: already reported"
            return
        if len(told) >= run.limits.notifies:
            raise RunError(f"a run may take at most {run.limits.notifies} report actions")
        run.result.add(Report(kind, text, to, bound.has("headers_only"), run.place(bound)))

    return act


def compose_report(
    action: Report,
    original: bytes,
    envelope: ScriptEnvelope,
    *,
    sender: str,
    moment: datetime,
    message_id: str,
    user: str = "",
) -> bytes:
    """The report as a whole mail (RFC 5965 2), CRLF. ``original`` is the message as received, ``user`` whose it is."""
    block = scan(original)
    shown, text = compose.body_fields(action.message_text)
    head = b"".join(make_field(name, value) for name, value in shown[1:])
    facts = [
        (b"Version", b"1"),
        (b"Feedback-Type", action.feedback_type.encode("ascii", "replace")),
        (b"User-Agent", compose.PRODUCT + b"/1"),
        (b"Original-Mail-From", b"<" + envelope.mail_from.strip("<> ").encode("utf-8", "replace") + b">"),
    ]
    if user:
        facts.append((b"Dovecot-Reporting-User", b"<" + user.encode("utf-8", "replace") + b">"))
    copy = crlf(original[: block.end] if action.headers_only else original)
    kind = b"text/rfc822-headers" if action.headers_only else b"message/rfc822"
    pieces = [
        head + b"Content-Disposition: inline\r\n\r\n" + text,
        b"Content-Type: message/feedback-report\r\n\r\n"
        + b"".join(make_field(name, value) for name, value in facts),
        b"Content-Type: " + kind + b"\r\nContent-Disposition: attachment\r\n\r\n" + copy,
    ]
    boundary, number = b"=_report_0", 0
    while any(boundary in piece for piece in pieces):
        number += 1
        boundary = b"=_report_%d" % number
    subject = words.decode(block.first(b"subject") or b"(no subject)")
    fields = [
        (b"From", compose.address_field(sender)),
        (b"To", compose.address_field(action.to)),
        (b"Subject", words.encode_text(compose.subject_text(f"Report: {subject}", 256))),
        (b"Auto-Submitted", b"auto-generated (report)"),
        (b"MIME-Version", b"1.0"),
        (b"Content-Type", b'multipart/report; report-type=feedback-report; boundary="' + boundary + b'"'),
    ]
    body = b"".join(b"--" + boundary + b"\r\n" + piece + b"\r\n" for piece in pieces)
    return compose.build(fields, moment, message_id, body + b"--" + boundary + b"--\r\n")


_NEEDS = ("vnd.dovecot.report",)

EXTENSION = Extension(
    "vnd_report",
    _NEEDS,
    dialect="spec-bosch-sieve-report, RFC 5965",
    commands=(
        CommandSpec(
            "report",
            _NEEDS,
            (
                Param("feedback type", Kind.STRING),
                Param("message", Kind.STRING),
                Param("address", Kind.STRING),
            ),
            check=_check,
            link=_report,
            keeps_message=True,
        ),
    ),
    tags=(TagSpec("headers_only", ("report",)),),
)
