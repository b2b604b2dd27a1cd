"""The SMTP server core: MX, submission and LMTP in one, without a socket.

Specification: RFC 5321, 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2034 and 3463 (enhanced
codes), 3030 (CHUNKING; without BINARYMIME), 3461 (DSN parameters, kept), 3207 (STARTTLS), 4954 (AUTH), 9422 (LIMITS),
2033 (LMTP), 6409 (submission: login first), Postfix's XCLIENT_README. Complete: yes, except VRFY and EXPN, which tell
nothing (252, 502).

Theory of operation. Octets go in by ``receive_data``; ``next_event`` hands out one event at a time, or None when it
needs more octets. Some events *ask* (``smtp_events``): the core then reads nothing further until ``reply`` brings the
answer, so pipelined commands are done strictly in order and every reply stands in ``data_to_send`` in that order too.

The connection is in one ``State``; the table in ``smtp_states`` says in which states, and at which doors, a command is
done; in any other state it is 503. A transaction lives from a good MAIL to its end: Text answered, or Abort told, which is
told exactly once for each transaction that ends otherwise (RSET, HELO, refused text, cut connection).

Invariants: nothing that came before TLS is remembered after it, neither octets nor names. Only CR LF . CR LF ends DATA.
After DATA was refused the octets that follow are commands, after BDAT was refused they are swallowed: RFC 5321 and 3030
say where the next command begins, and both ends must agree. A fault that leaves that in doubt closes the connection.
"""

from __future__ import annotations

from collections.abc import Callable

from filterd.proto import sasl, smtp_parse
from filterd.proto import smtp_states as fixed
from filterd.proto.lines import LineFault, LineReader
from filterd.proto.smtp_data import DotReader
from filterd.proto.smtp_data import Text as TextOctets
from filterd.proto.smtp_events import (
    Abort,
    Acknowledged,
    Auth,
    Close,
    Connected,
    Event,
    Helo,
    Mail,
    Rcpt,
    StartTls,
    Text,
    Xclient,
)
from filterd.proto.smtp_limits import SmtpConfig
from filterd.proto.smtp_parse import SyntaxFault
from filterd.proto.smtp_states import COMMANDS, State, auth_offered, capabilities
from pipeline.envelope import Profile
from pipeline.reply import Reply

Continue = Callable[[tuple[Reply | None, ...]], None]


