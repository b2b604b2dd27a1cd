"""What filters did to one message: their changes replayed on its fields, and told again as edits of the original.

Specification: libmilter's ``smfi_addheader``, ``smfi_insheader``, ``smfi_chgheader``, ``smfi_replacebody``,
``smfi_addrcpt``, ``smfi_delrcpt``, ``smfi_chgfrom``; where its words leave room, as Postfix' cleanup(8) does it:

* ADDHEADER goes to the end of the header.
* INSHEADER counts the fields as they are now and the MTA's own Received among them, which is number 0 at first: 0 and 1 are
  the top of what the filter saw, a number behind the last field is the end. What was put above that Received counts before it.
* CHGHEADER counts the fields of that name as they are now; a number behind the last one adds a field, and an empty value
  removes (blanks are a value). A field keeps its place.
* Each filter sees what those before it left.

Invariants: whatever a filter writes becomes exactly one field (a line that would begin another one is folded);
``edits.apply(original, message.edits())`` with ``body`` is the message as the filters left it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.verdict import EnvelopeEdit, HeaderEdit
from pipeline.wire import milter
from pipeline.wire.milter import (
    AddHeader,
    AddRecipient,
    AddRecipientWith,
    ChangeFrom,
    ChangeHeader,
    DeleteRecipient,
    InsertHeader,
    MilterError,
    Modification,
)
from rules.mail.header import HeaderBlock

NAME_LIMIT = 998
VALUE_LIMIT = 256 * 1024
_NAME = re.compile(rb"[!-9;-~]+")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LINE_ENDS = re.compile(rb"\r\n|\n|\r")


@dataclass(slots=True)
class _Field:
    """``origin``: the number of the field in the message as it came, from 1; 0 = a filter's own. ``hidden``: filters see
    nothing of it; what becomes of it is somebody else's business. ``above``: it was put above the MTA's own Received."""

    name: bytes
    value: bytes
    origin: int
    changed: bool = False
    gone: bool = False
    hidden: bool = False
    above: bool = False

    @property
    def visible(self) -> bool:
        """Do filters see it?"""
        return bool(self.name) and not self.gone and not self.hidden


class FilteredMessage:
    """``body`` None: as it came. ``added`` and ``removed``: recipients, without brackets. ``hidden``: where the fields start
    that no filter is to see."""

    def __init__(self, block: HeaderBlock, hidden: Collection[int] = ()) -> None:
        self._fields = [
            _Field(field.name, from_message(block.value(field)), number, hidden=field.start in hidden)
            for number, field in enumerate(block.fields, 1)
        ]
        self._by_name: dict[bytes, list[_Field]] = {}
        self.body: bytes | None = None
        self.added: list[str] = []
        self.removed: list[str] = []
        self.reverse_path: str | None = None
        self.rcpt_params: dict[str, str] = {}
        self.mail_params = ""

    def copy(self) -> FilteredMessage:
        """To try changes on."""
        out = FilteredMessage.__new__(FilteredMessage)
        out._fields = [replace(one) for one in self._fields]
        out._by_name = {}
        out.body, out.reverse_path = self.body, self.reverse_path
        out.added, out.removed = list(self.added), list(self.removed)
        out.rcpt_params, out.mail_params = dict(self.rcpt_params), self.mail_params
        return out

    def become(self, other: FilteredMessage) -> None:
        """Take what was tried."""
        self._fields, self._by_name = other._fields, other._by_name
        self.body, self.reverse_path = other.body, other.reverse_path
        self.added, self.removed = other.added, other.removed
        self.rcpt_params, self.mail_params = other.rcpt_params, other.mail_params

    def fields(self) -> list[tuple[bytes, bytes]]:
        """What a filter is shown: lines that are no field are left out."""
        return [(one.name, one.value) for one in self._fields if one.visible]

    def apply(self, changes: Iterable[Modification], leading: bool = True) -> int:
        """Do one filter's changes, in order; gives how many concerned the header. Raises MilterError.

        ``leading`` (HDR_LEADSPC): its values have their first blank already.
        """
        blank = b"" if leading else b" "
        count = 0
        for change in changes:
            match change:
                case AddHeader(name, value):
                    self._append(self._made(name, blank + value))
                case InsertHeader(index, name, value):
                    self._insert(index, self._made(name, blank + value))
                case ChangeHeader(index, name, value):
                    self._change(index, name, blank + value if value else b"")
                case AddRecipient(address):
                    self._recipient(path(address), self.added, self.removed)
                    continue
                case AddRecipientWith(address, parameters):
                    self._recipient(path(address), self.added, self.removed)
                    if parameters:
                        self.rcpt_params[path(address)] = milter.text(parameters)
                    continue
                case DeleteRecipient(address):
                    self._recipient(path(address), self.removed, self.added)
                    continue
                case ChangeFrom(address, parameters):
                    self.reverse_path, self.mail_params = path(address), milter.text(parameters or b"")
                    continue
                case _:
                    continue
            count += 1
        return count

    @staticmethod
    def _recipient(address: str, into: list[str], out_of: list[str]) -> None:
        if address in out_of:
            out_of.remove(address)
        elif address and address not in into:
            into.append(address)

    @staticmethod
    def _made(name: bytes, value: bytes) -> _Field:
        if not _NAME.fullmatch(name) or len(name) > NAME_LIMIT or len(value) > VALUE_LIMIT:
            raise MilterError(f"not a header field: {name[:80]!r}")
        return _Field(name, value, 0)

    def _append(self, made: _Field) -> None:
        self._fields.append(made)
        known = self._by_name.get(made.name.lower())
        if known is not None:
            known.append(made)

    def _insert(self, index: int, made: _Field) -> None:
        above = sum(1 for one in self._fields if one.above and not one.gone)
        made.above = index <= above
        number = index if made.above else index - 1
        seen = (at for at, one in enumerate(self._fields) if one.visible)
        place = next(islice(seen, number, None), None)
        if place is None:
            self._append(made)
            return
        self._fields.insert(place if number else 0, made)
        self._by_name.pop(made.name.lower(), None)

    def _named(self, name: bytes) -> list[_Field]:
        """What filters see of this name, in order; kept, as one that takes 10,000 fields out asks 10,000 times."""
        lname = name.lower()
        known = self._by_name.get(lname)
        if known is None:
            known = [one for one in self._fields if one.visible and one.name.lower() == lname]
            self._by_name[lname] = known
        return known

    def _change(self, index: int, name: bytes, value: bytes) -> None:
        made = self._made(name, value)
        named = self._named(name)
        number = max(1, index)
        if number > len(named):
            if value:
                self._append(made)
            return
        found = named[number - 1]
        if value:
            found.value, found.changed = value, True
        else:
            found.gone = True
            del named[number - 1]

    # -- told again ---------------------------------------------------------------------------------------------------

    def edits(self) -> tuple[HeaderEdit, ...]:
        """As edits of the message as it came."""
        out: list[HeaderEdit] = []
        waiting: list[bytes] = []  # fields of filters, for which the place is not known yet
        for one in self._fields:
            if not one.origin:
                if not one.gone:
                    waiting.append(to_message(one.name, one.value))
                continue
            out += [_placed(raw, one.origin) for raw in waiting]
            waiting = []
            if one.gone or one.changed:
                name = one.name.decode("ascii", "replace")
                out.append(HeaderEdit("remove", name, place=one.origin))
                if not one.gone:
                    out.append(_placed(to_message(one.name, one.value), one.origin))
        last = sum(1 for one in self._fields if one.origin) + 1
        return (*out, *(_placed(raw, last) for raw in waiting))

    def envelope(self) -> EnvelopeEdit | None:
        """None when nobody changed it."""
        if not (self.added or self.removed or self.rcpt_params or self.reverse_path is not None):
            return None
        return EnvelopeEdit(
            tuple(self.added),
            tuple(self.removed),
            self.reverse_path,
            tuple(self.rcpt_params.items()),
            self.mail_params,
        )


def _placed(raw: bytes, place: int) -> HeaderEdit:
    name = raw.partition(b":")[0].decode("ascii")
    return HeaderEdit("add", name, raw=raw, place=place)


def from_message(value: bytes) -> bytes:
    """A field's value, as filters see it: LF between the lines."""
    return value.replace(b"\r\n", b"\n")


def to_message(name: bytes, value: bytes) -> bytes:
    """The whole field with CRLF. A line that does not begin with a blank is made a continuation; empty ones go."""
    first, *more = _LINE_ENDS.split(value)
    lines = [first] + [line if line[:1] in (b" ", b"\t") else b"\t" + line for line in more if line.strip()]
    return name + b":" + b"\r\n".join(lines) + b"\r\n"


def path(address: bytes) -> str:
    """``<a@b>`` or ``a@b`` or ``<>``: what stands between the brackets. Raises MilterError."""
    inner = address.strip()
    if inner.startswith(b"<") and inner.endswith(b">"):
        inner = inner[1:-1]
    if len(inner) > 320 or any(octet <= 32 or octet in b"<>\x7f" for octet in inner):
        raise MilterError(f"not an address: {address[:80]!r}")
    return milter.text(inner)


def body_of(data: bytes) -> bytes:
    """A new body with CRLF: some filters send bare LF."""
    return _BARE_LF.sub(b"\r\n", data)
