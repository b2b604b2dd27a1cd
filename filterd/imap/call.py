"""A command at work: what its handler sees, and what it may answer with.

A handler is a factory: ``parse(parser, session, uid)`` reads the arguments and returns ``run(call)``. ``run`` returns the
text of the tagged OK, or is a generator that yields whenever enough has been produced (``call.full``) or done for one
step, and returns that text at its end. Between two steps the account is let go and ``call.store`` may be another object:
nothing of it is kept in a local over a ``yield``. ``run`` may return None when the tagged answer comes later (LOGIN).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.imap.errors import Bad, No
from filterd.imap.numset import NumSet, Spans
from filterd.imap.parse import Parser
from filterd.imap.state import State
from filterd.imap.view import View
from filterd.store.base import AccountStore
from filterd.store.ready import NotReady

if TYPE_CHECKING:
    from filterd.imap.events import MailboxEvent
    from filterd.imap.session import Session

AT_ONCE = 1_000_000  # nanoseconds
Steps = Generator[None, None, str]
Run = Callable[["Call"], "str | Steps | None"]
Parse = Callable[[Parser, "Session", bool], Run]


@dataclass(frozen=True, slots=True)
class Spec:
    """One line of a registry. ``store``: runs in the pool with the account's store. ``expunge``: EXPUNGE may be told at
    its end (RFC 9051 5.5); the UID form of a command always may. ``uid``: there is a UID form."""

    name: bytes
    states: frozenset[State]
    parse: Parse
    store: bool = True
    expunge: bool = True
    uid: bool = False
    plain: bool = True  # exists without UID
    look: bool = True  # changes by others are told before it runs, not only after
    still: bool = False  # it changes nothing itself: when it takes one step, that one look is enough
    own: bool = False  # what it does is told whatever NOTIFY says
    quick: bool = False  # worth trying on the loop, with what is in memory (``filterd.store.ready``)


class Call:
    """``write`` collects untagged responses; ``full`` says that a step has produced enough."""

    __slots__ = (
        "_out",
        "_size",
        "_store",
        "at_once",
        "events",
        "heard",
        "later",
        "limited",
        "progress",
        "session",
        "tag",
        "uid",
    )

    def __init__(self, session: Session, tag: bytes, uid: bool) -> None:
        self.session = session
        self.tag = tag
        self.uid = uid
        self._out: list[bytes] = []
        self._size = 0
        self._store: AccountStore | None = None
        self.at_once = False  # on the loop: there is little time
        self.progress: tuple[int, int] | None = None  # messages done, of how many: for INPROGRESS
        self.later = False  # the tagged answer comes from elsewhere
        self.limited = ""  # the code that says how far the command came (RFC 9738)
        self.heard: set[int] = set()  # UIDs whose flags were told before the command ran
        self.events: list[MailboxEvent] = []  # told by the shell when the answer is out

    @property
    def store(self) -> AccountStore:
        assert self._store is not None, "this command was not registered with store=True"
        return self._store

    def enter(self, store: AccountStore | None) -> None:
        self._store = store

    def costs(self, nanoseconds: int) -> None:
        """Before anything that takes so long: on the loop there is little time."""
        if self.at_once and nanoseconds > AT_ONCE:
            raise NotReady("too much")

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)

    @property
    def full(self) -> bool:
        return self._size >= self.session.config.limits.step

    def take(self) -> list[bytes]:
        out, self._out, self._size = self._out, [], 0
        return out

    @property
    def view(self) -> View:
        view = self.session.view
        if view is None:
            raise Bad("No mailbox selected")
        return view

    def writable(self) -> View:
        view = self.view
        if view.read_only:
            raise No("The mailbox is open read-only", "READ-ONLY" if self.session.rev2 else "")
        return view

    def spans(self, wanted: NumSet) -> Spans:
        """Positions of the messages that a command's set names, by number or by UID as the command says."""
        view = self.view
        if wanted.saved:
            return self.session.saved_spans(view)
        if self.uid:
            return wanted.spans_of_uids(view.uids)
        if wanted.beyond(len(view)):
            raise Bad("No such message number")
        return wanted.spans_of_numbers(len(view))
