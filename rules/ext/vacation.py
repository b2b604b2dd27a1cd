"""vacation, vacation-seconds: answers to people while the owner is away.

Specification: RFC 5230, RFC 6131, RFC 3834. Complete: yes. An answer goes to the envelope sender only, with
the null reverse-path, and only when every condition holds that can be judged here; the trace says which one
did not. The owner's addresses are those the host knows (aliases included), the envelope recipient, and
:addresses; details (user+detail) do not count. When the host says that the message came by a catch-all or
group path (``vnd.filterd.recipient-path``) there is no answer. A further vacation in a later script of the
chain is left out; a second one in the same script is an error (4.7).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rules import compose
from rules.actions import Reject, Vacation
from rules.bound import Text
from rules.errors import RunError
from rules.ext.actions import is_address, options, the_address
from rules.ext.subaddress import split_detail
from rules.mail import address, words
from rules.match import expand
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec
from rules.variables import Template

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_DAY = 86_400
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": _DAY, "w": 7 * _DAY}
_LIST_FIELDS = (
    b"list-id",
    b"list-help",
    b"list-subscribe",
    b"list-unsubscribe",
    b"list-post",
    b"list-owner",
    b"list-archive",
)
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc", b"resent-to", b"resent-cc", b"resent-bcc")
_ROBOTS = frozenset(
    ["mailer-daemon", "listserv", "majordomo", "noreply", "no-reply", "donotreply", "do-not-reply"]
)
_SUBJECT = re.compile(r"%\$|%\{subject\}")
_SUPPRESS = frozenset(("all", "oof", "autoreply"))


def _check(checker: Checker, bound: Bound) -> None:
    sender = bound.tag_text("from")
    if isinstance(sender, str) and not _is_mailbox_list(sender):
        message = f'":from" must be an address, not "{sender[:60]}"'
        checker.error(
            checker.where_tag(bound, "from"), "address", message, 'write "Name <user@domain.example>"'
        )
    for item, text in enumerate(bound.tag_texts("addresses") or ()):
        if isinstance(text, str) and not is_address(text):
            place = checker.where_tag(bound, "addresses", item)
            checker.error(place, "address", f'"{text[:60]}" is not an address', "write user@domain.example")
    reason = bound.text(0)
    if bound.has("mime") and isinstance(reason, str) and compose.entity(reason) is None:
        message = "with :mime the text must begin with MIME header fields, in ASCII, and an empty line"
        checker.error(checker.where(bound, 0), "mime", message, "Content-Type: text/html; charset=utf-8")
    seconds = bound.tag_number("seconds")
    if seconds is not None and seconds >= 2**31:
        checker.error(
            checker.where_tag(bound, "seconds"), "number-size", ":seconds must be less than 2147483648"
        )
    if bound.tag_number("days") == 0:
        checker.warn(checker.where_tag(bound, "days"), "days", ":days 0 counts as 1", "use vacation-seconds")


def _is_mailbox_list(text: str) -> bool:
    if is_address(text):
        return True
    parsed = address.parse_list(text.encode("utf-8", "replace"))
    return len(parsed.items) > 1 and all(is_address(box.address) for box in parsed.mailboxes)


def _source(text: Text | None) -> str | None:
    """RFC 5230 4.2: tracking goes by the arguments as they are written, before variables."""
    return text.source if isinstance(text, Template) else text


def memory_key(handle: str | None, pieces: Iterable[str | None], sender: str) -> bytes:
    """What is remembered of an answer: its handle, or its arguments, and whom it went to."""
    digest = hashlib.sha256(b"vacation")
    for piece in ("h" + handle,) if handle is not None else pieces:
        octets = b"" if piece is None else b"=" + piece.encode("utf-8", "surrogatepass")
        digest.update(len(octets).to_bytes(8, "big") + octets)
    digest.update(sender.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _plain(text: str, separators: str) -> str:
    """An address for comparison: lower case, without its detail."""
    local, domain = address.split(text.strip())
    return f"{split_detail(local.lower(), separators)[0]}@{domain.lower()}"


def _unwanted(run: Run, sender: str, own: frozenset[str], separators: str) -> str | None:
    """Why this message is not to be answered, by what it is (RFC 5230 4.6, RFC 3834 2)."""
    if not sender:
        return "null reverse-path"
    if not is_address(sender):
        return "the sender is no address"
    if _plain(sender, separators) in own:
        return "own address"
    local = address.split(sender)[0].lower()
    if local in _ROBOTS or local.startswith("owner-") or local.endswith(("-request", "-owner", "-bounces")):
        return f"the sender {sender} is a robot"
    view = run.view
    for name in _LIST_FIELDS:
        if view.exists(name):
            return f"{name.decode()} says it is from a mailing list"
    if view.automatic():
        return "Auto-Submitted says it is automatic"
    for value in view.values(b"precedence"):
        if value.lower() in ("bulk", "list", "junk"):
            return f"Precedence: {value}"
    for value in view.values(b"x-auto-response-suppress"):
        if _SUPPRESS & {word.strip().lower() for word in value.split(",")}:
            return "X-Auto-Response-Suppress"
    path = run.host.environment("vnd.filterd.recipient-path")
    return f"it came by a {path} address" if path in ("catch-all", "group") else None


def _addressed(run: Run, own: frozenset[str], separators: str) -> str | None:
    """The address in the header that makes the message one to the owner."""
    for name in _RECIPIENT_FIELDS:
        for box in run.view.addresses(name):
            if box.valid and _plain(box.address, separators) in own:
                return box.address
    return None


def _to_field(run: Run, sender: str) -> bytes:
    """To: the sender's mailbox, with the name the message gives it."""
    trusting = _switch(run, "vacation_to_header_ignore_envelope")
    for name in (b"sender", b"resent-from", b"from"):
        for box in run.view.addresses(name):
            if box.address.lower() == sender.lower() or (trusting and is_address(box.address)):
                return compose.mailbox_field(box.name, box.address)
    return compose.mailbox_field("", sender)


