"""The surroundings of ``filterd sieve run``: mailboxes, lists and memory as the caller describes them, nothing else.

Performs nothing; the memory of ``duplicate`` and vacation lives in ``DIR/state.json`` when the caller gives a folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import make_msgid

from filterd import __version__
from filterd.store.durable import RealDisk, make_dirs, opened, replace_small
from rules.host import Host
from rules.mail.message import Message

STATE_FILE = "state.json"
SUFFIX = ".sieve"
MAX_SCRIPT = 4 << 20  # octets of an included script


@dataclass(slots=True)
class Surroundings:
    """What the caller said. ``options`` is the JSON object of ``--config`` (SIEVE.md section 2)."""

    personal: str = ""
    global_: str = ""
    state: str = ""
    mailboxes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    own: tuple[str, ...] = ()


class OneShotHost(Host):
    """Answers for one run over one message."""

    def __init__(self, surroundings: Surroundings, message: Message, now: float) -> None:
        self._around = surroundings
        self._message = message
        self._at = now
        self._memory = _read_state(surroundings.state)
        self._uses = {
            str(name): str(use) for name, use in _table(surroundings.options, "special_use").items()
        }

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._at, UTC).astimezone()

    def mailbox_exists(self, name: str) -> bool:
        return name.upper() == "INBOX" or name in self._around.mailboxes or name in self._uses

    def special_use_exists(self, mailbox: str | None, uses: Sequence[str]) -> bool:
        have = {use.lower() for name, use in self._uses.items() if mailbox is None or name == mailbox}
        return bool(have) and {use.lower() for use in uses} <= have

    def special_use_mailbox(self, use: str) -> str | None:
        return next((name for name, kind in self._uses.items() if kind.lower() == use.lower()), None)

    def mailbox_id_exists(self, mailbox_id: str) -> bool:
        return False

    def metadata(self, mailbox: str | None, name: str) -> str | None:
        """``{"/shared/x": "value", "INBOX": {"/private/y": "value"}}``: server annotations beside those of mailboxes."""
        known = _table(self._around.options, "metadata")
        found = known.get(name) if mailbox is None else _table(known, mailbox).get(name)
        return found if isinstance(found, str) else None

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

    def list_contains(self, list_name: str, value: str) -> bool | None:
        members = _table(self._around.options, "lists").get(list_name)
        if not isinstance(members, list):
            return None
        return value.lower() in {str(member).lower() for member in members}

    def environment(self, name: str) -> str | None:
        items = {"name": "filterd", "version": __version__, "location": "MDA", "phase": "during"}
        extra = _table(self._around.options, "environment").get(name)
        return extra if isinstance(extra, str) else items.get(name)

    def spam_status(self) -> tuple[float, float] | None:
        return self._status("spamtest")

    def virus_status(self) -> int | None:
        found = self._status("virustest")
        return None if found is None else max(0, min(5, round(found[0])))

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

    def _status(self, name: str) -> tuple[float, float] | None:
        """(value, maximum) from the header the caller names: its number, its length, or a text with a given value."""
        settings = _table(self._around.options, name)
        header = str(settings.get("header", ""))
        raw = self._message.first(header.lower().encode()) if header else None
        if raw is None:
            return None
        text = raw.decode("utf-8", "replace")
        pattern = str(settings.get("regex", ""))
        if pattern:
            match = re.search(pattern, text[:1000])
            if match is None:
                return None
            text = match[1] if match.groups() else match[0]
        maximum = _number(settings.get("max"), 5.0 if name == "virustest" else 10.0)
        kind = settings.get("type", "score")
        if kind == "strlen":
            return float(len(text.strip())), maximum
        if kind == "text":
            values = {str(said): value for value, said in _table(settings, "values").items()}
            return (_number(values[text.strip()], 0.0), maximum) if text.strip() in values else None
        found = re.search(r"[-+]?\d+(?:\.\d+)?", text)
        return (float(found[0]), maximum) if found else None


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
