"""The simulated server that a test script runs in: message, envelope, settings, mailboxes, outbox, result.

Specification: SIEVE.md section 1 ("State", "Start", "envelope derivation"), after Pigeonhole's
``vnd.dovecot.testsuite``. Invariant: everything lasts from one test block to the next until a command changes
it; nothing leaves the process. The moment is given by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rules.compiler import CompiledScript, compile_script
from rules.context import SETTING_PREFIX, Run
from rules.ext.actions import is_address
from rules.host import ScriptEnvelope
from rules.limits import DEFAULT, Limits
from rules.mail import address
from rules.mail.message import Message
from rules.registry import Registry
from rules.result import Result
from rules.testkit import status
from rules.testkit.mailstore import MailStore, Sent
from rules.testkit.settings import engine_settings, limits_of
from rules.view import View, crlf

USER = "testsuite mail user"
DEFAULT_FROM, DEFAULT_TO = "sender@example.com", "recipient@example.org"
DEFAULT_MESSAGE = b"From: sender@example.com\r\nTo: recipient@example.org\r\nSubject: Frop!\r\n\r\nFriep!\r\n"
SCRIPT_OCTETS = 4 << 20
_LISTS = "sieve_extlists_list"
_ADDRESS_BOOK, _FULL = ":addrbook:", "urn:ietf:params:sieve:addrbook:"


@dataclass(slots=True)
class Bench:
    """Implements ``rules.host.Host``. ``folder`` holds the test script; ``config`` counts, ``pending`` is set."""

    folder: str
    registry: Registry
    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    config: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    store: MailStore = field(default_factory=MailStore)
    outbox: list[Sent] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    script: CompiledScript | None = None
    binaries: dict[str, CompiledScript] = field(default_factory=dict)
    inner: Run | None = None  # the last run of the compiled script
    done: set[tuple[object, ...]] = field(default_factory=set)  # actions that were executed
    memory: dict[bytes, datetime] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)
    current: str = ""  # the test that runs
    results: list[tuple[str, str | None, int]] = field(default_factory=list)  # name, reason or None, line
    settings: dict[str, str] = field(default_factory=dict)
    message_ids: int = 0
    view: View | None = None  # of the current message: what spamtest looks at

    def __post_init__(self) -> None:
        self.settings = engine_settings(self.config)

    # -- settings ---------------------------------------------------------------------------------------

    def limits(self) -> Limits:
        """The limits of a run."""
        return limits_of(self.config)

    def reload(self, run: Run) -> None:
        """What was set counts from now on."""
        self.config = dict(self.pending)
        self.settings = engine_settings(self.config)
        run.forget_settings()
        now = self.config.get("filterd_now")  # ours: the moment of the simulated server
        if now:
            moment = datetime.fromisoformat(now)
            self.moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        run.use_limits(own_limits(self.limits()))

    # -- message and envelope ---------------------------------------------------------------------------

    def set_message(self, run: Run, data: bytes, envelope: ScriptEnvelope | None = None) -> None:
        """Makes a message the current one; without an envelope it is derived from the message."""
        run.message = Message(data)
        run.view = self.view = View(run.message)
        run.flags = ()
        run.state.pop("body", None)
        derived = derive(run.message, run.envelope.auth)
        run.envelope = derived if envelope is None else replace(envelope, auth=run.envelope.auth)

    def reset(self, run: Run) -> None:
        """Drops the result and empties the outbox; stored mail stays."""
        self.reset_result(run)
        self.outbox.clear()

    def reset_result(self, run: Run) -> None:
        """Drops the result only."""
        run.result = Result(run.limits)
        self.inner = None
        self.done.clear()

    # -- Host -------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The moment of the whole test."""
        return self.moment

    def mailbox_exists(self, name: str) -> bool:
        """RFC 5490"""
        return self.store.exists(name)

    def special_use_exists(self, mailbox: str | None, uses: Sequence[str]) -> bool:
        """RFC 8579"""
        holders = [self.store.special_uses.get(use.lower()) for use in uses]
        return all(one is not None and mailbox in (None, one) for one in holders)

    def special_use_mailbox(self, use: str) -> str | None:
        """RFC 8579"""
        return self.store.special_uses.get(use.lower())

    def mailbox_id_exists(self, mailbox_id: str) -> bool:
        """RFC 9042"""
        return mailbox_id in self.store.ids

    def metadata(self, mailbox: str | None, name: str) -> str | None:
        """RFC 5464: names are compared without case."""
        if mailbox is not None:
            if not self.store.exists(mailbox):
                return None
            mailbox = self.store.name(mailbox)
        return self.store.annotations.get((mailbox, name.lower()))

    def seen(self, key: bytes) -> bool:
        """Only with the setting ``filterd_memory`` something is remembered; Pigeonhole's tool remembers nothing."""
        until = self.memory.get(key)
        return until is not None and until > self.moment

    def list_contains(self, list_name: str, value: str) -> bool | None:
        """The lists of the settings ``sieve_extlists_list/...``."""
        for name in self.config.get(_LISTS, "").split():
            shown = self.config.get(f"{_LISTS}/{name}/name", name)
            full = _FULL + shown[len(_ADDRESS_BOOK) :] if shown.startswith(_ADDRESS_BOOK) else shown
            if full == list_name:
                members = self.config.get(f"{_LISTS}/{name}/members")
                if members is not None:
                    return value.lower() in members.lower().split()
                return value in self._dictionary(f"{_LISTS}/{name}/dict/file/path")
        return None

    def _dictionary(self, setting: str) -> frozenset[str]:
        """The members in a dictionary file: lines of key and value in turn, the last part of a key is the member."""
        path = self.config.get(setting)
        if not path:
            return frozenset()
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                lines = stream.read(SCRIPT_OCTETS).splitlines()
        except OSError:
            return frozenset()
        return frozenset(line.rpartition("/")[2] for line in lines[::2])

    def environment(self, name: str) -> str | None:
        """Items and settings."""
        if name.startswith(SETTING_PREFIX):
            return self.settings.get(name[len(SETTING_PREFIX) :])
        if name.startswith("vnd.dovecot.config."):
            return self.config.get("sieve_environment/" + name[len("vnd.dovecot.config.") :])
        items = {
            "name": "Pigeonhole Sieve",  # whom the dialect's scripts expect
            "host": "host.example.com",
            "domain": "example.com",
            "version": "1",
            "location": "MS",
            "phase": "post",
            "vnd.dovecot.username": USER,
            "vnd.dovecot.default-mailbox": "INBOX",
        }
        return self.config.get("environment/" + name, items.get(name))

    def spam_status(self) -> tuple[float, float] | None:
        """RFC 5235"""
        return status.status(self.view, self.config, "spamtest", 10) if self.view is not None else None

    def virus_status(self) -> int | None:
        """RFC 5235"""
        if self.view is None:
            return None
        return status.virus_value(status.status(self.view, self.config, "virustest", 5))

    def own_addresses(self) -> Sequence[str]:
        """The user's address, when the settings give one."""
        email = self.user_email()
        return (email,) if email else ()

    def user_email(self) -> str:
        """The setting ``sieve_user_email``."""
        return self.config.get("sieve_user_email", "").strip().strip("<>")

    def include(self, location: str, name: str) -> str | None:
        """Scripts in ``included`` and ``included-global`` beside the test."""
        folder = "included" if location == "personal" else "included-global"
        return read_script(os.path.join(self.folder, folder, name + ".sieve"))

    def execute(self, program: str, arguments: Sequence[str], data: bytes) -> tuple[int, bytes] | None:
        """No programs run here; ``filterd_program/NAME`` plays one: the exit status, then what it prints of its input
        ("cat", "upper", "arguments", or ``text`` and a text)."""
        status, _, does = self.config.get(f"filterd_program/{program}", "").partition(" ")
        if not status:
            return None
        kind, _, text = does.partition(" ")
        printed = {"cat": data, "upper": data.upper(), "arguments": "|".join(arguments).encode()}
        return int(status), printed.get(kind, text.encode())

    def new_message_id(self) -> str:
        """Counts up."""
        self.message_ids += 1
        return f"svtest-{self.message_ids}@localhost.invalid"

    # -- scripts ----------------------------------------------------------------------------------------

    def compile(self, path: str) -> CompiledScript | None:
        """Compiles a script beside the test; None when there is no such file. Raises ScriptErrors."""
        text = read_script(os.path.join(self.folder, path))
        if text is None:
            return None
        name = os.path.basename(path).removesuffix(".sieve")
        return compile_script(
            text, name=name, registry=self.registry, capabilities=self.registry.known, limits=self.limits()
        )