def _switch(run: Run, name: str) -> bool:
    return run.setting(name, "no").lower() in ("yes", "true", "1")


def _seconds(text: str, default: int) -> int:
    """A period as settings have it: a number with s, m, h, d or w."""
    number, unit = text[:-1], text[-1:].lower()
    if unit.isdigit():
        number, unit = text, "s"
    return int(number) * _UNITS[unit] if number.isdigit() and len(number) < 10 and unit in _UNITS else default


class _Answer:
    """One vacation command, linked."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        tags = ("subject", "from")
        self.pieces = [_source(bound.tag_text(tag)) for tag in tags]
        self.pieces += ["mime" if bound.has("mime") else None, _source(bound.text(0))]
        days, seconds = bound.tag_number("days"), bound.tag_number("seconds")
        self.default = seconds is None and days is None
        self.seconds = seconds if seconds is not None else _DAY * max(7 if days is None else days, 1)

    def act(self, run: Run) -> None:
        """Adds the answer to the result, or says in the trace why there is none."""
        self._once(run)
        why = self._refused(run)
        run.key = run.envelope.mail_from
        run.seen = why or "answer"

    def _once(self, run: Run) -> None:
        mark = ("vacation", run.script.name if run.script is not None else "main")
        if mark in run.result.marks:
            raise RunError("vacation may be executed only once (RFC 5230 4.7)")
        run.result.marks.add(mark)

    def _refused(self, run: Run) -> str | None:
        bound, host = self.bound, run.host
        if any(isinstance(action, Reject) for action in run.result.actions):
            raise RunError("vacation cannot be used together with reject (RFC 5429 2.4)")
        if any(isinstance(action, Vacation) for action in run.result.actions):
            return "another script of the chain has answered already"
        separators = run.setting("recipient_delimiter", "+")
        known = [*host.own_addresses(), run.envelope.rcpt_to]
        known += [
            the_address(text) for text in expand(run, bound.tag_texts("addresses") or ()) if is_address(text)
        ]
        owners = frozenset(_plain(one, separators) for one in known if one)
        every = owners
        if _switch(run, "vacation_use_original_recipient") and run.envelope.orig_to:
            every |= {_plain(run.envelope.orig_to, separators)}
        sender = run.envelope.mail_from.strip().strip("<>")
        if why := _unwanted(run, sender, every, separators):
            return why
        addressed = _addressed(run, every, separators)
        if addressed is None and run.setting("vacation_check_recipient", "yes") != "no":
            return "no own address in To or Cc"
        handle = bound.tag_text("handle")
        key = memory_key(None if handle is None else run.expand(handle), self.pieces, sender.lower())
        seconds = self._period(run)
        if seconds > 0 and host.seen(key):
            return "answered already within the period"
        owner = run.envelope.rcpt_to
        if addressed is not None and _plain(addressed, separators) in owners:
            owner = addressed  # RFC 5230 4.3: From is the address the message came to; one elsewhere is not ours to use
        self._compose(run, sender, owner if is_address(owner) else "", key, seconds)
        return None

    def _period(self, run: Run) -> int:
        """For how long the sender gets no further answer, in seconds."""
        wanted = self.seconds
        if self.default:
            wanted = _seconds(run.setting("vacation_default_period", ""), wanted)
        least = _seconds(run.setting("vacation_min_period", ""), 0)
        most = _seconds(run.setting("vacation_max_period", ""), run.limits.vacation_seconds)
        return min(max(wanted, least), most, run.limits.vacation_seconds)

    def _subject(self, run: Run) -> str:
        given = self.bound.tag_text("subject")
        if given is not None:
            return run.expand(given)
        original = run.view.values(b"subject")
        if not original or not original[0]:
            return run.setting("vacation_default_subject", "") or "Automated reply"
        template = run.setting("vacation_default_subject_template", "") or "Auto: %{subject}"
        # "%$" is what Pigeonhole 0.5 writes for the subject, "%{subject}" what 2.4 does.
        return _SUBJECT.sub(lambda found: original[0], template)

    def _compose(self, run: Run, sender: str, owner: str, key: bytes, seconds: int) -> None:
        bound = self.bound
        text = run.expand(bound.text(0))
        if len(text) > run.limits.reason:
            raise RunError(f"vacation: the text is longer than {run.limits.reason} characters")
        given = bound.tag_text("from")
        from_text = run.expand(given) if given is not None else owner
        if not _is_mailbox_list(from_text):
            from_text = owner or run.setting("postmaster", "postmaster@localhost")
        subject = compose.subject_text(self._subject(run), run.limits.subject)
        fields = [
            (b"From", compose.address_field(from_text)),
            (b"To", _to_field(run, sender)),
            (b"Subject", words.encode_text(subject)),
            *compose.thread_fields(
                run.view.header.get_all(b"message-id"),
                run.view.header.first(b"references") or b"",
                run.view.header.first(b"in-reply-to") or b"",
            ),
            (b"Auto-Submitted", b"auto-replied (vacation)"),
            (b"Precedence", b"bulk"),
            (b"X-Auto-Response-Suppress", b"All"),
        ]
        head = b""
        if bound.has("mime"):
            found = compose.entity(text)
            if found is None:
                raise RunError("vacation :mime: the text does not begin with MIME header fields")
            head, body = found
        else:
            mime_fields, body = compose.body_fields(text)
            fields += mime_fields
        message = compose.build(fields, run.host.now(), run.host.new_message_id(), body, entity_header=head)
        chosen = options(run, bound)
        place = run.place(bound)
        run.result.add(
            Vacation(sender, from_text, subject, text, message, key, seconds, fcc=chosen.fcc, place=place)
        )


def _vacation(bound: Bound) -> CommandFn:
    return _Answer(bound).act


_ON = ("vacation",)

EXTENSION = Extension(
    "vacation",
    ("vacation", "vacation-seconds"),
    dialect="RFC 5230, RFC 6131",
    implies=(("vacation-seconds", "vacation"),),
    commands=(
        CommandSpec(
            "vacation", _ON, (Param("reason", Kind.STRING),), check=_check, link=_vacation, keeps_message=True
        ),
    ),
    tags=(
        TagSpec("days", _ON, kind=Kind.NUMBER, group="period"),
        TagSpec("seconds", _ON, ("vacation-seconds",), Kind.NUMBER, group="period"),
        TagSpec("subject", _ON, kind=Kind.STRING),
        TagSpec("from", _ON, kind=Kind.STRING),
        TagSpec("addresses", _ON, kind=Kind.STRINGS),
        TagSpec("mime", _ON),
        TagSpec("handle", _ON, kind=Kind.STRING),
    ),
)
