"""One script on one message, performed by nobody: the JSON contract of ``filterd sieve run --json`` (SIEVE.md 2).

``answer(request, cache)`` gives the object to print: ``compile_errors`` alone, or ``actions`` and ``trace`` (and
``runtime_error``: the mail is kept all the same). keep is a store into INBOX, discard is no action, and ``message`` is the
final text with CRLF line ends, octets that are no UTF-8 as surrogate escapes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from filterd.cli.sieve_host import OneShotHost, Surroundings
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
    RunResult,
    SetScore,
    Vacation,
)
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptError, ScriptErrors
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import DEFAULT, Limits
from rules.mail import address
from rules.mail.message import Message

DEFAULT_FROM = "sender@example.com"
DEFAULT_TO = "recipient@example.com"
MAX_CACHED = 64  # compiled scripts of a batch
MERGE_FROM = 1_000  # steps of a script from which rules are dispatched
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


@dataclass(slots=True)
class Request:
    """``sender``/``recipient`` None: taken from the message. ``sender`` "" is the null reverse-path."""

    script: str
    message: bytes
    name: str = "script"
    sender: str | None = None
    recipient: str | None = None
    orig_to: str | None = None
    auth: str = ""
    surroundings: Surroundings = field(default_factory=Surroundings)


Cache = dict[tuple[str, str], CompiledScript | ScriptErrors]


def answer(request: Request, cache: Cache, now: float) -> dict[str, object]:
    """The object to print. ``now`` seconds since the epoch."""
    compiled = compiled_script(request.script, request.name, cache)
    if isinstance(compiled, ScriptErrors):
        return {"compile_errors": [error_as_json(error) for error in compiled.errors]}
    result, envelope, message, host = execute(request, compiled, now)
    actions: list[dict[str, object]] = []
    fault = result.error
    for action in result.actions:
        for one in action_as_json(action, envelope, message, host):
            if one["type"] == "store" and not one.pop("created", True):
                fault = fault or f'the mailbox "{one["mailbox"]}" does not exist: the message is in INBOX'
                one["mailbox"] = "INBOX"
                if any(same["type"] == "store" and same["mailbox"] == "INBOX" for same in actions):
                    continue
            actions.append(one)
    out: dict[str, object] = {"actions": actions, "trace": trace_as_json(result)}
    if fault is not None:
        out = {"runtime_error": fault, **out}
    if result.debug:
        out["debug"] = list(result.debug)
    return out


def execute(
    request: Request, compiled: CompiledScript, now: float
) -> tuple[RunResult, ScriptEnvelope, Message, OneShotHost]:
    message = Message(_BARE.sub(b"\r\n", request.message))
    envelope = envelope_of(request, message)
    around = request.surroundings
    if not around.own:
        around = dataclasses.replace(around, own=(envelope.rcpt_to, envelope.orig_to))
    host = OneShotHost(around, message, now)
    # Every false test is told of, where that is no burden; thousands of rules are dispatched as in the server.
    merge = len(compiled.code) > MERGE_FROM
    result = run([compiled], message, envelope, host, limits=_limits(around.options), merge=merge)
    host.remember(_to_remember(result))
    return result, envelope, message, host


def compiled_script(text: str, name: str, cache: Cache) -> CompiledScript | ScriptErrors:
    found = cache.get((name, text))
    if found is None:
        try:
            found = compile_script(text, name=name)
        except ScriptErrors as errors:
            found = errors
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[(name, text)] = found
    return found


def envelope_of(request: Request, message: Message) -> ScriptEnvelope:
    """What was not said is taken from the message, as Pigeonhole's sieve-test does."""
    sender = request.sender
    if sender is None:
        sender = _first_address(message, (b"return-path", b"sender", b"from"), DEFAULT_FROM)
    recipient = request.recipient
    if recipient is None:
        recipient = _first_address(message, (b"envelope-to", b"to"), DEFAULT_TO)
    original = recipient if request.orig_to is None else request.orig_to
    params = _params(request, "rcpt_params")
    of_mail = {name: params.pop(name) for name in ("RET", "ENVID", "BY") if name in params}
    return ScriptEnvelope(
        _bare(sender),
        _bare(recipient),
        _bare(original),
        request.auth,
        mail_params=of_mail | _params(request, "mail_params"),
        rcpt_params=params,
    )