def own_limits(limits: Limits) -> Limits:
    """The test script itself may run longer and decide more than a script of a user."""
    return replace(
        limits,
        steps=max(limits.steps, 10_000_000),
        cpu_seconds=60.0,
        actions=max(limits.actions, 1_000),
        nesting=DEFAULT.nesting,
    )


def read_script(path: str) -> str | None:
    """A script's text; None when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(SCRIPT_OCTETS).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def derive(message: Message, auth: str) -> ScriptEnvelope:
    """The envelope that a message implies."""
    recipient = _first(message, (b"envelope-to", b"to")) or DEFAULT_TO
    sender = _first(message, (b"return-path", b"sender", b"from"))
    return_path = message.first(b"return-path")
    if return_path is not None and return_path.strip() == b"<>":
        sender = ""
    return ScriptEnvelope(DEFAULT_FROM if sender is None else sender, recipient, recipient, auth)


def _first(message: Message, names: Sequence[bytes]) -> str | None:
    """The first address in the first of these fields that has one."""
    for name in names:
        value = message.first(name)
        if value is None:
            continue
        for box in address.parse_list(value).mailboxes:
            if is_address(box.address):
                return box.address
    return None


def to_octets(text: str) -> bytes:
    """A string of a script as a message."""
    return crlf(text.encode("utf-8", "surrogateescape"))
