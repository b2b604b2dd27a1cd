"""Commands and wake-ups that need the account's store, cut into steps for the pool (HOUSE item 17).

A step produces at most about ``limits.step`` octets, then lets the account go, so that a large FETCH neither holds the
account nor fills the memory; the shell writes it before it asks for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Protocol

from filterd.imap import acl
from filterd.imap.call import Call, Run, Spec, Steps
from filterd.imap.errors import Bad, Fatal, ImapError, No
from filterd.imap.names import astring
from filterd.imap.watching import follow
from filterd.store.base import AccountStore, NoPermission, NoSuchMailbox, StoreError
from filterd.store.ready import NotReady

if TYPE_CHECKING:
    from filterd.imap.session import Session

_TEXTS = {
    "NONEXISTENT": "No such mailbox",
    "ALREADYEXISTS": "The mailbox exists already",
    "CANNOT": "That name cannot be used so",
    "OVERQUOTA": "Over quota",
    "LIMIT": "A limit is reached",
    "UNAVAILABLE": "Try again later",
    "NOPERM": "Permission denied",
}


class Sink(Protocol):
    """Takes some of a large answer at once, in the pool's thread."""

    def write(self, pieces: Sequence[bytes]) -> list[bytes]:
        """What it could not take."""
        ...

    @property
    def expired(self) -> bool:
        """The account has been held long enough."""
        ...


Short = Callable[[AccountStore], "list[bytes] | None"]


class Work:
    """One command. ``step`` is called until ``done``; ``bad`` and ``fatal`` tell how it ended. ``short``: gives the whole answer on
    the loop when it is as simple as can be, None when it is not."""

    __slots__ = (
        "_first",
        "_report",
        "_run",
        "_short",
        "_spec",
        "_steps",
        "bad",
        "call",
        "done",
        "fatal",
        "quick",
    )

    def __init__(self, call: Call, run: Run, spec: Spec, short: Short | None = None) -> None:
        self.call = call
        self._short = short
        self._run: Run | None = run
        self._spec = spec
        self.quick = spec.quick and call.session.plain
        self._steps: Steps | None = None
        self._first = True
        self._report = call.session.clock.monotonic() + call.session.config.limits.progress
        self.done = self.bad = self.fatal = False

    @property
    def account(self) -> str:
        account = self.call.session.account
        assert account is not None
        return account.id

    def attempt(self, store: AccountStore) -> list[bytes]:
        """The first step on the loop, with what is in memory. After ``NotReady`` nothing has happened."""
        call, run = self.call, self._run
        call.at_once = True
        try:
            store = acl.stored(call.session, store, at_once=True)
            if self._short is not None and (pieces := self._short(store)) is not None:
                self.done = True
                return pieces
            return self._step(store)
        except NotReady:
            call.take()
            if self._steps is not None:
                self._steps.close()
            self._run, self._steps, self._first = run, None, True
            raise
        finally:
            call.at_once = False

    def step(self, store: AccountStore, sink: Sink | None = None) -> list[bytes]:
        """Some of the answer, as pieces to be written one behind the other; the last one has the tagged line. With a
        ``sink`` several steps are done, and what it takes is not in the result."""
        store = acl.stored(self.call.session, store)
        pieces = self._step(store)
        while sink is not None:
            pieces = sink.write(pieces)
            if pieces or self.done or sink.expired:
                break
            pieces = self._step(store)
        return pieces

    def _step(self, store: AccountStore) -> list[bytes]:
        call = self.call
        call.enter(store)
        try:
            text = self._advance(store)
            if text is not None:
                self._finish(store, text)
        except ImapError as error:
            self._end(error)
        except StoreError as error:
            self._end(translate(error))
        except Fatal as error:
            self.done = self.fatal = True
            call.write(b"* BYE %b\r\n" % error.text.encode("ascii", "replace"))
        finally:
            call.enter(None)
            self._first = False
        return call.take()

    def _advance(self, store: AccountStore) -> str | None:
        call, session = self.call, self.call.session
        if self._run is not None:
            run, self._run = self._run, None
            session.own = self._spec.own
            if session.view is not None and self._spec.look:
                style = session.style(call.uid)
                for line in session.view.refresh(store, expunge=False, style=style, heard=call.heard):
                    call.write(line)
            result = run(call)
            if not isinstance(result, Generator):
                return result or ""
            self._steps = result
        assert self._steps is not None
        if not self._first:
            self._tell_progress()
        try:
            next(self._steps)
        except StopIteration as stop:
            return str(stop.value)
        return None

    def _tell_progress(self) -> None:
        """RFC 9585: a command that takes long says how far it is, between two steps."""
        call, now = self.call, self.call.session.clock.monotonic()
        if now >= self._report:
            self._report = now + call.session.config.limits.progress
            call.write(in_progress(call.tag, call.progress))

    def _finish(self, store: AccountStore, text: str) -> None:
        call, session = self.call, self.call.session
        if call.later:
            self.done = True
            return
        if session.view is not None:
            expunge = self._spec.expunge or call.uid
            fresh = self._first and self._spec.still and self._spec.look
            for line in follow(session, store, expunge=expunge, uid=call.uid, fresh=fresh):
                call.write(line)
        if call.limited and not text.startswith("["):
            text = f"[{call.limited}] {text}, in part"
        elif call.limited:  # one code to a response: that of the tagged one is asked for by others
            call.write(b"* NO [%b] In part\r\n" % call.limited.encode("ascii"))
        call.write(b"%b OK %b\r\n" % (call.tag, text.encode("ascii", "replace")))
        self.done = True

    def _end(self, error: ImapError) -> None:
        self.done = True
        self.bad = isinstance(error, Bad)
        self.call.write(error.render(self.call.tag))
        self.close()

    def close(self) -> None:
        """Give up what is under way."""
        self.done = True
        if self._steps is not None:
            self._steps.close()


def in_progress(tag: bytes, progress: tuple[int, int] | None = None) -> bytes:
    """RFC 9585 4; ``progress``: how many messages are done, of how many."""
    far = b"NIL NIL" if progress is None else b"%d %d" % progress
    return b"* OK [INPROGRESS (%b %b)] Still working\r\n" % (astring(tag), far)


class IdleWork:
    """Tell an idling client what changed; EXPUNGE is allowed (RFC 2177)."""

    __slots__ = ("_session", "done", "fatal", "quick")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.quick = session.plain
        self.done = self.fatal = False

    @property
    def account(self) -> str:
        assert self._session.account is not None
        return self._session.account.id

    def attempt(self, store: AccountStore) -> list[bytes]:
        """As ``Work.attempt``."""
        news = list(follow(self._session, acl.stored(self._session, store, at_once=True), expunge=True))
        self.done = True
        return news

    def step(self, store: AccountStore, sink: Sink | None = None) -> list[bytes]:
        self.done = True
        try:
            news = list(follow(self._session, acl.stored(self._session, store), expunge=True))
            return news if sink is None or not news else sink.write(news)
        except Fatal as error:
            self.fatal = True
            return [b"* BYE %b\r\n" % error.text.encode("ascii", "replace")]
        except StoreError:
            return []  # the client hears of it at its next command

    def close(self) -> None:
        self.done = True


def translate(error: StoreError, create: bool = False) -> No:
    """The store's refusal as the client sees it; ``create``: creating the mailbox would help."""
    if create and isinstance(error, NoSuchMailbox) and not isinstance(error, NoPermission):
        return No("No such mailbox", "TRYCREATE")
    return No(_TEXTS.get(error.code, "Not done"), error.code)