def _params(request: Request, name: str) -> dict[str, str]:
    """ESMTP parameters of ``--config`` by upper-case name."""
    params = request.surroundings.options.get(name)
    if not isinstance(params, Mapping):
        return {}
    return {str(key).upper(): str(value) for key, value in params.items() if value is not None}


def _first_address(message: Message, names: tuple[bytes, ...], default: str) -> str:
    for name in names:
        value = message.first(name)
        if value is None:
            continue
        if name == b"return-path" and value.strip() == b"<>":
            return ""
        mailboxes = address.parse_list(value).mailboxes
        if mailboxes:
            return mailboxes[0].address
    return default


def _bare(text: str) -> str:
    return text.strip().removeprefix("<").removesuffix(">")


def _limits(options: Mapping[str, object]) -> Limits:
    redirects = options.get("max_redirects")
    return dataclasses.replace(DEFAULT, redirects=redirects) if isinstance(redirects, int) else DEFAULT


def _to_remember(result: RunResult) -> dict[bytes, int]:
    keys: dict[bytes, int] = {}
    for action in result.actions:
        if isinstance(action, Remember):
            keys[action.key] = action.seconds
        elif isinstance(action, Vacation):
            keys[action.memory_key] = action.memory_seconds
    return keys


# -- values to JSON ----------------------------------------------------------------------------------------------------


def error_as_json(error: ScriptError) -> dict[str, object]:
    out: dict[str, object] = {
        "line": error.line,
        "column": error.column,
        "message": error.message,
        "code": error.code,
    }
    if error.cure:
        out["cure"] = error.cure
    return out


def trace_as_json(result: RunResult) -> list[dict[str, object]]:
    return [
        {
            "script": s.script,
            "line": s.line,
            "test": s.what,
            "value": s.value,
            "key": s.key,
            "result": s.result,
        }
        for s in result.trace
    ]


def action_as_json(
    action: Action, envelope: ScriptEnvelope, message: Message, host: OneShotHost
) -> list[dict[str, object]]:
    """Nothing for what is no action of its own (discard, remembering); a generated mail with :fcc is stored too."""
    match action:
        case Keep():
            return [_store("INBOX", action.flags, action.message or message.data)]
        case FileInto():
            return [_filed(action, message, host)]
        case Redirect():
            return _redirects(action, envelope, message, host)
        case Reject():
            return [{"type": "reject", "reason": action.reason, "ereject": action.ereject}]
        case Vacation():
            answer: dict[str, object] = {
                "type": "vacation",
                "to": action.to,
                "from": action.sender,
                "subject": action.subject,
                "body": action.body,
                "message": _text(action.message),
            }
            return [answer, *_copies(action.fcc, action.message, host)]
        case Notify():
            told: dict[str, object] = {
                "type": "notify",
                "method": action.method,
                "to": ", ".join(action.recipients),
                "from": action.sender,
                "subject": action.subject,
                "body": action.body,
                "importance": action.importance,
            }
            if action.message is not None:
                told["message"] = _text(action.message)
            return [told, *_copies(action.fcc, action.message, host)]
        case Pipe():
            return [{"type": "pipe", "program": action.program, "arguments": list(action.arguments)}]
        case Report():
            return [{"type": "report", "feedback_type": action.feedback_type, "to": action.to}]
        case Quarantine():
            return [{"type": "quarantine", "reason": action.reason}]
        case SetScore():
            return [{"type": "score", "value": action.value}]
        case ListStore():
            return [{"type": "list", "name": action.name, "value": action.value, "remove": action.remove}]
        case Discard() | Remember():
            return []
        case _:
            assert_never(action)


def _filed(action: FileInto, message: Message, host: OneShotHost) -> dict[str, object]:
    mailbox = _by_use(action.mailbox, action.special_use, host)
    stored = _store(mailbox, action.flags, action.message or message.data)
    return stored | {"created": action.create or host.can_store(mailbox)}


