"""The filter's side of the milter protocol: an MTA tells us a message, we answer once, at its end.

Specification: libmilter's protocol, versions 2 to 6 (packets: ``pipeline/wire/milter.py``). Complete: yes, but that no
step before the end of a message is ever refused: our stages want the whole message, and one answer is what makes the
verdict the same as at our own door.

Theory of operation. At the negotiation we ask the MTA to send everything and to wait for nothing (NR_...), for the exact
octets of header values (HDR_LEADSPC), and for the macros we read. What an older MTA does not offer is done without: each
command then gets its CONTINUE. A connection lives as long as the MTA's SMTP session and carries any number of messages:

    START --OPTNEG--> READY --CONNECT--> SESSION --MAIL--> ENVELOPE --HEADER/EOH/BODY--> CONTENT --end--> ASKED --> SESSION

ABORT goes back to SESSION from anywhere behind it, QUIT_NC to READY. ``_MOVES`` says from which states a packet may come;
what comes elsewhere ends the connection, and so does anything that is no packet.

Invariants: nothing is read while a message is judged; what a message may use is bounded (``MilterLimits``), and one that
is too large is told to the application as such (``Judge.oversize``) without being kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pipeline.wire import milter
from pipeline.wire.milter import (
    Actions,
    Bare,
    Body,
    Connect,
    EndOfMessage,
    Frames,
    Header,
    Helo,
    Macros,
    MacroStage,
    Mail,
    MilterError,
    Negotiate,
    Packet,
    Rcpt,
    ReplaceBody,
    Steps,
    Unknown,
)
from pipeline.wire.milter_client import NEEDS

WANTED = (
    Actions.ADDHDRS
    | Actions.CHGHDRS
    | Actions.CHGBODY
    | Actions.ADDRCPT
    | Actions.DELRCPT
    | Actions.CHGFROM
    | Actions.ADDRCPT_PAR
    | Actions.QUARANTINE
    | Actions.SETSYMLIST
)
STEPS = (
    Steps.NOUNKNOWN
    | Steps.NODATA
    | Steps.NR_CONN
    | Steps.NR_HELO
    | Steps.NR_MAIL
    | Steps.NR_RCPT
    | Steps.NR_HDR
    | Steps.NR_EOH
    | Steps.NR_BODY
    | Steps.SKIP
    | Steps.HDR_LEADSPC
    | Steps.MDS_1M
)
# What we read, by the step at which the MTA knows it. A filter that asks gets only what it asks for.
MACROS: Mapping[MacroStage, bytes] = {
    MacroStage.CONNECT: b"j _ v {daemon_name} {client_addr} {client_name} {client_port} {client_resolve} {filterd_hop}",
    MacroStage.HELO: b"{tls_version} {cipher} {cipher_bits}",
    MacroStage.MAIL: b"i {auth_type} {auth_authen} {tls_version} {cipher}",
    MacroStage.EOM: b"i",
}
_SESSION_MACROS = b"CH"  # commands whose macros hold for the whole session


@dataclass(frozen=True, slots=True)
class MilterLimits:
    """``message``: octets of header and body; times in seconds."""

    message: int = 50 << 20
    recipients: int = 10_000
    fields: int = 10_000
    patience: float = 7210.0  # libmilter's default: an SMTP client may take its time
    prelude: float = 30.0  # for the negotiation


class State(Enum):
    START = "start"
    READY = "ready"
    SESSION = "session"
    ENVELOPE = "envelope"
    CONTENT = "content"
    CLOSED = "closed"


_S = State
_MOVES: Mapping[type, tuple[frozenset[State], State | None]] = {
    Negotiate: (frozenset({_S.START}), _S.READY),
    Connect: (frozenset({_S.READY, _S.SESSION}), _S.SESSION),
    # In the middle of a message it ends that message, as in libmilter: a client said EHLO again.
    Helo: (frozenset({_S.READY, _S.SESSION, _S.ENVELOPE, _S.CONTENT}), _S.SESSION),
    Mail: (frozenset({_S.READY, _S.SESSION, _S.ENVELOPE, _S.CONTENT}), _S.ENVELOPE),
    Rcpt: (frozenset({_S.ENVELOPE}), None),
    Header: (frozenset({_S.ENVELOPE, _S.CONTENT}), _S.CONTENT),
    Body: (frozenset({_S.ENVELOPE, _S.CONTENT}), _S.CONTENT),
    EndOfMessage: (frozenset({_S.ENVELOPE, _S.CONTENT}), _S.SESSION),
    Macros: (frozenset({_S.READY, _S.SESSION, _S.ENVELOPE, _S.CONTENT}), None),
    Unknown: (frozenset({_S.READY, _S.SESSION, _S.ENVELOPE}), None),
}
_BARE_MOVES: Mapping[Bare, tuple[frozenset[State], State | None]] = {
    Bare.DATA: (frozenset({_S.ENVELOPE}), None),
    Bare.EOH: (frozenset({_S.ENVELOPE, _S.CONTENT}), _S.CONTENT),
    Bare.ABORT: (frozenset(_S) - {_S.START, _S.CLOSED}, None),
    Bare.QUIT: (frozenset(_S), _S.CLOSED),
    Bare.QUIT_NC: (frozenset(_S) - {_S.START, _S.CLOSED}, _S.READY),
}
_UNANSWERED: Mapping[object, Steps] = {
    Connect: Steps.NR_CONN,
    Helo: Steps.NR_HELO,
    Mail: Steps.NR_MAIL,
    Rcpt: Steps.NR_RCPT,
    Header: Steps.NR_HDR,
    Body: Steps.NR_BODY,
    Unknown: Steps.NR_UNKN,
    Bare.DATA: Steps.NR_DATA,
    Bare.EOH: Steps.NR_EOH,
}


@dataclass(slots=True)
class Judge:
    """A whole message waits for ``MilterCore.answer``. ``fields`` as the protocol has them (LF inside values, the first
    blank only when ``exact``); ``macros`` by name without braces. ``oversize``: not all of it was kept."""

    connect: Connect | None
    helo: str
    mail: tuple[bytes, ...]
    recipients: list[tuple[bytes, ...]] = field(default_factory=list)
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    macros: dict[str, str] = field(default_factory=dict)
    exact: bool = False
    oversize: bool = False
    actions: Actions = Actions.NONE


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is over; ``reason`` for the log, "" when all was well."""

    reason: str = ""


