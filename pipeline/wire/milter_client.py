"""The MTA's side of the milter protocol: one message put to one filter, without a socket.

Specification: libmilter's protocol, versions 2 to 6 (``pipeline/wire/milter.py``). Complete: yes, for one message a
connection; SETSYMLIST is honoured.

The dialogue is a straight line, so it is written as one: ``_dialogue`` is a generator that queues packets and yields
where the filter must answer. Whatever needs no answer (macros, the steps the filter asked not to answer) waits and leaves
in the same write as the next packet that does: one write and one read a step, nothing for Nagle to hold back.

    NEGOTIATE -> CONNECT -> HELO -> MAIL -> RCPT... -> DATA -> HEADER... -> EOH -> BODY... -> end of message -> QUIT

Any step may end it: ACCEPT (no further look), REJECT, TEMPFAIL, a reply of its own, DISCARD; at RCPT a refusal concerns
that recipient. SKIP ends the body early. Only the end of the message changes anything.

Invariants: an answer that does not fit the step, a change that was not negotiated, and data after the end are MilterError:
never "continue". ``ask.answer`` is set exactly when ``ask.done``; a dialogue cut short has none.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pipeline.reply import Reply
from pipeline.wire import milter
from pipeline.wire.milter import (
    Actions,
    AddHeader,
    AddRecipient,
    AddRecipientWith,
    Bare,
    Body,
    ChangeFrom,
    ChangeHeader,
    Connect,
    DeleteRecipient,
    EndOfMessage,
    Frames,
    Header,
    Helo,
    InsertHeader,
    Macros,
    MacroStage,
    Mail,
    MilterError,
    Modification,
    Negotiate,
    Packet,
    Quarantine,
    Rcpt,
    ReplaceBody,
    ReplyCode,
    Steps,
)

OFFERED = (
    Actions.ADDHDRS
    | Actions.CHGBODY
    | Actions.ADDRCPT
    | Actions.DELRCPT
    | Actions.CHGHDRS
    | Actions.QUARANTINE
    | Actions.CHGFROM
    | Actions.ADDRCPT_PAR
    | Actions.SETSYMLIST
)
STEPS = Steps((1 << 21) - 1) & ~Steps.RCPT_REJ  # all that is defined; we never send refused recipients
CHANGES = 10_000  # modifications of one message
NEW_BODY = 256 << 20  # octets of a replaced body
REFUSED = Reply(550, "5.7.1", "The message is refused by local policy")
LATER = Reply(451, "4.7.1", "Service unavailable, please try again later")

NEEDS: Mapping[type, Actions] = {
    AddHeader: Actions.ADDHDRS,
    InsertHeader: Actions.ADDHDRS,
    ChangeHeader: Actions.CHGHDRS,
    AddRecipient: Actions.ADDRCPT,
    AddRecipientWith: Actions.ADDRCPT_PAR,
    DeleteRecipient: Actions.DELRCPT,
    ChangeFrom: Actions.CHGFROM,
    ReplaceBody: Actions.CHGBODY,
    Quarantine: Actions.QUARANTINE,
}
DEFAULT_MACROS: Mapping[MacroStage, tuple[str, ...]] = {
    MacroStage.CONNECT: ("j", "_", "v", "daemon_name", "client_addr", "client_port", "client_name", "client_ptr"),
    MacroStage.HELO: ("tls_version", "cipher", "cipher_bits"),
    MacroStage.MAIL: ("i", "auth_type", "auth_authen", "mail_addr"),
    MacroStage.RCPT: ("i", "rcpt_addr"),
    MacroStage.DATA: ("i",),
    MacroStage.EOH: ("i",),
    MacroStage.EOM: ("i",),
}  # fmt: skip


class Word(Enum):
    """How a filter's look at a message ended."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    REJECT = "reject"
    TEMPFAIL = "tempfail"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True)
class Question:
    """What the filter is told. ``fields``: name and value as written (after the colon, LF inside, no final line end).

    ``macros`` by name, without braces; ``always`` are sent at CONNECT whether the filter asked for them or not.
    """

    connect: Connect
    helo: bytes
    mail: tuple[bytes, ...]
    recipients: Sequence[tuple[bytes, ...]]
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes
    macros: Mapping[str, bytes] = field(default_factory=dict)
    always: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """``reply`` goes with REJECT and TEMPFAIL. ``refused``: recipients (by number) with their replies. ``changes`` as they
    came, in order; ``body`` None when it stays."""

    word: Word
    reply: Reply | None = None
    refused: Mapping[int, Reply] = field(default_factory=dict)
    changes: tuple[Modification, ...] = ()
    body: bytes | None = None
    quarantine: str | None = None
    at: str = ""  # the step that ended it