def _by_use(mailbox: str, use: str | None, host: OneShotHost) -> str:
    """RFC 8579 4: the named mailbox when it has the use, else another one that has it, else the named one."""
    if use is None or host.has_use(mailbox, use):
        return mailbox
    return host.special_use_mailbox(use) or mailbox


def _redirects(
    action: Redirect, envelope: ScriptEnvelope, message: Message, host: OneShotHost
) -> list[dict[str, object]]:
    """One for each member of a list (RFC 6134 2.3). RFC 6009 6.1, 7.1: with its tags the sender is the owner."""
    asks = (action.notify, action.ret, action.by_time) != (None, None, None)
    sender = envelope.rcpt_to if asks and envelope.mail_from else envelope.mail_from
    extra: dict[str, object] = {
        "notify": action.notify,
        "ret": action.ret,
        "by_time": action.by_time,
        "by_mode": action.by_mode if action.by_time is not None else None,
        "by_trace": True if action.by_trace else None,
        "list": action.list_name,
    }
    members = [action.address] if action.list_name is None else host.lists.get(action.list_name, ())
    return [
        {
            "type": "redirect",
            "to": member,
            "envelope_from": sender,
            "message": _text(action.message or message.data),
        }
        | {name: value for name, value in extra.items() if value is not None}
        for member in members
    ]


def _copies(fcc: Fcc | None, text: bytes | None, host: OneShotHost) -> list[dict[str, object]]:
    """RFC 8580: the copy of a generated message."""
    if fcc is None or text is None:
        return []
    mailbox = _by_use(fcc.mailbox, fcc.special_use, host)
    return [
        _store(mailbox, fcc.flags, text)
        | {"generated": True, "created": fcc.create or host.can_store(mailbox)}
    ]


def _store(mailbox: str, flags: tuple[str, ...], text: bytes) -> dict[str, object]:
    return {"type": "store", "mailbox": mailbox, "flags": list(flags), "message": _text(text)}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# -- a batch --------------------------------------------------------------------------------------------------------------


def request_of(fields: Mapping[str, object]) -> Request:
    """A request of a batch: the options' names as keys. Raises ValueError, OSError."""
    known = {name.replace("-", "_"): value for name, value in fields.items()}

    def text(name: str) -> str | None:
        value = known.get(name)
        if value is None or isinstance(value, str):
            return value
        raise ValueError(f'"{name}" must be a text')

    script, message = text("script"), text("message")
    script_text, message_text = text("script_text"), text("message_text")
    if script is not None and script_text is None and _is_text(script):
        script, script_text = None, script
    if message is not None and message_text is None and _is_text(message):
        message, message_text = None, message
    if (script is None) == (script_text is None) or (message is None) == (message_text is None):
        raise ValueError('a request names "script" (or "script_text") and "message" (or "message_text")')
    given = known.get("mailboxes")
    names = given.split(",") if isinstance(given, str) else [str(one) for one in as_list(given or [])]
    return Request(
        script=read_script(script) if script is not None else str(script_text),
        message=read_bytes(message)
        if message is not None
        else str(message_text).encode("utf-8", "surrogateescape"),
        name=script_name(script) if script is not None else "script",
        sender=text("from"),
        recipient=text("to"),
        orig_to=text("orig_to"),
        auth=text("auth") or "",
        surroundings=Surroundings(
            personal=text("personal") or "",
            global_=text("global") or "",
            state=text("state") or "",
            mailboxes=None if given is None else tuple(name.strip() for name in names if name.strip()),
            options=options_of(known.get("config")),
        ),
    )


def _is_text(value: str) -> bool:
    """The text itself where a file's name was expected? A batch may hold either."""
    return "\n" in value or (value.rstrip().endswith((";", "}")) and not os.path.exists(value))


def as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def options_of(config: object) -> Mapping[str, object]:
    """``--config``: an object, or the file that holds one. Raises ValueError, OSError."""
    if config is None or config == "":
        return {}
    if isinstance(config, str):
        config = json.loads(read_bytes(config))
    if not isinstance(config, Mapping):
        raise ValueError("--config must hold one JSON object")
    return config


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def read_script(path: str) -> str:
    return read_bytes(path).decode("utf-8", "replace")


def script_name(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".sieve")