class MilterCore:
    """Drive it as ``filterd.net.connection`` does; ``answer`` ends a ``Judge``."""

    def __init__(self, limits: MilterLimits | None = None) -> None:
        self.limits = limits or MilterLimits()
        self.state = State.START
        self.version = 0
        self.actions = Actions.NONE
        self.steps = Steps.NONE
        self._frames = Frames()
        self._out: list[bytes] = []
        self._eof = False
        self._stopping = False
        self._asked = False
        self._told = False
        self._connect: Connect | None = None
        self._helo = ""
        self._macros: dict[bytes, dict[str, str]] = {}
        self._forget()

    def _forget(self) -> None:
        """The message, not the session."""
        self._mail: tuple[bytes, ...] = ()
        self._recipients: list[tuple[bytes, ...]] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._oversize = False
        self._macros = {
            command: known for command, known in self._macros.items() if command in _SESSION_MACROS
        }

    # -- driven by the shell ------------------------------------------------------------------------------------------
    def receive_data(self, data: bytes) -> None:
        self._frames.feed(data)

    def receive_eof(self) -> None:
        self._eof = True

    def lost(self) -> None:
        self._eof = True

    def shut_down(self) -> None:
        """The server stops: at once between two messages, else when the one under way is answered."""
        self._stopping = True

    def timed_out(self) -> None:
        self._close("the MTA was silent too long")

    def internal_error(self) -> None:
        if self._asked:
            self.answer((Bare.TEMPFAIL,))

    def tls_started(self) -> None:
        """There is no TLS here."""

    def data_to_send(self) -> bytes:
        out, self._out = b"".join(self._out), []
        return out

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def patience(self) -> float:
        return self.limits.patience

    @property
    def prelude(self) -> float:
        return self.limits.prelude

    @property
    def settled(self) -> bool:
        return self.state is not State.START

    @property
    def in_text(self) -> bool:
        return False

    @property
    def text_patience(self) -> float:
        return self.limits.patience

    def next_event(self) -> Judge | Close | None:
        """What is to be done now; None: wait for more (or for ``answer``)."""
        while not self._asked and self.state is not State.CLOSED:
            if self._stopping and self.state in (State.START, State.READY, State.SESSION):
                self._close("")
                break
            try:
                packet = self._frames.next()
                if packet is None:
                    if self._eof:
                        self._close("" if self.state in (State.READY, State.SESSION) else "cut")
                        break
                    return None
                judge = self._take(packet)
            except MilterError as error:
                self._close(str(error))
                break
            if judge is not None:
                return judge
        if self.state is State.CLOSED and not self._told:
            self._told = True
            return Close(self._why)
        return None

    _why = ""

    def _close(self, why: str) -> None:
        self.state = State.CLOSED
        self._why = why

    # -- the answer ---------------------------------------------------------------------------------------------------
    def progress(self) -> None:
        """Tell the MTA that we are still at it."""
        if self._asked:
            self._out.append(milter.encode(Bare.PROGRESS))

    def answer(self, packets: Iterable[Packet]) -> None:
        """Changes, then the last word. Raises ValueError for a change that was not negotiated."""
        out = []
        for packet in packets:
            needs = NEEDS.get(type(packet), Actions.NONE)
            if needs & ~self.actions:
                raise ValueError(f"{type(packet).__name__} was not negotiated")
            if isinstance(packet, ReplaceBody) and len(packet.data) > milter.CHUNK:
                data = packet.data
                out += [
                    milter.encode(ReplaceBody(data[at : at + milter.CHUNK]))
                    for at in range(0, len(data), milter.CHUNK)
                ]
                continue
            out.append(milter.encode(packet))
        self._asked = False
        self._out += out

    # -- what the MTA says --------------------------------------------------------------------------------------------
    def _take(self, packet: Packet) -> Judge | None:
        kind: object = packet if isinstance(packet, Bare) else type(packet)
        move = _BARE_MOVES.get(packet) if isinstance(packet, Bare) else _MOVES.get(type(packet))
        if move is None or self.state not in move[0]:
            name = packet.name if isinstance(packet, Bare) else type(packet).__name__
            raise MilterError(f"{name} in the state {self.state.value}")
        judge = self._note(packet)
        if move[1] is not None:
            self.state = move[1]
        unanswered = _UNANSWERED.get(kind)
        if unanswered is not None and not self.steps & unanswered:
            skip = self._oversize and kind is Body and self.steps & Steps.SKIP
            self._out.append(milter.encode(Bare.SKIP if skip else Bare.CONTINUE))
        return judge

    def _note(self, packet: Packet) -> Judge | None:
        match packet:
            case Header(name, value):
                if self._room(len(name) + len(value) + 3) and len(self._fields) < self.limits.fields:
                    self._fields.append((name, value))
                else:
                    self._oversize = True
            case Body(data):
                if self._room(len(data)):
                    self._body.append(data)
            case Macros(command, values):
                known = {milter.macro_name(name): value.decode("utf-8", "replace") for name, value in values}
                self._macros[command] = known
            case Rcpt(arguments):
                if len(self._recipients) >= self.limits.recipients:
                    raise MilterError(f"more than {self.limits.recipients} recipients")
                self._recipients.append(arguments)
            case Mail(arguments):
                own = self._macros.get(b"M", {})
                self._forget()
                self._macros[b"M"] = own
                self._mail = arguments
            case EndOfMessage(data):
                if data and self._room(len(data)):
                    self._body.append(data)
                return self._judge()
            case Connect():
                self._connect, self._helo = packet, ""
            case Helo(name):
                self._forget()
                self._helo = name.decode("utf-8", "replace")
            case Negotiate():
                self._negotiate(packet)
            case Bare.ABORT:
                self._abort()
            case Bare.QUIT_NC:
                self._connect, self._helo, self._macros = None, "", {}
                self._forget()
            case _:
                pass
        return None

    def _abort(self) -> None:
        self._forget()
        if self.state in (State.ENVELOPE, State.CONTENT):
            self.state = State.SESSION

    def _room(self, octets: int) -> bool:
        self._size += octets
        if self._size > self.limits.message:
            self._oversize = True
            self._body = []
        return not self._oversize

    def _judge(self) -> Judge:
        macros: dict[str, str] = {}
        for command in (b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B", b"E"):
            macros.update(self._macros.get(command, {}))
        judge = Judge(
            connect=self._connect,
            helo=self._helo,
            mail=self._mail,
            recipients=self._recipients,
            fields=self._fields,
            body=b"".join(self._body),
            macros=macros,
            exact=bool(self.steps & Steps.HDR_LEADSPC),
            oversize=self._oversize,
            actions=self.actions,
        )
        self._forget()
        self._asked = True
        return judge

    def _negotiate(self, said: Negotiate) -> None:
        if said.version < milter.OLDEST:
            raise MilterError(f"protocol version {said.version}")
        self.version = min(milter.VERSION, said.version)
        self.actions = WANTED & Actions(said.actions & int(WANTED))
        self.steps = STEPS & Steps(said.steps & int(STEPS))
        macros: Sequence[tuple[int, bytes]] = ()
        if self.actions & Actions.SETSYMLIST:
            macros = [(stage.value, names) for stage, names in MACROS.items()]
        reply = Negotiate(self.version, int(self.actions), int(self.steps), tuple(macros))
        self._out.append(milter.encode(reply))
