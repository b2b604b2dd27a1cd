"""The SMTP server core: MX, submission and LMTP in one, without a socket.

Specification: RFC 5321, 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2034 and 3463 (enhanced
codes), 3030 (CHUNKING; without BINARYMIME), 3461 (DSN parameters, kept), 3207 (STARTTLS), 4954 (AUTH), 9422 (LIMITS),
2033 (LMTP), 6409 (submission: login first), 4865 (FUTURERELEASE), draft-hall-prdr (PRDR), Postfix's XCLIENT_README and
XFORWARD_README. Complete: yes, except VRFY and EXPN, which tell
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

from filterd.accounts.directory import Account
from filterd.proto import sasl, smtp_parse, smtp_xclient
from filterd.proto import smtp_states as fixed
from filterd.proto.lines import ROW, LineFault, Pause
from filterd.proto.smtp_base import SmtpBase
from filterd.proto.smtp_data import DotReader
from filterd.proto.smtp_data import Text as TextOctets
from filterd.proto.smtp_events import (
    NOTHING,
    Acknowledged,
    Auth,
    Connected,
    Event,
    Helo,
    Mail,
    Rcpt,
    StartTls,
    Text,
    Xclient,
)
from filterd.proto.smtp_parse import SyntaxFault
from filterd.proto.smtp_states import COMMANDS, Standing, State, auth_offered, capabilities
from pipeline.envelope import Profile
from pipeline.reply import Reply


class SmtpCore(SmtpBase):
    """One connection. See the module's docstring for the order of calls."""

    __slots__ = ()

    def next_event(self) -> Event | Pause | None:
        """The next event; None: more octets are needed (or an answer is outstanding)."""
        row = ROW
        while not self._queue:
            row -= 1
            if row < 0:
                return Pause()
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

    # -- commands -----------------------------------------------------------------------------------
    def _read_line(self) -> bool:
        reader = self._reader
        before, dropped = len(reader), reader.dropped
        line = reader.next_line()
        if line is None:
            if reader.dropped > self.config.limits.line_swallow:
                self._hang_up(fixed.FAR_TOO_LONG)
                return True
            return False
        if (
            isinstance(line, LineFault)
            and dropped + before - len(reader) - 2 > self.config.limits.line_swallow
        ):
            self._hang_up(fixed.FAR_TOO_LONG)  # its end came in the same chunk: the answer is the same
            return True
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
        elif verb in fixed.WEB:
            self._hang_up(fixed.NO_WEB)
        elif command is None or not self._trusted_with(verb):
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

    def _trusted_with(self, verb: bytes) -> bool:
        if verb == b"XCLIENT":
            return self.xclient
        return verb != b"XFORWARD" or self.xforward

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
        self._forwarded = NOTHING

        def going_on(replies: tuple[Reply | None, ...]) -> None:
            reply = replies[0] if replies else fixed.BUG
            if reply is not None and not reply.positive:
                self._put(reply)
                return
            self.helo = name
            self.esmtp = esmtp
            lines = [self.config.hostname]
            if esmtp:
                trust = (self.xclient, self.xforward)
                lines += capabilities(
                    self.config, Standing(self.tls, self.authenticated, *trust, self._now(), self.channel)
                )
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
        if "REQUIRETLS" in params and not self.tls:
            raise SyntaxFault(530, "5.7.0", "REQUIRETLS needs a TLS session")
        if config.hold_limit:
            smtp_parse.check_hold(params, config.hold_limit, self._now())

        def going_on(replies: tuple[Reply | None, ...]) -> None:
            reply = (replies[0] if replies else None) or fixed.BUG
            self._put(reply)
            if reply.positive:
                self._utf8 = "SMTPUTF8" in params
                self._each = "PRDR" in params
                self._open = True
                self.settled = True
                self._enter(State.MAIL)

        self._ask(Mail(reverse_path, params, self._forwarded), going_on)

    def _rcpt(self, argument: bytes) -> None:
        limits = self.config.limits
        forward_path, params = smtp_parse.rcpt(argument, limits, self.esmtp, self._utf8, self.config.mailbox)
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
        lmtp = self.config.profile is Profile.LMTP
        block = self._each and len(replies) == self.recipients > 1
        wanted = self.recipients if lmtp or block else 1
        answers = [reply or fixed.BUG for reply in replies[:wanted]]
        answers += [fixed.BUG] * (wanted - len(answers))
        if block:
            # draft-hall-prdr 4.5: 353, a reply for each recipient in the order of RCPT, then one for the whole. As with Exim
            # one recipient, or a refusal of the text as a whole, has a single reply instead.
            self._out.append(fixed.EACH)
        for reply in answers:
            self._put(reply)
        if block:
            self._put(fixed.overall(answers))
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
        self._forwarded = NOTHING
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
        self._forwarded = NOTHING
        self._put(Reply(220, "2.0.0", "Ready to start TLS"))
        self.state = State.TLS
        self._queue.append(StartTls())

    def _xclient(self, argument: bytes) -> None:
        facts = smtp_xclient.xclient(argument)
        self._forwarded = NOTHING
        self.helo = ""
        self.esmtp = False
        if "LOGIN" in facts:
            self.authenticated = bool(facts["LOGIN"])
        self._queue.append(Xclient(facts))
        self.state = State.GREETING

    def _xforward(self, argument: bytes) -> None:
        self._forwarded = {**self._forwarded, **smtp_xclient.xforward(argument)}
        self._out.append(fixed.OK)

    # -- AUTH (RFC 4954) ----------------------------------------------------------------------------
    def _auth(self, argument: bytes) -> None:
        if self.authenticated:
            raise SyntaxFault(503, "5.5.1", "Already authenticated")
        if not self.config.auth:
            raise SyntaxFault(502, "5.5.1", "Command not available here")
        if not auth_offered(self.config, self.tls, self.channel):
            raise SyntaxFault(538, "5.7.11", "Encryption required for authentication")
        words = argument.split()
        if not 1 <= len(words) <= 2:
            raise SyntaxFault(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
        initial = words[1] if len(words) == 2 else None
        safe = self.tls or self.config.allow_plain_auth
        self._sasl_step(self._sasl.begin(words[0].decode("latin-1"), initial, self.channel, safe))

    def _sasl_step(self, step: sasl.Step | sasl.WireFault) -> None:
        if isinstance(step, sasl.Challenge):
            self._out.append(b"334 " + sasl.encode(step.data) + b"\r\n")
            self._enter(State.SASL)
            return
        self._enter(State.READY)
        match step:
            case sasl.Credentials():
                self._ask(Auth(step.login, step.password), self._on_auth)
            case sasl.Proof() | sasl.Token() | sasl.Granted():
                self._ask(Auth("", "", step), self._on_auth)
            case sasl.Failed():
                self._on_auth((None,))
            case sasl.WireFault.CANCELLED:
                self._error(Reply(501, "5.7.0", "Authentication cancelled"))
            case sasl.WireFault.BAD_BASE64:
                self._error(Reply(501, "5.5.2", "Invalid base64"))
            case sasl.WireFault.UNKNOWN_MECHANISM:
                self._error(Reply(504, "5.5.4", "Unrecognized authentication mechanism"))
            case sasl.WireFault.NEEDS_TLS:
                self._error(Reply(538, "5.7.11", "Encryption required for authentication"))

    def judged(self, account: Account | None) -> bool:
        """The evidence of ``Auth`` was judged. True: the client is told more first, and this question is answered."""
        last = self._sasl.judged(account)
        if last is None or self._asked is None:
            return False
        self._asked = None
        self._sasl_step(last)
        return True

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