class _Ended(Exception):
    """The filter needs no more; carries the answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.word.value)
        self.answer = answer


class Ask:
    """Drive: write ``data_to_send()``; while not ``done``: ``receive_data`` what comes, write again.

    ``receive_data`` and ``receive_eof`` raise MilterError.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answer: Answer | None = None
        self.version = 0
        self.actions = Actions.NONE
        self.steps = Steps.NONE
        self.step = "negotiation"
        self._wanted: Mapping[MacroStage, tuple[str, ...]] = DEFAULT_MACROS
        self._frames = Frames()
        self._out: list[bytes] = []
        self._refused: dict[int, Reply] = {}
        self._dialogue_ = self._dialogue()
        next(self._dialogue_)

    @property
    def done(self) -> bool:
        return self.answer is not None

    def data_to_send(self) -> bytes:
        out, self._out = b"".join(self._out), []
        return out

    def receive_data(self, data: bytes) -> None:
        self._frames.feed(data)
        while (packet := self._frames.next()) is not None:
            if self.done:
                raise MilterError("data after the final answer")
            try:
                self._dialogue_.send(packet)
            except StopIteration:
                continue
        if self.done and len(self._frames):
            raise MilterError("data after the final answer")

    def receive_eof(self) -> None:
        if not self.done:
            raise MilterError(f"the filter closed the connection at {self.step}")

    # -- the dialogue -------------------------------------------------------------------------------------------------

    def _dialogue(self) -> Generator[None, Packet, None]:
        try:
            yield from self._negotiate()
            yield from self._envelope()
            yield from self._content()
            self.answer = yield from self._end()
        except _Ended as ended:
            self.answer = ended.answer
            self._send(Bare.ABORT)
        self._send(Bare.QUIT)

    def _negotiate(self) -> Generator[None, Packet, None]:
        self._send(Negotiate(milter.VERSION, int(OFFERED), int(STEPS)))
        said = yield
        if not isinstance(said, Negotiate):
            raise MilterError("no negotiation")
        if not milter.OLDEST <= said.version <= milter.VERSION:
            raise MilterError(f"the filter wants protocol version {said.version}")
        if said.actions & ~int(OFFERED) or said.steps & ~int(STEPS):
            raise MilterError(f"the filter wants what nobody offered: {said.actions:#x} {said.steps:#x}")
        self.version, self.actions, self.steps = said.version, Actions(said.actions), Steps(said.steps)
        if said.macros:
            known = {one.value: one for one in MacroStage}
            lists = {
                known[number]: tuple(milter.macro_name(name) for name in names.replace(b",", b" ").split())
                for number, names in said.macros
                if number in known
            }
            self._wanted = {**DEFAULT_MACROS, **lists}

    def _envelope(self) -> Generator[None, Packet, None]:
        question = self.question
        if not self.steps & Steps.NOCONNECT:
            self._macros(MacroStage.CONNECT, b"C", question.always)
            yield from self._say(question.connect, "connect", Steps.NR_CONN)
        if not self.steps & Steps.NOHELO:
            self._macros(MacroStage.HELO, b"H")
            yield from self._say(Helo(question.helo), "helo", Steps.NR_HELO)
        if not self.steps & Steps.NOMAIL:
            self._macros(MacroStage.MAIL, b"M")
            yield from self._say(Mail(question.mail), "mail", Steps.NR_MAIL)
        if not self.steps & Steps.NORCPT:
            for at, recipient in enumerate(question.recipients):
                self._macros(MacroStage.RCPT, b"R", own={"rcpt_addr": recipient[0].strip(b"<>")})
                yield from self._recipient(at, recipient)
            if self._refused and len(self._refused) == len(question.recipients):
                first = next(iter(self._refused.values()))
                word = Word.TEMPFAIL if first.temporary else Word.REJECT
                raise _Ended(Answer(word, first, self._refused, at="rcpt"))
        # Version 3 brought UNKNOWN and version 4 DATA; a filter that speaks less would not know it.
        if self.version >= 4 and not self.steps & Steps.NODATA:
            self._macros(MacroStage.DATA, b"T")
            yield from self._say(Bare.DATA, "data", Steps.NR_DATA)

    def _recipient(self, at: int, arguments: tuple[bytes, ...]) -> Generator[None, Packet, None]:
        self._send(Rcpt(arguments))
        if self.steps & Steps.NR_RCPT:
            return
        said = yield from self._said("rcpt")
        match said:
            case Bare.REJECT:
                self._refused[at] = REFUSED
            case Bare.TEMPFAIL:
                self._refused[at] = LATER
            case ReplyCode():
                self._refused[at] = milter.reply_of(said)
            case _:
                self._judge(said, "rcpt")

    def _content(self) -> Generator[None, Packet, None]:
        question, steps = self.question, self.steps
        leading = bool(steps & Steps.HDR_LEADSPC)
        if not steps & Steps.NOHDRS:
            for name, value in question.fields:
                shown = value if leading or value[:1] not in (b" ", b"\t") else value[1:]
                yield from self._say(Header(name, shown.replace(b"\0", b"")), "header", Steps.NR_HDR)
        if not steps & Steps.NOEOH:
            self._macros(MacroStage.EOH, b"N")
            yield from self._say(Bare.EOH, "end of header", Steps.NR_EOH)
        if steps & Steps.NOBODY:
            return
        for start in range(0, len(question.body), milter.CHUNK):
            self._macros(MacroStage.EOM, b"B")
            self._send(Body(question.body[start : start + milter.CHUNK]))
            if not steps & Steps.NR_BODY:
                said = yield from self._said("body")
                if said is Bare.SKIP and steps & Steps.SKIP:
                    return
                self._judge(said, "body")

    def _end(self) -> Generator[None, Packet, Answer]:
        """The end of the message: changes, then the last word."""
        self._macros(MacroStage.EOM, b"E")
        self._send(EndOfMessage())
        changes: list[Modification] = []
        body: list[bytes] | None = None
        size = 0
        quarantine: str | None = None
        while True:
            said = yield from self._said("end of message")
            if not isinstance(said, Modification):
                break
            if not self.actions & NEEDS[type(said)]:
                raise MilterError(f"{type(said).__name__} was not negotiated")
            if len(changes) >= CHANGES or size > NEW_BODY:
                raise MilterError("more changes than anybody needs")
            match said:
                case ReplaceBody(data):
                    body = body if body is not None else []
                    body.append(data)
                    size += len(data) + 1
                case Quarantine(reason):
                    quarantine = milter.text(reason)
                case _:
                    changes.append(said)
        new_body = b"".join(body) if body is not None else None
        if said is Bare.CONTINUE or said is Bare.ACCEPT:
            word = Word.CONTINUE if said is Bare.CONTINUE else Word.ACCEPT
            return Answer(word, None, self._refused, tuple(changes), new_body, quarantine, self.step)
        try:
            self._judge(said, self.step)
        except _Ended as ended:
            return ended.answer
        raise MilterError("no last word")

    # -- small steps --------------------------------------------------------------------------------------------------

    def _send(self, packet: Packet) -> None:
        try:
            self._out.append(milter.encode(packet))
        except ValueError as error:  # a text that the protocol cannot carry
            raise MilterError(f"cannot be told to a filter: {error}") from None

    def _macros(
        self,
        stage: MacroStage,
        command: bytes,
        always: tuple[str, ...] = (),
        own: Mapping[str, bytes] | None = None,
    ) -> None:
        known = {**self.question.macros, **(own or {})}
        names = dict.fromkeys((*self._wanted.get(stage, ()), *always))
        values = tuple((milter.macro_text(name), known[name]) for name in names if known.get(name))
        if values:
            self._send(Macros(command, values))

    def _say(self, packet: Packet, step: str, unanswered: Steps) -> Generator[None, Packet, None]:
        self._send(packet)
        if not self.steps & unanswered:
            self._judge((yield from self._said(step)), step)

    def _said(self, step: str) -> Generator[None, Packet, Packet]:
        self.step = step
        while True:
            said = yield
            if said is not Bare.PROGRESS:
                return said

    def _judge(self, said: Packet, step: str) -> None:
        """CONTINUE goes on, what ends the look raises ``_Ended``, all else is a breach."""
        match said:
            case Bare.CONTINUE:
                return
            case Bare.ACCEPT:
                raise _Ended(Answer(Word.ACCEPT, None, self._refused, at=step))
            case Bare.REJECT:
                raise _Ended(Answer(Word.REJECT, REFUSED, at=step))
            case Bare.TEMPFAIL | Bare.CONN_FAIL | Bare.SHUTDOWN:
                raise _Ended(Answer(Word.TEMPFAIL, LATER, at=step))
            case Bare.DISCARD:
                raise _Ended(Answer(Word.DISCARD, at=step))
            case ReplyCode():
                reply = milter.reply_of(said)
                raise _Ended(Answer(Word.TEMPFAIL if reply.temporary else Word.REJECT, reply, at=step))
            case _:
                name = said.name if isinstance(said, Bare) else type(said).__name__
                raise MilterError(f"{name} is no answer to {step}")
