"""The sans-IO core of one IMAP connection.

Specification: RFC 9051 (IMAP4rev2) and RFC 3501 (IMAP4rev1) sections 3, 5 and 7.

    receive_data(octets)     as they come
    next_event() -> Event    what the shell shall do now; None: nothing until more octets (or an answer) arrive
    data_to_send() -> bytes  everything that is ready

Events: ``Work`` (run ``step(store)`` in the pool and send what it returns, again until ``done``, then ``work_done``),
``Authenticate`` (answer with ``authenticated``), ``StartTls``, ``StartCompress``, ``Idle``/``IdleEnd`` (watch the mailbox;
``wake`` when it may have changed), ``Watch`` (call ``mailbox_changed`` when one of these may have changed, NOTIFY), ``Filter``
(answer with ``filtered``), ``Pause`` (it is others' turn), ``Close``. It is a core for ``filterd.net.connection``.
Commands run one after another, none while an event is unanswered. What is enabled only grows; a new login after UNAUTHENTICATE
begins anew. While ``step`` runs in another thread the shell calls nothing else of the session but ``receive_data``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.accounts.directory import Account
from filterd.imap import numset, state
from filterd.imap.call import Call
from filterd.imap.cmd.authenticate import go_on
from filterd.imap.cmd.fetch import again
from filterd.imap.config import ImapServerConfig
from filterd.imap.errors import Bad, ImapError, No
from filterd.imap.filtering import Filter
from filterd.imap.notify import FLAG_CHANGE, Notify, NotifyWork
from filterd.imap.parse import Parser
from filterd.imap.registry import capabilities, find, require_uid
from filterd.imap.shared import SharedStore
from filterd.imap.state import State
from filterd.imap.view import Style, View
from filterd.imap.watching import Watching
from filterd.imap.wire import Command, Continue, Line, Reader, Refused, WireEvent
from filterd.imap.work import IdleWork, Work
from filterd.proto import sasl
from filterd.proto.lines import Pause
from pipeline.ports import Clock

if TYPE_CHECKING:
    from filterd.imap.one import Memo


@dataclass(slots=True)
class Authenticate:
    """Asks: first ``judged``, and when that says no ``authenticated``. ``evidence``: of mechanisms other than a password."""

    login: str
    password: str
    evidence: sasl.Evidence | None = None


@dataclass(slots=True)
class StartTls:
    """The OK has been written; input read so far is dropped. Begin TLS, then call ``tls_started``."""


@dataclass(slots=True)
class StartCompress:
    """Send the OK, then DEFLATE both ways. ``rest``: input already read behind the command, compressed."""

    rest: bytes


@dataclass(slots=True)
class Idle:
    mailbox: str | None


@dataclass(slots=True)
class IdleEnd:
    pass


@dataclass(slots=True)
class Watch:
    """From now on ``mailbox_changed`` shall be called for these mailboxes (and no others)."""

    mailboxes: tuple[str, ...]


@dataclass(slots=True)
class Close:
    pass


Unanswered = Idle | IdleEnd | Watch | Pause | Close
Event = Work | IdleWork | Filter | Authenticate | StartTls | StartCompress | Unanswered
Continuation = Callable[[bytes], None]


class Session:
    __slots__ = (
        "_bad",
        "_closed",
        "_continuation",
        "_dialog",
        "_dirty",
        "_doing",
        "_eof",
        "_events",
        "_out",
        "_pending",
        "_reader",
        "_wake",
        "account",
        "body_cache",
        "channel",
        "clock",
        "compressed",
        "condstore",
        "config",
        "fetch_memo",
        "idle_tag",
        "notify",
        "own",
        "qresync",
        "rev2",
        "saved",
        "settled",
        "shared",
        "state",
        "tls",
        "uidonly",
        "utf8",
        "view",
    )

    config: ImapServerConfig
    compressed: bool
    tls: bool

    def __init__(
        self,
        config: ImapServerConfig,
        clock: Clock,
        *,
        tls: bool = False,
        channel: sasl.Channel = sasl.NO_CHANNEL,
    ) -> None:
        self.config = config
        self.clock = clock
        self.tls = tls
        self.channel = channel  # the shell keeps it current
        self._dialog: sasl.Dialog | None = None  # of the log-in under way
        self.compressed = False
        self.state = State.NOT_AUTHENTICATED
        self._reader = Reader(config.limits, config.message_size)
        self._events: deque[Event] = deque()
        self._out: list[bytes] = []
        self._doing: Event | None = None  # an event that is with the shell and not yet answered
        self._closed = False
        self._eof = False
        self._wake = b""  # idling: b"look" or b"alive" when the mailbox shall be looked at
        self.settled = False  # somebody has logged in, ever
        self._continuation: Continuation | None = None
        self._pending = b"*"  # tag of the command whose answer comes later
        self._bad = 0
        self.idle_tag = b""
        self._dirty: set[str] = set()  # mailboxes that notices were about
        self.notify: Notify | None = None
        self.own = False  # a command of the client's does what is told
        self._forget()
        self._out.append(
            b"* OK [CAPABILITY %b] %b\r\n" % (capabilities(self), config.greeting.encode("ascii", "replace"))
        )

    def _forget(self) -> None:
        """Everything that belongs to a login."""
        self.account: Account | None = None
        self.shared: SharedStore | None = None
        self.view: View | None = None
        self.notify = None
        self._dirty = set()
        self.condstore = self.qresync = self.utf8 = self.rev2 = self.uidonly = False
        self.saved: tuple[int, ...] | None = None
        self.body_cache: tuple[str, int, bytes] | None = None
        self.fetch_memo: Memo | None = None

    # -- octets -------------------------------------------------------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        self._reader.feed(data)

    def data_to_send(self) -> bytes:
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    @property
    def idling(self) -> bool:
        return bool(self.idle_tag)

    def write(self, data: bytes) -> None:
        self._out.append(data)

    def receive_eof(self) -> None:
        """Nothing more will come: what was sent is still done, then the connection ends."""
        self._eof = True
        self._leave_idle()

    # -- what the shell keeps time by -----------------------------------------------------------------------------
    def __len__(self) -> int:
        return self._reader.pending

    def __bool__(self) -> bool:
        return True

    @property
    def patience(self) -> float:
        limits = self.config.limits
        return limits.login_deadline if self.state is State.NOT_AUTHENTICATED else limits.autologout

    @property
    def prelude(self) -> float:
        return self.config.limits.login_deadline

    @property
    def in_text(self) -> bool:
        return self._reader.in_literal and self.account is not None

    @property
    def text_patience(self) -> float:
        return self.config.limits.upload

    # -- the shell's own news -------------------------------------------------------------------------------------
    def lost(self) -> None:
        """The connection is gone."""
        self._events.clear()
        self._leave_idle()
        self._closed = True

    def shut_down(self) -> None:
        self.bye("Server shutting down")

    def timed_out(self) -> None:
        self.bye("Autologout")

    def internal_error(self) -> None:
        """The event that the shell performed last failed by a fault of ours."""
        self.not_done("Internal error", "SERVERBUG")

    def unavailable(self) -> None:
        """The same, by a fault of the world: the disk, the directory."""
        self.not_done("Try again later", "UNAVAILABLE")

    def not_done(self, text: str, code: str) -> None:
        event, self._doing = self._doing, None
        if isinstance(event, (Work, IdleWork)):
            event.close()
        if isinstance(event, Work):
            self.write(No(text, code).render(event.call.tag))
        elif isinstance(event, Authenticate):
            self.write(No(text, code).render(self._pending))
        elif isinstance(event, Filter):
            self.write(No(text, code).render(event.tag))
        elif isinstance(event, (StartTls, StartCompress)):
            self.move(State.LOGOUT)

    # -- events -------------------------------------------------------------------------------------------------
    def next_event(self) -> Event | None:
        while True:
            if self._events:
                event = self._events.popleft()
                if not isinstance(event, Unanswered):
                    self._doing = event
                return event
            if self._doing is not None or self._closed:
                return None
            if self.state is State.LOGOUT:
                self._closed = True
                return Close()
            if self._wake and (work := self._look()) is not None:
                return work
            if self._dirty and (news := self._news()) is not None:
                return news
            seen = self._reader.next()
            if seen is not None:
                self._take(seen)
            elif self._eof:
                self.move(State.LOGOUT)
            else:
                return None

    def _take(self, seen: WireEvent) -> None:
        match seen:
            case Command():
                self._command(seen)
            case Continue():
                self.write(b"+ OK\r\n")
            case Pause():
                self._events.append(seen)
            case Refused():
                self.write(b"%b %b %b\r\n" % (seen.tag or b"*", seen.kind, seen.text))
                if seen.fatal:
                    self.bye("Too much")
                else:
                    self._count_bad()
            case Line():
                continuation, self._continuation = self._continuation, None
                self._reader.expect_line = False
                if continuation is not None:
                    continuation(seen.data)

    def _command(self, command: Command) -> None:
        if self.fetch_memo is not None and (work := again(self, command)) is not None:
            self._events.append(work)
            return
        parser = Parser(command, self.config.limits, self.utf8 or self.rev2)
        parser.at = len(command.tag)
        try:
            parser.sp()
            name = parser.word()
            uid = name == b"UID"
            if uid:
                parser.sp()
                name = parser.word()
            spec = find(name, uid)
            if spec is None:
                raise Bad("Unknown command")
            if self.state not in spec.states:
                raise Bad(f"Not possible in the {self.state.value} state")
            require_uid(self, spec, uid)
            run = spec.parse(parser, self, uid)
            call = Call(self, command.tag, uid)
            if spec.name != b"FETCH":
                self.body_cache = None
            # Commands of every state (NOOP) have nothing to ask the store unless a mailbox is selected.
            if spec.store and (self.view is not None or spec.states is not state.ANY):
                self._events.append(Work(call, run, spec))
                return
            self._pending = command.tag
            result = run(call)
            assert result is None or isinstance(result, str), "steps need the store"
        except ImapError as error:
            self.fail(command.tag, error)
            return
        self._out.extend(call.take())
        if result is not None:
            self.ok(command.tag, result)

    # -- answers ------------------------------------------------------------------------------------------------
    def ok(self, tag: bytes, text: str) -> None:
        self.write(b"%b OK %b\r\n" % (tag, text.encode("ascii", "replace")))
        if self.state is not State.NOT_AUTHENTICATED:
            self._bad = 0

    def fail(self, tag: bytes, error: ImapError) -> None:
        self.write(error.render(tag))
        if isinstance(error, Bad):
            self._count_bad()

    def _count_bad(self) -> None:
        self._bad += 1
        limits = self.config.limits
        if self._bad >= (limits.bad_before_login if self.state is State.NOT_AUTHENTICATED else limits.bad):
            self.bye("Too many invalid commands")

    def bye(self, text: str) -> None:
        """Say BYE; the connection ends after it."""
        if self.state is not State.LOGOUT:
            self._leave_idle()
            self.write(b"* BYE %b\r\n" % text.encode("ascii", "replace"))
            self.move(State.LOGOUT)

    def move(self, new: State) -> None:
        self.state = state.move(self.state, new)

    # -- continuation lines: AUTHENTICATE and IDLE ------------------------------------------------------------------
    def ask(self, prompt: bytes, then: Continuation) -> None:
        self.write(b"+ %b\r\n" % prompt)
        self._reader.expect_line = True
        self._continuation = then

    # -- the shell's answers ------------------------------------------------------------------------------------
    def work_done(self, work: Work | IdleWork) -> None:
        """The last step has returned."""
        self._doing = None
        self.own = False
        self._notified()
        if work.fatal:
            self._leave_idle()
            self.move(State.LOGOUT)
        elif isinstance(work, Work):
            if work.bad:
                self._count_bad()
            else:
                self._bad = 0

    def authenticate(
        self,
        tag: bytes,
        login: str,
        password: str,
        evidence: sasl.Evidence | None = None,
        dialog: sasl.Dialog | None = None,
    ) -> None:
        self._pending = tag
        self._dialog = dialog
        self._events.append(Authenticate(login, password, evidence))

    def judged(self, account: Account | None) -> bool:
        """The evidence of ``Authenticate`` was judged. True: the client is told more first, and this question is answered."""
        dialog, self._dialog = self._dialog, None
        last = dialog.judged(account) if dialog is not None else None
        if dialog is None or last is None or self.state is State.LOGOUT:
            return False
        self._doing = None
        go_on(self, self._pending, dialog, last)
        return True

    def authenticated(self, account: Account | None) -> None:
        """The answer to ``Authenticate``."""
        self._doing = None
        if account is None:
            # RFC 9051 7.1: one text for every reason.
            self.write(No("Invalid credentials", "AUTHENTICATIONFAILED").render(self._pending))
            self._count_bad()
            return
        self._forget()
        self.account = account
        if self.config.sharing is not None:
            self.shared = SharedStore(self.config.sharing, account.id)
        self.move(State.AUTHENTICATED)
        self.settled = True
        self._reader.authenticated = True
        self.ok(self._pending, f"[CAPABILITY {capabilities(self).decode('ascii')}] Logged in")

    def start_tls(self, tag: bytes) -> None:
        self.ok(tag, "Begin TLS negotiation now")
        self._reader.clear()
        self._events.append(StartTls())

    def tls_started(self) -> None:
        """TLS is up: what was read before it, and all state, is gone (RFC 9051 6.2.1)."""
        self._doing = None
        self._reader.clear()
        self.tls = True

    def start_compress(self, tag: bytes) -> None:
        self.ok(tag, "DEFLATE active")
        self.compressed = True
        self._events.append(StartCompress(self._reader.rest()))

    def compress_started(self) -> None:
        self._doing = None

    def unauthenticate(self) -> None:
        self.move(State.NOT_AUTHENTICATED)
        if self.notify is not None:
            self._events.append(Watch(()))
        self._forget()
        self._reader.authenticated = False

    # -- FILTER -------------------------------------------------------------------------------------------------------
    def filter(self, request: Filter) -> None:
        self._events.append(request)

    def filtered(self, rest: Work) -> None:
        """The answer to ``Filter``: what is left to do of the command (``ext.filter.told``)."""
        self._doing = None
        self._events.append(rest)

    # -- IDLE ---------------------------------------------------------------------------------------------------
    def start_idle(self, tag: bytes) -> None:
        self.idle_tag = tag
        self.fetch_memo = None  # an idle connection is small
        self.ask(b"idling", self._end_idle)
        self._events.append(Idle(None if self.view is None else self.view.mailbox))
        if self.view is not None:
            self._events.append(IdleWork(self))

    def wake(self, *, alive: bool = False) -> None:
        """The mailbox may have changed while idling; ``alive`` adds a line that keeps routers awake."""
        if self.idle_tag:
            self._wake = b"alive" if alive or self._wake == b"alive" else b"look"

    def _look(self) -> IdleWork | None:
        if self._wake == b"alive":
            self.write(b"* OK Still here\r\n")
        self._wake = b""
        if not self.idle_tag or self.view is None:
            return None
        self._doing = work = IdleWork(self)
        return work

    def _leave_idle(self) -> None:
        if self.idle_tag:
            self.idle_tag = b""
            self._events.append(IdleEnd())

    def _end_idle(self, line: bytes) -> None:
        tag = self.idle_tag
        self._leave_idle()
        if line.strip().upper() == b"DONE":
            self.ok(tag, "IDLE completed")
        else:
            self.fail(tag, Bad("Expected DONE"))

    # -- what handlers ask ----------------------------------------------------------------------------------------
    def style(self, uid: bool = False) -> Style:
        style = Style(
            uid=uid or self.rev2, modseq=self.condstore, vanished=self.qresync, uidonly=self.uidonly
        )
        notify = self.notify
        if notify is not None:
            style.quiet = not self.own and (notify.selected is None or notify.selected.quiet)
            style.mute = notify.selected is None or FLAG_CHANGE not in notify.selected.events
        return style

    def open(self, view: View) -> None:
        self.view = view
        self.saved = None
        self.move(State.SELECTED)
        self._watch_again()

    def place_of(self, mailbox: str) -> tuple[str, str]:
        """The account and its mailbox whose changes are news of this one."""
        assert self.account is not None
        return (self.account.id, mailbox) if self.shared is None else self.shared.place_of(mailbox)

    def capabilities(self) -> bytes:
        return capabilities(self)

    def close_view(self) -> None:
        if self.state is State.SELECTED:
            self.view = None
            self.saved = None
            self.move(State.AUTHENTICATED)
            self._watch_again()

    # -- NOTIFY -------------------------------------------------------------------------------------------------------
    @property
    def plain(self) -> bool:
        """Nothing is told but the usual: what is in memory will do."""
        return self.notify is None and (self.view is None or not self.view.watching)

    def set_notify(self, notify: Notify) -> None:
        self.notify = notify
        self._watch_again()

    def watching(self) -> Watching:
        """Of the selected mailbox."""
        assert self.view is not None
        if self.view.watching is None:
            self.view.watching = Watching()
        return self.view.watching

    def _watch_again(self) -> None:
        notify, view = self.notify, self.view
        if notify is None:
            return
        notify.stale = False
        if view is not None and (view.watching is not None or notify.selected is not None):
            self.watching().plan = None if notify.selected is None else notify.selected.plan
        none = not notify.groups and notify.selected is None
        self._events.append(Watch(() if none else notify.watched(None if view is None else view.mailbox)))

    def mailbox_changed(self, mailbox: str) -> None:
        """Something happened there, or may have."""
        if self.notify is not None:
            self._dirty.add(mailbox)

    def _news(self) -> NotifyWork | None:
        dirty, self._dirty = frozenset(self._dirty), set()
        if self.notify is None or self.account is None:
            return None
        self._doing = work = NotifyWork(self, dirty)
        return work

    def _notified(self) -> None:
        """After a step: is there more to tell, are other mailboxes to be watched?"""
        notify, view = self.notify, self.view
        if notify is None:
            return
        if notify.stale:
            self._watch_again()
        selected = notify.selected
        if (
            view is not None
            and view.gone
            and selected is not None
            and not (selected.delayed or selected.quiet)
        ):
            self._dirty.add(view.mailbox)

    def saved_spans(self, view: View) -> numset.Spans:
        """Positions of ``$`` (RFC 5182 2.1: empty when nothing was saved; the expunged have dropped out)."""
        found = []
        for uid in self.saved or ():
            number = view.number_of(uid)
            if number:
                found.append((number - 1, number))
        return numset.merge(found)