class SmtpCore:
    """One connection. See the module's docstring for the order of calls."""

    # fmt: off
    __slots__ = (
        "_asked", "_auth_failures", "_blob_last", "_blob_left", "_dots", "_eof", "_errors",
        "_idle", "_octets", "_open", "_out", "_queue", "_reader", "_refused",
        "_resume", "_sasl", "_stale", "_transactions", "_unheard", "_utf8", "authenticated", "config",
        "esmtp", "helo", "recipients", "settled", "state", "tls", "xclient",
    )
    # fmt: on

    def __init__(self, config: SmtpConfig, *, tls: bool = False, xclient: bool = False) -> None:
        """``tls``: the connection began with TLS. ``xclient``: the peer may speak for others."""
        self.config = config
        self.tls = tls
        self.xclient = xclient
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
        self._sasl = sasl.Dialog()
        self._dots: DotReader | None = None
        self._octets: TextOctets | None = None  # of a BDAT transaction; None while swallowing
        self._blob_left = 0
        self._blob_last = False
        self._resume = State.READY  # after swallowed BDAT octets
        self._open = False  # a transaction that must come to Text or Abort
        self._utf8 = False
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

    def next_event(self) -> Event | None:
        """The next event; None: more octets are needed (or an answer is outstanding)."""
        while not self._queue:
            if self._asked is not None:
                return None
            state = self.state
            if state is State.TEXT:
                going = self._read_text()
            elif state is State.BLOB:
                going = self._read_blob()
            elif state is State.GREETING:
                self._ask(Connected(), self._on_connected)
                going = True
            elif state is State.CLOSED or state is State.TLS:
                going = False
            else:
                going = self._read_line()
            if not going:
                if not self._eof or state is State.CLOSED:
                    return None
                self._end()
        return self._queue.pop(0)

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

    # -- commands -----------------------------------------------------------------------------------
    def _read_line(self) -> bool:
        reader = self._reader
        before = len(reader) if self._unheard else 0
        line = reader.next_line()
        if line is None:
            if reader.dropped > self.config.limits.line_swallow:
                self._hang_up(Reply(421, "4.5.2", "Line far too long; closing"))
                return True
            return False
        if self._unheard:
            # Octets that were here before our reply went out do not show that the client heard it.
            used = before - len(reader)
            if used > self._stale:
                self._unheard = False
                self._queue.append(Acknowledged())
            else:
                self._stale -= used
        if isinstance(line, LineFault):
            if self.state is State.SASL:
                self._sasl.forget()
                self._enter(State.READY)
            self._error(fixed.LINE_FAULTS[line])
            if line is LineFault.BARE_LF and self.state is not State.CLOSED:
                self._end()
        elif self.state is State.SASL:
            self._sasl_step(self._sasl.line(line))
        else:
            self._command(line)
        return True

    def _command(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        command = COMMANDS.get(verb)
        limits = self.config.limits
        if len(line) + 2 > limits.command_line and verb != b"AUTH":
            self._error(fixed.LINE_FAULTS[LineFault.TOO_LONG])
        elif command is None or (verb == b"XCLIENT" and not self.xclient):
            self._error(fixed.UNKNOWN)
        elif self.config.profile not in command.doors:
            self._error(
                fixed.UNKNOWN if verb.endswith(b"LO") else Reply(502, "5.5.1", "Command not available here")
            )
        elif self.state not in command.states:
            self._error(self._out_of_order())
        elif command.bare and argument.strip(b" "):
            self._error(Reply(501, "5.5.4", "No argument allowed"))
        elif command.idle and self._idles_too_long():
            self._error(fixed.BAD_SEQUENCE)
        else:
            try:
                getattr(self, command.method)(argument.strip(b" "))
            except SyntaxFault as fault:
                self._error(fault.reply)

    def _idles_too_long(self) -> bool:
        """Beyond so many commands that send no mail each one counts as an error too."""
        self._idle += 1
        if self._idle > self.config.limits.idle_commands:
            self._errors += 1
        return self._errors > self.config.limits.errors

    def _out_of_order(self) -> Reply:
        if self.state is State.START:
            return fixed.NEED_LHLO if self.config.profile is Profile.LMTP else fixed.NEED_HELO
        return fixed.BAD_SEQUENCE

    def _on_connected(self, replies: tuple[Reply | None, ...]) -> None:
        reply = replies[0] if replies else fixed.BUG
        if reply is not None:
            self._put(reply)
            self._end()
            return
        kind = "LMTP" if self.config.profile is Profile.LMTP else self.config.banner
        self._put(Reply(220, "", f"{self.config.hostname} {kind}"))
        self._enter(State.START)

    def _helo(self, argument: bytes) -> None:
        self._hello(argument, esmtp=False)

    def _ehlo(self, argument: bytes) -> None:
        self._hello(argument, esmtp=True)

    def _hello(self, argument: bytes, *, esmtp: bool) -> None:
        name = smtp_parse.helo_name(argument)
        self._drop_transaction()

        def going_on(replies: tuple[Reply | None, ...]) -> None:
            reply = replies[0] if replies else fixed.BUG
            if reply is not None and not reply.positive:
                self._put(reply)
                return
            self.helo = name
            self.esmtp = esmtp
            lines = [self.config.hostname]
            if esmtp:
                lines += capabilities(self.config, self.tls, self.authenticated, self.xclient)
            self._put(Reply(250, "", "\n".join(lines)))
            self._enter(State.READY)

        self._ask(Helo(name, esmtp), going_on)

    def _mail(self, argument: bytes) -> None:
        config = self.config
        if config.auth_required and not self.authenticated:
            if config.starttls and not self.tls and not config.allow_plain_auth:
                raise SyntaxFault(530, "5.7.0", "Must issue a STARTTLS command first")
            raise SyntaxFault(530, "5.7.0", "Authentication required")
        if self._transactions >= config.limits.transactions:
            self._hang_up(Reply(421, "4.7.0", "Too many messages in one connection"))
            return
        reverse_path, params = smtp_parse.mail(argument, config, self.esmtp)
        utf8 = "SMTPUTF8" in params

        def going_on(replies: tuple[Reply | None, ...]) -> None:
            reply = (replies[0] if replies else None) or fixed.BUG
            self._put(reply)
            if reply.positive:
                self._utf8 = utf8
                self._open = True
                self.settled = True
                self._enter(State.MAIL)

        self._ask(Mail(reverse_path, params), going_on)

    def _rcpt(self, argument: bytes) -> None:
        limits = self.config.limits
        forward_path, params = smtp_parse.rcpt(argument, limits, self.esmtp, self._utf8)
        if self.recipients >= limits.recipients:
            # RFC 5321 4.5.3.1.10: temporary, so that the client sends the others in a further transaction.
            self._put(Reply(452, "4.5.3", "Too many recipients"))
            return
        self._ask(Rcpt(forward_path, params), self._on_rcpt)

    def _on_rcpt(self, replies: tuple[Reply | None, ...]) -> None:
        reply = (replies[0] if replies else None) or fixed.BUG
        if reply.positive:
            self._put(reply)
            self.recipients += 1
            self.state = State.RCPT
            return
        if not reply.temporary:
            self._refused += 1
            if self._refused > self.config.limits.refused_recipients:
                self._hang_up(Reply(421, "4.7.0", "Too many unknown recipients; closing"))
                return
        self._put(reply)

    def _data(self, argument: bytes) -> None:
        if not self.recipients:
            raise self._nobody()
        self._dots = DotReader(self.config.size_limit)
        self._out.append(fixed.GO_ON)
        self.state = State.TEXT

    def _nobody(self) -> SyntaxFault:
        # RFC 2033 4.2 wants 503 for LMTP; RFC 5321 3.3 allows 503 or 554 and means the same.
        code = 503 if self.config.profile is Profile.LMTP else 554
        return SyntaxFault(code, "5.5.1", "No valid recipients")

    def _read_text(self) -> bool:
        dots = self._dots
        if dots is None or not len(self._reader):
            return False
        rest = dots.feed(self._reader.drain())
        text = dots.text
        if rest is None:
            return self._swallowed_enough(text)
        self._reader.push_back(rest)
        self._text_done(text)
        return True

    def _swallowed_enough(self, text: TextOctets) -> bool:
        """True when a client that sends on and on above the limit was cut off."""
        if text.received <= self.config.swallow:
            return False
        self._hang_up(Reply(421, "4.3.4", "Message far too big; closing"))
        return True

    def _text_done(self, text: TextOctets) -> None:
        data = text.finish()
        if text.too_big or text.bare:
            self._errors += 1
            self._refuse_text(fixed.TOO_BIG if text.too_big else fixed.BARE, whole=True)
            return
        self._open = False  # the text's taker now answers for it
        self._ask(Text(data, self.recipients), self._on_text)

    def _refuse_text(self, reply: Reply, *, whole: bool) -> None:
        """LMTP answers a ``whole`` text once for each recipient, also when it refuses it here."""
        for _ in range(self.recipients if whole and self.config.profile is Profile.LMTP else 1):
            self._put(reply)
        self._drop_transaction()

    def _on_text(self, replies: tuple[Reply | None, ...]) -> None:
        wanted = self.recipients if self.config.profile is Profile.LMTP else 1
        answers = [reply or fixed.BUG for reply in replies[:wanted]]
        answers += [fixed.BUG] * (wanted - len(answers))
        for reply in answers:
            self._put(reply)
        self._transactions += 1
        self._idle = 0
        if any(reply.positive for reply in answers):
            self._unheard = True
            self._stale = len(self._reader)
        self._forget_transaction()

    # -- BDAT (RFC 3030) ----------------------------------------------------------------------------
    def _bdat(self, argument: bytes) -> None:
        size = smtp_parse.bdat(argument)
        if size is None:
            # Nobody knows where the next command begins.
            self._put(Reply(501, "5.5.4", "Syntax: BDAT size [LAST]"))
            self._end()
            return
        self._blob_left, self._blob_last = count, last = size
        good = self.state is State.CHUNKS or (self.state is State.RCPT and self.recipients > 0)
        if not good:
            fault = self._nobody() if self.state is State.MAIL else None
            self._error(fault.reply if fault else self._out_of_order())
            self._swallow()
            return
        if self._octets is None:
            self._octets = TextOctets(self.config.size_limit)
        octets = self._octets
        if octets.size + count > self.config.size_limit:
            self._refuse_text(fixed.TOO_BIG, whole=last)
            self._swallow()
            return
        self.state = State.BLOB

    def _swallow(self) -> None:
        """Read over the octets of a BDAT that was refused, then be where we were."""
        if self.state is State.CLOSED or not self._blob_left:
            return
        if self._blob_left > self.config.swallow:
            self._end()
            return
        self._resume = self.state
        self.state = State.BLOB

    def _read_blob(self) -> bool:
        piece = self._reader.take(self._blob_left)
        self._blob_left -= len(piece)
        octets = self._octets
        if octets is not None:
            octets.add_raw(piece)
        if self._blob_left:
            return False
        if octets is None:
            self._enter(self._resume)
        elif self._blob_last:
            self._text_done(octets)
        else:
            self.state = State.CHUNKS
            self._out.append(fixed.OK)
        return True

    # -- the rest -----------------------------------------------------------------------------------
    def _rset(self, argument: bytes) -> None:
        self._drop_transaction()
        self._out.append(fixed.OK)

    def _noop(self, argument: bytes) -> None:
        self._out.append(fixed.OK)

    def _help(self, argument: bytes) -> None:
        self._put(Reply(214, "2.0.0", "See RFC 5321"))

    def _vrfy(self, argument: bytes) -> None:
        if not argument:
            raise SyntaxFault(501, "5.5.4", "An address is needed")
        # RFC 5321 7.3: tells nobody who lives here.
        self._put(Reply(252, "2.0.0", "Cannot VRFY; send some mail and try"))

    def _expn(self, argument: bytes) -> None:
        self._error(Reply(502, "5.5.1", "EXPN is not available"))

    def _quit(self, argument: bytes) -> None:
        self._drop_transaction()
        self._put(Reply(221, "2.0.0", "Bye"))
        self._end()

    def _starttls(self, argument: bytes) -> None:
        if self.tls:
            raise SyntaxFault(503, "5.5.1", "TLS is already active")
        if not self.config.starttls:
            raise SyntaxFault(502, "5.5.1", "TLS is not available")
        # RFC 3207 4.2 and RELIABILITY 5: what waits in the buffer came in clear and must not count as sent under TLS.
        self._reader.clear()
        self.helo = ""
        self.esmtp = False
        self.authenticated = False
        self._unheard = False
        self._put(Reply(220, "2.0.0", "Ready to start TLS"))
        self.state = State.TLS
        self._queue.append(StartTls())

    def _xclient(self, argument: bytes) -> None:
        facts = smtp_parse.xclient(argument)
        self.helo = ""
        self.esmtp = False
        if "LOGIN" in facts:
            self.authenticated = bool(facts["LOGIN"])
        self._queue.append(Xclient(facts))
        self.state = State.GREETING

    # -- AUTH (RFC 4954) ----------------------------------------------------------------------------
    def _auth(self, argument: bytes) -> None:
        if self.authenticated:
            raise SyntaxFault(503, "5.5.1", "Already authenticated")
        if not self.config.auth:
            raise SyntaxFault(502, "5.5.1", "Command not available here")
        if not auth_offered(self.config, self.tls):
            raise SyntaxFault(538, "5.7.11", "Encryption required for authentication")
        words = argument.split()
        if not 1 <= len(words) <= 2:
            raise SyntaxFault(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
        self._sasl_step(self._sasl.begin(words[0].decode("latin-1"), words[1] if len(words) == 2 else None))

    def _sasl_step(self, step: sasl.Step | sasl.WireFault) -> None:
        if isinstance(step, sasl.Challenge):
            self._out.append(b"334 " + sasl.encode(step.data) + b"\r\n")
            self._enter(State.SASL)
            return
        self._enter(State.READY)
        match step:
            case sasl.Credentials():
                self._ask(Auth(step.login, step.password), self._on_auth)
            case sasl.Failed():
                self._on_auth((None,))
            case sasl.WireFault.CANCELLED:
                self._error(Reply(501, "5.7.0", "Authentication cancelled"))
            case sasl.WireFault.BAD_BASE64:
                self._error(Reply(501, "5.5.2", "Invalid base64"))
            case sasl.WireFault.UNKNOWN_MECHANISM:
                self._error(Reply(504, "5.5.4", "Unrecognized authentication mechanism"))

    def _on_auth(self, replies: tuple[Reply | None, ...]) -> None:
        reply = replies[0] if replies else fixed.BUG
        if reply is not None and reply.positive:
            self.authenticated = True
            self.settled = True
            self._put(reply)
            return
        if reply is None:
            self._auth_failures += 1
            # One text for every reason: an unknown name and a wrong password must look alike.
            reply = Reply(535, "5.7.8", "Authentication credentials invalid")
        self._put(reply)
        if self._auth_failures >= self.config.limits.auth_failures:
            self._put(Reply(421, "4.7.0", "Too many failed logins; closing"))
            self._end()
