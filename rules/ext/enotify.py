"""enotify and its method mailto: notifications.

Specification: RFC 5435, RFC 5436 (mailto), :encodeurl for set (RFC 5435 section 6). Complete: yes. The only
method is mailto; another one is an error when it is reached. Nothing is sent for messages that are themselves
automatic (5436 2.7), and to one address only once in a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rules import compose
from rules.actions import Notify
from rules.errors import RunError
from rules.ext.actions import is_address, options, the_address
from rules.ext.variables import modifier_tag
from rules.mail import words
from rules.match import expand, link_match
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):(.*)", re.DOTALL)
_URI = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HEADER = re.compile(r"[A-Za-z0-9\-]{1,60}")
_OPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*=[^\0\n\r]*")
# RFC 5436 2.7: unsafe, or made anew for the notification.
_UNSAFE = (
    "from sender reply-to return-path received auto-submitted date message-id bcc apparently-to resent-date "
    "resent-from resent-sender resent-to resent-cc resent-bcc resent-msg-id in-reply-to references mime-version "
    "x-sieve"
)
_IGNORED = frozenset(_UNSAFE.split(" "))
_MOST_RECIPIENTS = 8


@dataclass(slots=True)
class MailTo:
    """A taken apart mailto URI."""

    to: list[str]
    cc: list[str]
    subject: str | None
    body: str | None
    headers: list[tuple[str, str]]
    shown: dict[str, str] = field(default_factory=dict)  # an address with the name the URI gives it

    def line(self, addresses: list[str]) -> bytes:
        """These addresses as a header field shows them."""
        return compose.address_field(", ".join(self.shown.get(one, one) for one in addresses))

    @property
    def recipients(self) -> list[str]:
        """Everyone the notification goes to."""
        return list(dict.fromkeys(self.to + self.cc))


def parse_mailto(uri: str) -> MailTo | str:
    """The parts of a mailto URI (RFC 6068), or what is wrong with it."""
    found = _SCHEME.fullmatch(uri)
    if found is None:
        return f'"{uri[:60]}" is not a URI'
    if found[1].lower() != "mailto":
        return f'the notification method "{found[1][:20]}" is not supported'
    rest = found[2]
    if len(uri) > 4000 or not _URI.fullmatch(rest) or _BAD_ESCAPE.search(rest):
        return f'"{uri[:60]}" is not a valid mailto URI'
    path, _, query = rest.partition("?")
    mail = MailTo([], [], None, None, [])
    faults = [_take_addresses(mail, mail.to, unquote(piece)) for piece in path.split(",") if piece]
    for pair in query.split("&") if query else ():
        name, equals, raw = pair.partition("=")
        name, value = unquote(name).lower(), unquote(raw)
        if not equals or not _HEADER.fullmatch(name):
            return f'"{uri[:60]}" has an invalid header'
        if name in ("to", "cc"):
            faults.append(_take_addresses(mail, mail.to if name == "to" else mail.cc, value))
        elif name == "subject":
            mail.subject = value if mail.subject is None else mail.subject
        elif name == "body":
            mail.body = value if mail.body is None else mail.body
        elif name not in _IGNORED and not name.startswith("content-"):
            mail.headers.append((name, value))
    if any(faults):
        return f'"{uri[:60]}" holds something that is not an address'
    if not mail.recipients or len(mail.recipients) > _MOST_RECIPIENTS:
        return f'"{uri[:60]}" must name 1 to {_MOST_RECIPIENTS} addresses'
    return mail


def _take_addresses(mail: MailTo, addresses: list[str], text: str) -> bool:
    """Adds the addresses of a list; True when there is something else in it."""
    for piece in text.split(",") if '"' not in text else [text]:
        if not piece.strip():
            continue
        if not is_address(piece):
            return True
        plain = the_address(piece)
        addresses.append(plain)
        mail.shown.setdefault(plain, piece.strip())
    return False


def _check(checker: Checker, bound: Bound) -> None:
    method = bound.text(0)
    if isinstance(method, str) and isinstance(fault := parse_mailto(method), str):
        cure = 'write "mailto:user@domain.example"'
        if "not supported" in fault:
            checker.warn(
                checker.where(bound, 0), "notify-method", f"{fault}: this fails when it is reached", cure
            )
        else:
            checker.error(checker.where(bound, 0), "notify-method", fault, cure)
    importance = bound.tag_text("importance")
    if isinstance(importance, str) and importance not in ("1", "2", "3"):
        message = f'":importance" is "1", "2" or "3", not "{importance[:20]}"'
        checker.error(checker.where_tag(bound, "importance"), "importance", message, '"2" is normal')
    sender = bound.tag_text("from")
    if isinstance(sender, str) and not is_address(sender):
        message = f'":from" must be an address, not "{sender[:60]}"'
        checker.error(checker.where_tag(bound, "from"), "address", message, "write user@domain.example")
    for item, option in enumerate(bound.tag_texts("options") or ()):
        if isinstance(option, str) and not _OPTION.fullmatch(option):
            place = checker.where_tag(bound, "options", item)
            checker.error(place, "option", f'"{option[:40]}" is not an option', 'options are "name=value"')


def _notify(bound: Bound) -> CommandFn:
    method = bound.text(0)

    def act(run: Run) -> None:
        uri = run.expand(method)
        mail = parse_mailto(uri)
        if isinstance(mail, str):
            raise RunError(f"notify: {mail}")
        importance = run.expand(bound.tag_text("importance") or "2")
        if importance not in ("1", "2", "3"):
            raise RunError('notify: :importance must be "1", "2" or "3"')
        told = {
            one for action in run.result.actions if isinstance(action, Notify) for one in action.recipients
        }
        fresh = [one for one in mail.recipients if one not in told]
        run.seen, run.key = ", ".join(fresh), uri
        if not fresh:
            run.seen = "already notified"
        elif run.view.automatic():  # RFC 5436 2.7
            run.seen = "not sent: the message is itself automatic"
        else:
            run.result.add(_compose(run, bound, uri, mail, fresh, int(importance)))

    return act


def _compose(run: Run, bound: Bound, uri: str, mail: MailTo, fresh: list[str], importance: int) -> Notify:
    limits = run.limits
    original = run.view.values(b"subject")
    given = bound.tag_text("message")
    subject = run.expand(given) if given is not None else mail.subject
    if subject is None:
        subject = original[0] if original else "Notification"
    subject = compose.subject_text(subject, limits.subject)
    owner = run.envelope.rcpt_to or next(iter(run.host.own_addresses()), "")
    sender = run.expand(bound.tag_text("from") or "")
    if not is_address(sender):
        sender = owner
    body = (mail.body if mail.body is not None else _default_body(run))[: limits.reason]
    to = [one for one in dict.fromkeys(mail.to) if one in fresh]
    cc = [one for one in dict.fromkeys(mail.cc) if one in fresh and one not in to]
    text_fields, data = compose.body_fields(body)
    owner_note = f'; owner-email="{owner}"' if owner and '"' not in owner else ""
    fields = [
        (b"Auto-Submitted", f"auto-notified{owner_note}".encode("ascii", "replace")),
        (b"From", compose.address_field(sender)),
        (b"To", mail.line(to or cc)),
        *([(b"Cc", mail.line(cc))] if cc and to else []),
        (b"Subject", words.encode_text(subject)),
        *[
            field
            for field in compose.thread_fields(run.view.header.get_all(b"message-id"), b"")
            if field[0] == b"References"
        ],
        (b"X-Priority", {1: b"1 (High)", 2: b"3 (Normal)", 3: b"5 (Low)"}[importance]),
        (b"Importance", {1: b"High", 2: b"Normal", 3: b"Low"}[importance]),
        *[
            (name.capitalize().encode("ascii"), value.encode("ascii", "replace"))
            for name, value in mail.headers
            if name not in ("to", "cc", "subject", "importance", "x-priority")
        ],
        *text_fields,
    ]
    message = compose.build(fields, run.host.now(), run.host.new_message_id(), data)
    null = not run.envelope.mail_from.strip().strip("<>")
    chosen = options(run, bound)
    return Notify(
        uri,
        tuple(fresh),
        # RFC 5436 2.7: a null reverse-path begets a null reverse-path.
        sender="" if null else sender,
        subject=subject,
        body=body,
        importance=importance,
        message=message,
        fcc=chosen.fcc,
        place=run.place(bound),
    )


def _default_body(run: Run) -> str:
    lines = ["Notification of a new message.", ""]
    for name in ("From", "To", "Subject"):
        values = run.view.values(name.lower().encode())
        if values:
            lines.append(f"{name}: {values[0]}")
    return "\n".join(lines) + "\n"


def _valid(bound: Bound) -> TestFn:
    uris = bound.texts(0)

    def test(run: Run) -> bool:
        for uri in expand(run, uris):
            run.seen = run.key = uri
            if isinstance(parse_mailto(uri), str):
                return False
        return True

    return test


def _capability(bound: Bound) -> TestFn:
    match = link_match(bound)

    def test(run: Run) -> bool:
        uri, item = run.expand(bound.text(0)), run.expand(bound.text(1)).lower()
        if item != "online" or isinstance(parse_mailto(uri), str):
            run.seen, run.key = "", item
            return False
        return match(run, ["maybe"])

    return test


_NEEDS = ("enotify",)
_ON = ("notify",)

EXTENSION = Extension(
    "enotify",
    _NEEDS,
    dialect="RFC 5435, RFC 5436",
    commands=(
        CommandSpec(
            "notify", _NEEDS, (Param("method", Kind.STRING),), check=_check, link=_notify, keeps_message=True
        ),
    ),
    tests=(
        TestSpec("valid_notify_method", _NEEDS, (Param("URIs", Kind.STRINGS),), link=_valid),
        TestSpec(
            "notify_method_capability",
            _NEEDS,
            (Param("URI", Kind.STRING), Param("capability", Kind.STRING), Param("keys", Kind.STRINGS)),
            link=_capability,
            matches=True,
        ),
    ),
    tags=(
        TagSpec("from", _ON, kind=Kind.STRING),
        TagSpec("importance", _ON, kind=Kind.STRING),
        TagSpec("options", _ON, kind=Kind.STRINGS),
        TagSpec("message", _ON, kind=Kind.STRING),
        modifier_tag("encodeurl", _NEEDS),
    ),
)
