"""Performs a result in the simulated server: stores into its mailboxes, sends into its outbox.

Specification: SIEVE.md section 1 (test_result_execute), RFC 5228 2.10 and 4, RFC 5429 2.1 (message disposition
notification), RFC 5230 5, RFC 5436 2.7, RFC 8580, RFC 5965. Invariants: what fails leaves one text in the error
log and, if it was a store, the message in INBOX; what was done once is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import assert_never

from rules import compose
from rules.actions import (
    Action,
    Discard,
    Fcc,
    FileInto,
    Keep,
    ListStore,
    Notify,
    Pipe,
    Quarantine,
    Redirect,
    Reject,
    Remember,
    Report,
    SetScore,
    Vacation,
)
from rules.context import Run
from rules.ext.extlists import list_name
from rules.ext.vnd_report import compose_report
from rules.mail.header import make_field
from rules.result import Result
from rules.testkit.bench import Bench
from rules.testkit.mailstore import INBOX, Sent, name_fault
from rules.testkit.settings import switch
from rules.view import crlf

POSTMASTER = "postmaster@example.com"
_HIDDEN = (Remember, SetScore, ListStore)


def names(result: Result) -> list[str]:
    """The names of the collected actions, in order, as ``test_result_action`` sees them."""
    return [_name(action) for action in result.actions if not isinstance(action, _HIDDEN)]


def _name(action: Action) -> str:
    match action:
        case FileInto():
            return "store"
        case Reject():
            return "ereject" if action.ereject else "reject"
        case _:
            return type(action).__name__.lower()


def append(result: Result, later: Result) -> None:
    """Adds what a further script decided: duplicates and conflicts with what earlier scripts did pass in silence."""
    for action in later.actions:
        refused = any(isinstance(other, Reject) for other in result.actions)
        if isinstance(action, Reject):
            if not refused:
                result.actions.append(action)
        elif isinstance(action, Vacation):
            if not refused and not any(isinstance(other, Vacation) for other in result.actions):
                result.actions.append(action)
        elif not refused:
            result.add(action)
    result.implicit_keep = result.implicit_keep and later.implicit_keep
    result.marks |= later.marks


def source(bench: Bench, run: Run) -> Run:
    """The run whose flags and message the collected result goes with."""
    return bench.inner if bench.inner is not None and bench.inner.result is run.result else run


def execute(bench: Bench, run: Run) -> bool:
    """Performs the collected result, with the implicit keep; True when everything succeeded."""
    from_run = source(bench, run)
    result = run.result
    flags = from_run.flags or result.keep_flags or ()
    actions = list(result.actions)
    if result.implicit_keep and not any(isinstance(action, Keep | Reject) for action in actions):
        actions.append(Keep(flags, implicit=True, message=from_run.view.stored()))
    return Performer(bench, from_run).perform(actions)


class Performer:
    """Performs actions on one message."""

    def __init__(self, bench: Bench, run: Run) -> None:
        self.bench = bench
        self.run = run
        self.envelope = run.envelope
        self.ok = True

    def perform(self, actions: Sequence[Action]) -> bool:
        """Each action that was not done before, in order."""
        for action in actions:
            key = _key(action)
            if key in self.bench.done:
                continue
            self.bench.done.add(key)
            self._one(action)
        return self.ok

    def _one(self, action: Action) -> None:
        match action:
            case Keep():
                self.bench.store.store(INBOX, self._data(action.message), action.flags)
            case FileInto():
                self._file(action)
            case Redirect():
                self._redirect(action)
            case Reject():
                self._reject(action)
            case Vacation():
                self._vacation(action)
            case Notify():
                self._notify(action)
            case Report():
                self._report(action)
            case Remember():
                self._remember(action.key, action.seconds)
            case Pipe():
                self._pipe(action)
            case Discard() | SetScore() | ListStore() | Quarantine():
                pass
            case _:
                assert_never(action)

    def _pipe(self, action: Pipe) -> None:
        answer = self.bench.execute(action.program, action.arguments, self._data(action.message))
        if (answer is None or answer[0] != 0) and not action.attempt:
            why = "no such program" if answer is None else f"exit status {answer[0]}"
            self._fail(f"failed to pipe message to program '{action.program}': {why}")

    def _data(self, edited: bytes | None) -> bytes:
        return crlf(self.run.message.data) if edited is None else edited

    def _fail(self, text: str) -> None:
        self.bench.errors.append(text)
        self.ok = False

    # -- stores -----------------------------------------------------------------------------------------

    def _file(self, action: FileInto) -> None:
        mailbox = action.mailbox
        if action.mailbox_id and action.mailbox_id in self.bench.store.ids:
            mailbox = self.bench.store.ids[action.mailbox_id]
        elif action.special_use and self.bench.store.special_uses.get(action.special_use.lower()):
            mailbox = self.bench.store.special_uses[action.special_use.lower()]
        self._store(mailbox, self._data(action.message), action.flags, create=action.create)
        if action.special_use and action.create:
            self.bench.store.special_uses.setdefault(action.special_use.lower(), mailbox)

    def _store(self, mailbox: str, data: bytes, flags: tuple[str, ...], *, create: bool) -> None:
        store = self.bench.store
        fault = name_fault(mailbox)
        if fault is None and not store.exists(mailbox) and create:
            store.create(mailbox)
        if fault is None and not store.exists(mailbox):
            fault = "mailbox doesn't exist"
        if fault is not None:
            self._fail(f"failed to store into mailbox '{mailbox}': {fault}: {mailbox}")
            if _key(Keep()) not in self.bench.done:  # RFC 5228 2.10.6: the message as it came is kept
                self.bench.done.add(_key(Keep()))
                store.store(INBOX, self._data(None), ())
            return
        store.store(mailbox, data, flags)

    def _copy(self, fcc: Fcc | None, message: bytes) -> None:
        """RFC 8580: the copy of a generated message."""
        if fcc is None:
            return
        mailbox = fcc.mailbox
        if fcc.special_use:
            mailbox = self.bench.store.special_uses.get(fcc.special_use.lower(), mailbox)
        if not self.bench.store.exists(mailbox) and not fcc.create:
            self._fail(f"failed to store into mailbox '{mailbox}': mailbox doesn't exist: {mailbox}")
            return
        self.bench.store.create(mailbox)
        self.bench.store.store(mailbox, message, fcc.flags)

    # -- mail -------------------------------------------------------------------------------------------

    def _send(self, sender: str, recipient: str, data: bytes) -> None:
        self.bench.outbox.append(Sent(sender, recipient, data))

    def _owner(self) -> str:
        return self.bench.user_email() or self.envelope.rcpt_to

    def _sender_by(self, setting: str, default: str) -> str:
        """An envelope sender as ``sieve_redirect_envelope_from`` and its like say it."""
        envelope = self.envelope
        said = self.bench.config.get(setting, "").strip()
        match said:
            case "" | "default":
                return default
            case "sender":
                return envelope.mail_from
            case "recipient":
                return envelope.rcpt_to
            case "orig_recipient":
                return envelope.orig_to or envelope.rcpt_to
            case "user_email":
                return self._owner()
            case "postmaster":
                return POSTMASTER
            case _:
                return said.strip("<> ")

    def _redirect(self, action: Redirect) -> None:
        mark = self._owner().strip("<>")
        passed = {value.strip().strip("<>").lower() for value in self._marks()}
        if {mark.lower(), self.envelope.rcpt_to.strip("<>").lower()} & passed:
            if not action.copy:  # a loop: sent on, it would come back; it is kept instead
                self._store(INBOX, self._data(action.message), (), create=False)
            return
        null = not self.envelope.mail_from.strip().strip("<>")
        sender = "" if null else self._sender_by("sieve_redirect_envelope_from", self.envelope.mail_from)
        fields = make_field(b"X-Sieve", compose.PRODUCT)
        fields += make_field(b"X-Sieve-Redirected-From", mark.encode("utf-8", "replace"))
        data = fields + self._data(action.message)
        mail, rcpt = _parameters(action)
        for recipient in self._recipients(action):
            self.bench.outbox.append(Sent(sender.strip("<>"), recipient, data, mail, rcpt))

    def _marks(self) -> Sequence[str]:
        return self.run.view.values(b"x-sieve-redirected-from")

    def _recipients(self, action: Redirect) -> list[str]:
        if action.list_name is None:
            return [action.address]
        wanted = list_name(action.list_name)
        for name in self.bench.config.get("sieve_extlists_list", "").split():
            if list_name(self.bench.config.get(f"sieve_extlists_list/{name}/name", name)) == wanted:
                return self.bench.config.get(f"sieve_extlists_list/{name}/members", "").split()
        return []

    def _generated(self, fields: list[tuple[bytes, bytes]], body: bytes) -> bytes:
        return compose.build(fields, self.bench.now(), self.bench.new_message_id(), body)

    def _reject(self, action: Reject) -> None:
        sender = self.envelope.mail_from.strip().strip("<>")
        if not sender:
            return  # the null reverse-path is never answered
        head, text = compose.body_fields(action.reason)
        boundary = b"svtest-report"
        recipient = self.envelope.rcpt_to.strip("<>").encode("utf-8", "replace")
        part = b"".join(make_field(name, value) for name, value in head[1:]) + b"\r\n" + text
        notification = (
            b"Content-Type: message/disposition-notification\r\n\r\n"
            b"Final-Recipient: rfc822; " + recipient + b"\r\n"
            b"Disposition: automatic-action/MDN-sent-automatically; deleted\r\n"
        )
        pieces = [
            part,
            notification,
            b"Content-Type: message/rfc822\r\n\r\n" + crlf(self.run.message.data),
        ]
        body = b"".join(b"--" + boundary + b"\r\n" + piece + b"\r\n" for piece in pieces)
        fields = [
            (b"From", b"Postmaster <" + POSTMASTER.encode() + b">"),
            (b"To", b"<" + sender.encode("utf-8", "replace") + b">"),
            (b"Subject", b"Rejected: " + (self.run.view.header.first(b"subject") or b"")),
            (b"Auto-Submitted", b"auto-replied (rejected)"),
            (b"MIME-Version", b"1.0"),
            (
                b"Content-Type",
                b'multipart/report; report-type=disposition-notification; boundary="' + boundary + b'"',
            ),
        ]
        self._send("", sender, self._generated(fields, body + b"--" + boundary + b"--\r\n"))

    def _vacation(self, action: Vacation) -> None:
        sender = ""
        if switch(self.bench.config.get("sieve_vacation_send_from_recipient")):
            sender = self.envelope.rcpt_to.strip("<>")
        self._send(sender, action.to, action.message)
        self._copy(action.fcc, action.message)
        self._remember(action.memory_key, action.memory_seconds)

    def _notify(self, action: Notify) -> None:
        if action.message is None:
            return
        chosen = POSTMASTER if action.sender in ("", self.envelope.rcpt_to.strip("<>")) else action.sender
        sender = self._sender_by("sieve_notify_mailto_envelope_from", chosen) if action.sender else ""
        for recipient in action.recipients:
            self._send(sender, recipient, action.message)
        self._copy(action.fcc, action.message)

    def _report(self, action: Report) -> None:
        report = compose_report(
            action,
            self.run.message.data,
            self.envelope,
            sender=self._sender_by("sieve_report_from", POSTMASTER),
            moment=self.bench.now(),
            message_id=self.bench.new_message_id(),
            user=self._owner().strip("<>"),
        )
        self._send("", action.to, report)

    def _remember(self, key: bytes, seconds: int) -> None:
        if switch(self.bench.config.get("filterd_memory")):
            self.bench.memory[key] = self.bench.now() + timedelta(seconds=min(seconds, 10**8))


def _parameters(action: Redirect) -> tuple[dict[str, str], dict[str, str]]:
    """The ESMTP parameters that a redirect asks for (RFC 6009), of MAIL and of RCPT."""
    mail: dict[str, str] = {}
    if action.ret is not None:
        mail["RET"] = action.ret
    if action.by_time is not None:
        mail["BY"] = f"{action.by_time};{action.by_mode or 'R'}{'T' if action.by_trace else ''}"
    return mail, {} if action.notify is None else {"NOTIFY": action.notify}


def _key(action: Action) -> tuple[object, ...]:
    """What makes an action the same as one that was done already."""
    match action:
        case Keep():
            return ("store", INBOX)
        case FileInto():
            return (
                "store",
                "INBOX" if action.mailbox.upper() == INBOX else action.mailbox,
                action.special_use,
            )
        case Redirect():
            return ("redirect", action.address.lower(), action.list_name)
        case Reject():
            return ("reject",)
        case Vacation():
            return ("vacation", action.to.lower())
        case Notify():
            return ("notify", action.method, action.recipients, action.body, action.subject)
        case Remember():
            return ("remember", action.key)
        case Report():
            return ("report", action.to, action.feedback_type)
        case Pipe():
            return ("pipe", action.program, action.arguments)
        case _:
            return (_name(action), repr(action))
