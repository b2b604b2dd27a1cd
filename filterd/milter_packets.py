"""Our edits of a message as the changes an MTA understands.

Order matters: an MTA counts the fields as they are at that moment. First all removals, of each name the last one first;
then what goes to the end, in its order, and between other fields, from below to above; then what goes on top, the lowest
first, always as field number 1: that is below the Received line the MTA adds itself, where our own door puts it too.
What the MTA did not allow at the negotiation is left out and noted for the trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline import edits
from pipeline.verdict import EnvelopeEdit, HeaderEdit
from pipeline.wire import milter
from pipeline.wire.milter import (
    Actions,
    AddHeader,
    AddRecipient,
    AddRecipientWith,
    ChangeFrom,
    ChangeHeader,
    DeleteRecipient,
    InsertHeader,
    Packet,
    Quarantine,
    ReplaceBody,
)
from rules.mail.header import HeaderField
from rules.mail.message import Message

TOP = 1  # Postfix and Sendmail count their own Received line as number 0


class Writer:
    """``actions``: what was negotiated; ``exact``: values keep their first blank (HDR_LEADSPC)."""

    def __init__(self, actions: Actions, exact: bool, message: Message) -> None:
        self._actions = actions
        self._exact = exact
        self._message = message
        self._cuts: list[Packet] = []
        self._between: list[Packet] = []
        self._top: list[bytes] = []  # rendered, the topmost first
        self._rest: list[Packet] = []
        self._gone: set[int] = set()
        self._inserted: list[tuple[int, bytes]] = []  # (start octet, field), the topmost first
        self.notes: list[str] = []

    def packets(self) -> list[Packet]:
        top: list[Packet] = []
        if self._top and self._may(Actions.ADDHDRS, "fields cannot be added"):
            top = [InsertHeader(TOP, *self._pair(raw)) for raw in reversed(self._top)]
        return [*self._cuts, *self._between, *top, *self._rest]

    def header(self, own: Sequence[HeaderEdit], cuts: Iterable[tuple[int, int]] = ()) -> None:
        """``cuts``: whole fields of the message as (start, end)."""
        block = self._message.header
        gone = {field.start for field in edits.removed(block, own)}
        gone |= {start for start, end in cuts if end <= block.end}
        if gone and not self._may(Actions.CHGHDRS, "fields cannot be removed"):
            gone = set()
        self._gone = gone
        self._cuts = [ChangeHeader(number, field.name, b"") for number, field in self._numbered(gone)]
        placed = [edit for edit in own if edit.kind == "add" and edit.place]
        for edit in sorted(placed, key=_by_place):
            at = block.fields[edit.place - 1].start if edit.place <= len(block.fields) else block.end
            self._inserted.append((at, edits.whole_field(edit.raw)))
        if placed and self._may(Actions.ADDHDRS, "fields cannot be added"):
            self._between = [AddHeader(*self._pair(raw)) for at, raw in self._inserted if at >= block.end]
            self._between += [
                self._insertion(at, raw) for at, raw in reversed(self._inserted) if at < block.end
            ]
        self._top = edits.added_lines(own)

    def on_top(self, raw: bytes) -> None:
        """A whole field above all others."""
        self._top.insert(0, raw)

    def body(self, data: bytes) -> None:
        if self._may(Actions.CHGBODY, "the body cannot be replaced"):
            self._rest.append(ReplaceBody(data))

    def envelope(self, edit: EnvelopeEdit) -> None:
        if edit.add and self._may(Actions.ADDRCPT, "recipients cannot be added"):
            params = {address.lower(): text for address, text in edit.rcpt_params}
            self._rest += [self._recipient(address, params.get(address.lower(), "")) for address in edit.add]
        if edit.remove and self._may(Actions.DELRCPT, "recipients cannot be removed"):
            self._rest += [DeleteRecipient(_path(address)) for address in edit.remove]
        if edit.reverse_path is not None and self._may(Actions.CHGFROM, "the sender cannot be changed"):
            words = milter.octets(edit.mail_params) or None
            self._rest.append(ChangeFrom(_path(edit.reverse_path), words))

    def quarantine(self, reason: str) -> None:
        if self._may(Actions.QUARANTINE, "the MTA has no quarantine: the message goes on, marked"):
            self._rest.append(Quarantine(milter.octets(reason).replace(b"\0", b"")[:200]))
        else:
            self._top += edits.added_lines([HeaderEdit("add", "X-Filterd-Quarantine", reason[:200])])

    def result(self, body: bytes | None) -> bytes:
        """The message as the MTA will have it, to sign it."""
        block, data = self._message.header, self._message.data
        cuts = [edits.Splice(field.start, field.end) for field in block.fields if field.start in self._gone]
        lines: dict[int, bytes] = {}
        for at, raw in self._inserted:
            lines[at] = lines.get(at, b"") + raw
        inserted = [edits.Splice(at, at, raw) for at, raw in lines.items()]
        whole = b"".join(self._top) + edits.splice(data[: block.body_start], [*cuts, *inserted])
        return whole + (body if body is not None else data[block.body_start :])

    # -- small steps --------------------------------------------------------------------------------------------------

    def _recipient(self, address: str, params: str) -> Packet:
        """Put in, with the parameters that another filter gave where the MTA takes them."""
        if params and self._may(Actions.ADDRCPT_PAR, f"the parameters of {address} cannot be told"):
            return AddRecipientWith(_path(address), milter.octets(params))
        return AddRecipient(_path(address))

    def _may(self, action: Actions, note: str) -> bool:
        allowed = bool(self._actions & action)
        if not allowed and note not in self.notes:
            self.notes.append(f"not negotiated: {note}")
        return allowed

    def _numbered(self, gone: set[int]) -> list[tuple[int, HeaderField]]:
        """(number among the fields of its name, field), of each name the last one first."""
        counts: dict[bytes, int] = {}
        out = []
        for field in self._message.header.fields:
            number = counts[field.lname] = counts.get(field.lname, 0) + 1
            if field.start in gone and field.name:
                out.append((number, field))
        return out[::-1]

    def _insertion(self, at: int, raw: bytes) -> Packet:
        block = self._message.header
        before = sum(
            1 for field in block.fields if field.start < at and field.start not in self._gone and field.name
        )
        return InsertHeader(before + TOP, *self._pair(raw))

    def _pair(self, raw: bytes) -> tuple[bytes, bytes]:
        name, _, value = raw.removesuffix(b"\r\n").partition(b":")
        if not self._exact and value[:1] == b" ":
            value = value[1:]
        return name, value.replace(b"\r\n", b"\n")


def _by_place(edit: HeaderEdit) -> int:
    return edit.place


def _path(address: str) -> bytes:
    return b"<" + milter.octets(address) + b">"
