"""The surroundings of ``filterd sieve run``: mailboxes, lists and memory as the caller describes them, nothing else.

Performs nothing; the memory of ``duplicate`` and vacation lives in ``DIR/state.json`` when the caller gives a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import make_msgid

from filterd import __version__
from filterd.store.durable import RealDisk, make_dirs, opened, replace_small
from rules.context import SETTING_PREFIX
from rules.ext.extlists import list_name
from rules.host import Host
from rules.mail.message import Message
from rules.testkit import status
from rules.view import View

STATE_FILE = "state.json"
SUFFIX = ".sieve"
MAX_SCRIPT = 4 << 20  # octets of an included script


@dataclass(slots=True)
class Surroundings:
    """What the caller said. ``options`` is the JSON object of ``--config`` (SIEVE.md section 2)."""

    personal: str = ""
    global_: str = ""
    state: str = ""
    mailboxes: tuple[str, ...] | None = None  # None: made on demand
    options: Mapping[str, object] = field(default_factory=dict)
    own: tuple[str, ...] = ()


class OneShotHost(Host):
    """Answers for one run over one message."""

    def __init__(self, surroundings: Surroundings, message: Message, now: float) -> None:
        self._around = surroundings
        self._message = message
        self._at = now
        self._memory = _read_state(surroundings.state)
        self._view = View(message)
        self._uses = {
            str(name): {str(one).lower() for one in (uses if isinstance(uses, list) else [uses])}
            for name, uses in _table(surroundings.options, "special_use").items()
        }
        lists = _table(surroundings.options, "lists")
        self.lists = {list_name(str(name)): _members(found) for name, found in lists.items()}

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._at, UTC).astimezone()

    def mailbox_exists(self, name: str) -> bool:
        return name.upper() == "INBOX" or name in (self._around.mailboxes or ()) or name in self._uses

    def can_store(self, name: str) -> bool:
        """Would a fileinto without :create find the mailbox?"""
        return self._around.mailboxes is None or self.mailbox_exists(name)

    def special_use_exists(self, mailbox: str | None, uses: Sequence[str]) -> bool:
        have = {
            use for name, some in self._uses.items() if mailbox is None or name == mailbox for use in some
        }
        return bool(have) and {use.lower() for use in uses} <= have

    def special_use_mailbox(self, use: str) -> str | None:
        return next((name for name, some in self._uses.items() if use.lower() in some), None)

    def has_use(self, mailbox: str, use: str) -> bool:
        """Has this mailbox the use?"""
        return use.lower() in self._uses.get(mailbox, ())

    def mailbox_id_exists(self, mailbox_id: str) -> bool:
        return False

    def metadata(self, mailbox: str | None, name: str) -> str | None:
        """``{"/shared/x": "value", "INBOX": {"/private/y": "value"}}``: server annotations beside those of mailboxes (or
        under ""). RFC 5464: names have no case."""
        known = _table(self._around.options, "metadata")
        tables = [_table(known, mailbox)] if mailbox is not None else [known, _table(known, "")]
        for table in tables:
            for key, value in table.items():
                if key.lower() == name.lower() and isinstance(value, str):
                    return value
        return None

    def seen(self, key: bytes) -> bool:
        return self._memory.get(key.hex(), 0.0) > self._at

    def remember(self, keys: Mapping[bytes, int]) -> None:
        """Keep what the run wants remembered; without ``state`` it is forgotten."""
        if not self._around.state or not keys:
            return
        for key, seconds in keys.items():
            self._memory[key.hex()] = self._at + seconds
        kept = {key: until for key, until in self._memory.items() if until > self._at}
        disk = RealDisk()
        make_dirs(disk, self._around.state)
        with opened(disk, self._around.state) as folder:
            replace_small(disk, folder, STATE_FILE, json.dumps(kept).encode(), durable=False)

    def list_contains(self, name: str, value: str) -> bool | None:
        members = self.lists.get(name)
        return None if members is None else value.strip().lower() in {member.lower() for member in members}

    def environment(self, name: str) -> str | None:
        if name.startswith(SETTING_PREFIX):
            found = self._around.options.get(name.removeprefix(SETTING_PREFIX))
            return None if found is None or isinstance(found, (dict, list)) else str(found)
        items = {"name": "filterd", "version": __version__, "location": "MDA", "phase": "during"}
        extra = _table(self._around.options, "environment").get(name)
        return extra if isinstance(extra, str) else items.get(name)

    def spam_status(self) -> tuple[float, float] | None:
        return self._status("spamtest")

    def virus_status(self) -> int | None:
        return status.virus_value(self._status("virustest"))

    def own_addresses(self) -> Sequence[str]:
        return self._around.own

    def include(self, location: str, name: str) -> str | None:
        folder = self._around.personal if location == "personal" else self._around.global_
        if not folder or "/" in name or "\0" in name or name.startswith("."):
            return None
        path = os.path.join(folder, name if name.endswith(SUFFIX) else name + SUFFIX)
        try:
            with open(path, "rb") as stream:
                return stream.read(MAX_SCRIPT).decode("utf-8", "replace")
        except OSError:
            return None

    def execute(self, program: str, arguments: Sequence[str], data: bytes) -> tuple[int, bytes] | None:
        return None

    def new_message_id(self) -> str:
        return make_msgid(domain="localhost").strip("<>")

    def _status(self, test: str) -> tuple[float, float] | None:
        """The result that the caller's header tells: {type: score|strlen|text, header, regex, max, values}."""
        settings = _table(self._around.options, test)
        header, pattern = str(settings.get("header", "")), str(settings.get("regex", ""))
        prefix, steps = f"sieve_{test}_", 5 if test == "virustest" else 10
        config = {
            prefix + "status_header": f"{header}:{pattern}" if pattern else header,
            prefix + "status_type": str(settings.get("type", "score")),
            prefix + "max_value": str(settings.get("max", steps)),
        }
        values = settings.get("values")
        if isinstance(values, list):
            values = {str(number): text for number, text in enumerate(values)}
        for key, value in (values if isinstance(values, Mapping) else {}).items():
            number, text = (key, value) if str(key).isdigit() else (value, key)  # either way round
            config[f"{prefix}text_value{number}"] = str(text)
        return status.status(self._view, config, test, steps)


def _members(found: object) -> tuple[str, ...]:
    if isinstance(found, str):
        found = found.split(",")
    return tuple(str(one).strip() for one in found) if isinstance(found, list) else ()


def _table(options: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = options.get(name)
    return value if isinstance(value, Mapping) else {}


def _number(value: object, default: float) -> float:
    try:
        return float(str(value))
    except ValueError:
        return default


def _read_state(folder: str) -> dict[str, float]:
    if not folder:
        return {}
    try:
        with open(os.path.join(folder, STATE_FILE), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return {str(key): _number(until, 0.0) for key, until in found.items()} if isinstance(found, dict) else {}
