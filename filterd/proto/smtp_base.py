"""What every part of the SMTP server core stands on: its state, octets in and out, the open question, the ends.

The theory of operation is told in ``smtp``, whose commands and texts build on this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from filterd.proto import sasl
from filterd.proto import smtp_states as fixed
from filterd.proto.lines import LineReader
from filterd.proto.smtp_data import DotReader
from filterd.proto.smtp_data import Text as TextOctets
from filterd.proto.smtp_events import NOTHING, Abort, Acknowledged, Close, Event
from filterd.proto.smtp_limits import SmtpConfig
from filterd.proto.smtp_states import State
from pipeline.envelope import Profile
from pipeline.reply import Reply

Continue = Callable[[tuple[Reply | None, ...]], None]


def _epoch() -> float:
    return 0.0


class SmtpBase:
    """The state of one connection and its bookkeeping."""

    # fmt: off
    __slots__ = (
        "_asked", "_auth_failures", "_blob_last", "_blob_left", "_dots", "_each", "_eof", "_errors", "_forwarded",
        "_idle", "_now", "_octets", "_open", "_out", "_queue", "_reader", "_refused",
        "_resume", "_sasl", "_stale", "_transactions", "_unheard", "_utf8", "authenticated", "channel", "config",
        "esmtp", "helo", "recipients", "settled", "state", "tls", "xclient", "xforward",
    )
    # fmt: on

    def __init__(
        self,
        config: SmtpConfig,
        *,
        tls: bool = False,
        xclient: bool = False,
        xforward: bool = False,
        now: Callable[[], float] = _epoch,
    ) -> None:
        """``tls``: the connection began with TLS. ``xclient``: the peer may speak for others; ``xforward``: it may tell about
        them. ``now``: seconds since the epoch (FUTURERELEASE)."""
        self.config = config
        self.tls = tls
        self.xclient = xclient
        self.xforward = xforward
        self.state = State.GREETING
        self.helo = ""
        self.esmtp = False
        self.authenticated = False
        self.recipients = 0  # accepted in this transaction
        self.settled = False  # the prelude is over: logged in, or a MAIL accepted where no login is needed
        self._reader = LineReader(config.limits.command_line)
        self._out: list[bytes] = []
        self._queue: list[Event] = []  # seldom more than two
        self._asked: Continue | None = None
        self._sasl = sasl.Dialog(config.mechanisms)
        self.channel = sasl.NO_CHANNEL  # the shell keeps it current
        self._dots: DotReader | None = None
        self._octets: TextOctets | None = None  # of a BDAT transaction; None while swallowing
        self._blob_left = 0
        self._blob_last = False
        self._resume = State.READY  # after swallowed BDAT octets
        self._open = False  # a transaction that must come to Text or Abort
        self._utf8 = False
        self._each = False  # PRDR: each recipient has a reply of its own
        self._forwarded: Mapping[str, str] = NOTHING  # by XFORWARD, for the next transaction or this one
        self._now = now
        self._eof = False
        self._unheard = False
        self._stale = 0
        self._errors = self._idle = self._refused = self._auth_failures = self._transactions = 0

    # -- in and out ---------------------------------------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        if self.state is not State.TLS and self.state is not State.CLOSED:
            self._reader.feed(data)

    def receive_eof(self) -> None:
        self._eof = True

    def lost(self) -> None:
        """The connection is gone: no more commands, only what is told still comes."""
        self._asked = None
        self._queue = [event for event in self._queue if isinstance(event, Abort | Acknowledged | Close)]
        if self.state is not State.CLOSED:
            self._end()

    def __len__(self) -> int:
        return len(self._reader)

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def reply(self, *replies: Reply | None) -> None:
        """Answer the event that asked."""
        going_on, self._asked = self._asked, None
        if going_on is None:
            return
        going_on(replies)
        if (
            any(reply is not None and reply.code == 421 for reply in replies)
            and self.state is not State.CLOSED
        ):
            self._end()  # RFC 5321 3.8: 421 says that the channel closes

    def tls_started(self) -> None:
        """The handshake is done; what follows came under TLS."""
        self.tls = True
        self._reader.clear()
        self._enter(State.START)

    def shut_down(self) -> None:
        self._hang_up(Reply(421, "4.3.2", "Service shutting down"))

    def timed_out(self) -> None:
        self._hang_up(Reply(421, "4.4.2", "Timeout; closing"))

    def internal_error(self) -> None:
        """What was asked could not be answered by a fault of ours: temporary, whatever it was."""
        self.reply(fixed.BUG_CLOSING if self.state is State.GREETING else fixed.BUG)

    def _hang_up(self, reply: Reply) -> None:
        if self.state is not State.CLOSED:
            self._asked = None
            self._put(reply)
            self._end()

    @property
    def patience(self) -> float:
        """Seconds until the next command, or the next block of text, must be here."""
        limits = self.config.patience
        return limits.block if self.in_text else limits.command

    @property
    def prelude(self) -> float:
        return self.config.patience.prelude

    @property
    def text_patience(self) -> float:
        return self.config.patience.text

    @property
    def in_text(self) -> bool:
        return self.state is State.TEXT or self.state is State.BLOB

    # -- bookkeeping --------------------------------------------------------------------------------
    def _put(self, reply: Reply) -> None:
        text = reply.text
        if not self._utf8 and not text.isascii():
            # RFC 6531 3.7.4.2: UTF-8 in a reply only to who asked for it.
            text = text.encode("ascii", "replace").decode("ascii")
            reply = Reply(reply.code, reply.enhanced_code, text)
        if "\n" in text:
            self._out.append(reply.render())
        else:  # the same without a list: a third of a small message's replies' cost
            code = f"{reply.enhanced_code} " if reply.enhanced_code else ""
            self._out.append(f"{reply.code} {code}{text}\r\n".encode("utf-8", "replace"))

    def _ask(self, event: Event, going_on: Continue) -> None:
        self._asked = going_on
        self._queue.append(event)

    def _enter(self, state: State) -> None:
        limits = self.config.limits
        sasl_line = state is State.SASL or (
            state is State.READY and self.config.profile is Profile.SUBMISSION
        )
        self._reader.cap = limits.auth_line if sasl_line else limits.command_line
        self.state = state

    def _end(self) -> None:
        """Nothing more is read."""
        self._drop_transaction()
        self._reader.clear()
        self.state = State.CLOSED
        self._queue.append(Close())

    def _drop_transaction(self) -> None:
        """Back to READY; Abort is told when a transaction was open."""
        if self._open:
            self._queue.append(Abort())
            self._forget_transaction()

    def _forget_transaction(self) -> None:
        self._open = False
        self.recipients = 0
        self._utf8 = False
        self._each = False
        self._forwarded = NOTHING
        self._dots = None
        self._octets = None
        self._enter(State.READY)

    def _error(self, reply: Reply) -> None:
        """A reply to something the client should not have sent."""
        self._errors += 1
        if self._errors > self.config.limits.errors:
            self._hang_up(Reply(421, "4.7.0", "Too many errors; closing"))
        else:
            self._put(reply)
