"""One script on one message, performed by nobody: the JSON contract of ``filterd sieve run --json`` (SIEVE.md 2).

``answer(request, cache)`` gives the object to print: ``compile_errors`` alone, or ``actions`` and ``trace`` (and
``runtime_error``: the mail is kept all the same). keep is a store into INBOX, discard is no action, and ``message`` is the
final text with CRLF line ends, octets that are no UTF-8 as surrogate escapes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from filterd.cli.sieve_host import OneShotHost, Surroundings
from rules.actions import (
    Action,
    Discard,
    FileInto,
    Keep,
    ListStore,
    Notify,
    Pipe,
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
    actions = [
        one
        for action in result.actions
        if (one := action_as_json(action, envelope, message, host)) is not None
    ]
    out: dict[str, object] = {"actions": actions, "trace": trace_as_json(result)}
    if result.error is not None:
        out = {"runtime_error": result.error, **out}
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
    result = run([compiled], message, envelope, host, limits=_limits(around.options))
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
    params = request.surroundings.options.get("rcpt_params")
    rcpt_params = (
        {str(name).upper(): str(value) for name, value in params.items()}
        if isinstance(params, Mapping)
        else {}
    )
    return ScriptEnvelope(
        _bare(sender), _bare(recipient), _bare(original), request.auth, rcpt_params=rcpt_params
    )


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
) -> dict[str, object] | None:
    """None for what is no action of its own (discard, remembering)."""
    match action:
        case Keep():
            return _store("INBOX", action.flags, action.message, message)
        case FileInto():
            mailbox = action.mailbox
            if action.special_use:
                mailbox = host.special_use_mailbox(action.special_use) or mailbox
            return _store(mailbox, action.flags, action.message, message)
        case Redirect():
            out: dict[str, object] = {
                "type": "redirect",
                "to": action.address,
                "envelope_from": envelope.mail_from,
            }
            out["message"] = _text(message.data if action.message is None else action.message)
            extra = {
                "notify": action.notify,
                "ret": action.ret,
                "by_time": action.by_time,
                "by_mode": action.by_mode,
            }
            return out | {name: value for name, value in extra.items() if value is not None}
        case Reject():
            return {"type": "reject", "reason": action.reason, "ereject": action.ereject}
        case Vacation():
            return {
                "type": "vacation",
                "to": action.to,
                "from": action.sender,
                "subject": action.subject,
                "body": action.body,
                "message": _text(action.message),
            }
        case Notify():
            return {
                "type": "notify",
                "method": action.method,
                "to": ", ".join(action.recipients),
                "from": action.sender,
                "subject": action.subject,
                "body": action.body,
                "importance": action.importance,
            }
        case Pipe():
            return {"type": "pipe", "program": action.program, "arguments": list(action.arguments)}
        case Report():
            return {"type": "report", "feedback_type": action.feedback_type, "to": action.to}
        case SetScore():
            return {"type": "score", "value": action.value}
        case ListStore():
            return {"type": "list", "name": action.name, "value": action.value, "remove": action.remove}
        case Discard() | Remember():
            return None
        case _:
            assert_never(action)


def _store(mailbox: str, flags: tuple[str, ...], edited: bytes | None, message: Message) -> dict[str, object]:
    text = _text(message.data if edited is None else edited)
    return {"type": "store", "mailbox": mailbox, "flags": list(flags), "message": text}


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
    if (script is None) == (script_text is None) or (message is None) == (message_text is None):
        raise ValueError('a request names "script" (or "script_text") and "message" (or "message_text")')
    mailboxes = known.get("mailboxes") or []
    names = mailboxes.split(",") if isinstance(mailboxes, str) else [str(one) for one in as_list(mailboxes)]
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
            mailboxes=tuple(name.strip() for name in names if name.strip()),
            options=options_of(known.get("config")),
        ),
    )


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
