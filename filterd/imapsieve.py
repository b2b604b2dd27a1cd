"""Sieve on events of the message store: APPEND, COPY and MOVE, changed flags.

Specification: RFC 6785. ``ImapSieve.decide`` is called after the event has happened (the message is stored, or its flags are
changed); nothing is performed here. ``filterd.mailboxscripts`` does it, once for each message::

    name = imapsieve.script_name(store, mailbox)            # cheap; "" mostly: then nothing more
    outcome = imapsieve.decide(store, event)                # in the account's job: it runs a script
    if outcome is not None:
        for file in outcome.files: ...                      # append a new message, no event follows from it
        for send in outcome.sends: ...                      # as a submission, MAIL FROM the owner
        if outcome.flags is not None: ...                   # as though the client had set them; no event after cause FLAG
        if outcome.delete: ...                              # set \\Deleted; no event; expunging it is allowed

Invariants: a script that fails, or that is not there, leaves the message as it is; reject, ereject and vacation
fail the run (3.11); edits concern only fileinto and redirect (3.1, 3.7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import UnionType

from filterd.scripts import ScriptService
from filterd.sieve_host import AccountHost
from filterd.store.base import AccountStore, StoreError
from rules.actions import (
    FileInto,
    Keep,
    ListStore,
    Notify,
    Pipe,
    Place,
    Redirect,
    Reject,
    Remember,
    Report,
    TraceStep,
    Vacation,
)
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import DEFAULT, Limits
from rules.mail.message import Message

log = logging.getLogger("filterd.imapsieve")

ENTRY = "/shared/imapsieve/script"  # RFC 6785 2.3.1
_INAPPLICABLE = ("reject", "ereject", "vacation", "vacation-seconds")  # RFC 6785 3.11
_MOST_COMPILED = 64


@dataclass(frozen=True, slots=True)
class ImapEvent:
    """One message, after the event. ``cause``: APPEND, COPY (MOVE too) or FLAG; ``flags`` are those it has now."""

    account: str
    login: str
    email: str
    cause: str
    mailbox: str
    data: bytes
    flags: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # flags that were set or cleared, for FLAG


@dataclass(frozen=True, slots=True)
class ImapOutcome:
    """What is to be done with the message; ``flags`` None: they stay."""

    script: str
    digest: str = ""
    flags: tuple[str, ...] | None = None
    delete: bool = False
    files: tuple[FileInto, ...] = ()
    sends: tuple[Redirect | Notify | Report, ...] = ()
    remember: tuple[Remember, ...] = ()
    lists: tuple[ListStore, ...] = ()
    pipes: tuple[Pipe, ...] = ()
    error: str | None = None
    place: Place | None = None  # of the error; None when no line is to blame
    trace: tuple[TraceStep, ...] = field(default=(), repr=False)


HostOf = Callable[[AccountStore, ImapEvent, dict[str, str]], AccountHost]


class ImapSieve:
    """``host_of`` makes the host of a run from the store, the event and the environment items of RFC 6785 4."""

    def __init__(self, scripts: ScriptService, host_of: HostOf, limits: Limits = DEFAULT) -> None:
        self._scripts = scripts
        self._host_of = host_of
        self._limits = limits
        self._capabilities = tuple(name for name in scripts.capabilities() if name not in _INAPPLICABLE)
        self._compiled: dict[tuple[str, str], CompiledScript | ScriptErrors] = {}

    @staticmethod
    def script_name(store: AccountStore, mailbox: str) -> str:
        """The script for events of this mailbox, "" when there is none. An entry of the mailbox hides the server's."""
        try:
            own = store.get_metadata(mailbox, ENTRY)
        except StoreError:
            return ""
        return (store.get_metadata(None, ENTRY) if own is None else own) or ""

    def decide(self, store: AccountStore, event: ImapEvent) -> ImapOutcome | None:
        """Runs the mailbox's script over the message; None when there is no script to run."""
        name = self.script_name(store, event.mailbox)
        text = self._scripts.personal(event.account, name) if name else None
        if text is None:
            return None
        script = self._compile(name, text)
        if isinstance(script, ScriptErrors):
            log.warning("account %s: script “%s”: %s", event.account, name, script.errors[0])
            return ImapOutcome(name, error=f"the script does not compile here: {script.errors[0]}")
        items = {
            "location": "MS",
            "phase": "post",
            "imap.user": event.login,
            "imap.email": event.email,
            "imap.cause": event.cause,
            "imap.mailbox": event.mailbox,
            "imap.changedflags": " ".join(event.changed),
        }
        return self._run(store, event, name, [script], items, Reject | Vacation)

    def filter(
        self, store: AccountStore, event: ImapEvent, name: str, scripts: list[CompiledScript]
    ) -> ImapOutcome:
        """Runs these over a message at its owner's request (FILTER=SIEVE). Nobody is answered: a refusal leaves the message where
        it is (draft-bosch-imap-filter-sieve 4.10: what runs at delivery must not fail here)."""
        items = {"location": "MS", "phase": "post", "imap.user": event.login, "imap.mailbox": event.mailbox}
        return self._run(store, event, name, scripts, items, ())

    def _run(
        self,
        store: AccountStore,
        event: ImapEvent,
        name: str,
        scripts: list[CompiledScript],
        items: dict[str, str],
        inapplicable: type | UnionType | tuple[()],
    ) -> ImapOutcome:
        host = self._host_of(store, event, items)
        envelope = ScriptEnvelope(mail_from=event.email, rcpt_to=event.email, auth=event.login)
        result = run(scripts, Message(event.data), envelope, host, limits=self._limits, flags=event.flags)
        digest = scripts[-1].digest[
            :16
        ]  # as in a delivery's trace: one fault is told once, wherever it shows
        wrong = next((one for one in result.actions if isinstance(one, inapplicable)), None)
        error = result.error or (
            "reject and vacation have no meaning here (RFC 6785 3.11)" if wrong else None
        )
        if error is not None:
            log.warning("account %s: script “%s”: %s", event.account, name, error)
            return ImapOutcome(name, digest, error=error, place=result.error_place, trace=tuple(result.trace))
        keep = next((one for one in result.actions if isinstance(one, Keep)), None)
        changed = keep is not None and set(keep.flags) != set(event.flags)
        return ImapOutcome(
            name,
            digest,
            flags=keep.flags if keep is not None and changed else None,
            delete=keep is None and not any(isinstance(one, Reject) for one in result.actions),
            files=tuple(one for one in result.actions if isinstance(one, FileInto)),
            sends=tuple(one for one in result.actions if isinstance(one, Redirect | Notify | Report)),
            remember=tuple(one for one in result.actions if isinstance(one, Remember)),
            lists=tuple(one for one in result.actions if isinstance(one, ListStore)),
            pipes=tuple(one for one in result.actions if isinstance(one, Pipe)),
            trace=tuple(result.trace),
        )

    def _compile(self, name: str, text: str) -> CompiledScript | ScriptErrors:
        found = self._compiled.get((name, text))
        if found is None:
            try:
                found = compile_script(text, name=name, capabilities=self._capabilities, limits=self._limits)
            except ScriptErrors as errors:
                found = errors
            if len(self._compiled) >= _MOST_COMPILED:
                self._compiled.clear()
            self._compiled[name, text] = found
        return found
