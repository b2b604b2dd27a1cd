"""One message and what somebody says it is: the values that learning hands around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol

from rules.mail.message import Message

SPAM, HAM, NONE = "spam", "ham", "none"  # NONE: forget what was learned of it
KINDS: Final = (SPAM, HAM, NONE)
LEARNED, CHANGED, AGAIN, FORGOTTEN, SKIPPED, FAILED = (
    "learned",
    "changed",
    "again",
    "forgotten",
    "skipped",
    "failed",
)
DIGEST_OCTETS: Final = 16
_TELLING = (b"from", b"date", b"message-id", b"subject")


@dataclass(frozen=True, slots=True)
class Lesson:
    """``before``: what an earlier lesson said of it, as far as the journal knows; "" = nothing."""

    digest: bytes
    data: bytes
    kind: str
    before: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``what``: one of the words above. FAILED is tried again; ``absent``: nobody is there to teach."""

    what: str
    reason: str = ""
    absent: bool = False


class Teacher(Protocol):
    """Teaches one engine. ``account`` "" is everybody."""

    name: str
    max_size: int

    async def teach(self, account: str, lessons: Sequence[Lesson]) -> list[Outcome]:
        """One outcome a lesson, in order; never raises for what the engine does."""
        ...

    async def close(self) -> None: ...


def digest(data: bytes) -> bytes:
    """Which message it is: the same for its copies in several mailboxes, whatever servers added to the header on the way."""
    message = Message(data)
    made = blake2b(digest_size=DIGEST_OCTETS)
    for name in _TELLING:
        made.update((message.first(name) or b"").strip() + b"\0")
    made.update(data[message.header.body_start :].rstrip())
    return made.digest()
