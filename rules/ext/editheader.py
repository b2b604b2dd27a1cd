"""editheader: addheader and deleteheader.

Specification: RFC 5293. Complete: yes. Received and Auto-Submitted cannot be deleted (section 6), nor the
fields of the setting ``editheader_forbid_delete``; those of ``editheader_forbid_add`` cannot be added; such
tries are passed over in silence. Edits make new header bytes in front of the same body; the original is never
touched.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rules.context import StateKey
from rules.errors import RunError
from rules.ext.index import check_index, choose
from rules.mail import words
from rules.mail.header import make_field, unfold
from rules.match import link_match
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec
from rules.view import decode

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_FIELD_NAME = re.compile(r"[!-9;-~]{1,200}")
_NEVER_DELETED = frozenset((b"received", b"auto-submitted"))
_FOLD = re.compile(r"\r?\n([ \t])")
_EDITS: StateKey[list[int]] = StateKey("editheader", lambda: [0])


def _check_name(checker: Checker, bound: Bound) -> None:
    name = bound.text(0)
    if isinstance(name, str) and not _FIELD_NAME.fullmatch(name):
        message = f'"{name[:60]}" cannot be the name of a header field'
        checker.error(
            checker.where(bound, 0), "header-name", message, "use printable ASCII without blanks and colons"
        )


def _check_add(checker: Checker, bound: Bound) -> None:
    _check_name(checker, bound)
    value = bound.text(1)
    if isinstance(value, str):
        if "\0" in value:
            checker.error(checker.where(bound, 1), "header-value", "a header field cannot have a NUL in it")
        elif len(value) > checker.limits.header_value:
            message = f"a header field is at most {checker.limits.header_value} octets long"
            checker.error(checker.where(bound, 1), "header-value", message, "shorten it")


def _name(run: Run, bound: Bound) -> str:
    name = run.expand(bound.text(0))
    if not _FIELD_NAME.fullmatch(name):
        raise RunError(f'{bound.name}: "{name[:60]}" cannot be the name of a header field')
    return name


def _forbidden(run: Run, setting: str, name: bytes) -> bool:
    names = run.setting(setting, "").lower().split()
    return name.decode("ascii", "replace") in names


def _counted(run: Run) -> None:
    count = run.get(_EDITS)
    count[0] += 1
    if count[0] > run.limits.header_edits:
        raise RunError(f"a run may edit the header at most {run.limits.header_edits} times")


def _raw_fields(run: Run) -> list[bytes]:
    """The header's fields as they are, each with its line end."""
    block = run.view.header
    fields = [block.raw(field) for field in block.fields]
    return [field if field.endswith(b"\n") else field + run.view.line_end for field in fields]


def _add(bound: Bound) -> CommandFn:
    last = bound.has("last")

    def act(run: Run) -> None:
        name = _name(run, bound)
        value = _FOLD.sub(r"\1", run.expand(bound.text(1))).strip()
        run.seen, run.key = value, name
        lname = name.lower().encode("ascii")
        if lname != b"subject" and _forbidden(run, "editheader_forbid_add", lname):
            return
        field = make_field(name.encode("ascii"), words.encode_text(value))
        if run.view.line_end == b"\n":
            field = field.replace(b"\r\n", b"\n")
        asked = run.setting("editheader_max_header_size", "")
        most = min(int(asked), run.limits.header_value) if asked.isdigit() else run.limits.header_value
        if len(field) > most or "\0" in value:
            raise RunError(f"addheader: the field is longer than {most} octets, or has a NUL")
        _counted(run)
        fields = _raw_fields(run)
        # What continues nothing stays at the top: it must not continue a field that the script adds.
        first = 0
        while first < len(fields) and fields[first][:1] in (b" ", b"\t"):
            first += 1
        fields.insert(len(fields) if last else first, field)
        run.view.set_header(fields)

    return act


def _delete(bound: Bound) -> CommandFn:
    match = link_match(bound) if bound.given(1) else None
    pick = choose(bound) if bound.has("index") else None

    def act(run: Run) -> None:
        name = _name(run, bound)
        lname = name.lower().encode("ascii")
        if lname in _NEVER_DELETED or (
            lname != b"subject" and _forbidden(run, "editheader_forbid_delete", lname)
        ):
            run.key = name
            return
        block = run.view.header
        numbers = [str(number).encode() for number, field in enumerate(block.fields) if field.lname == lname]
        if pick is not None:
            numbers = pick(numbers)
        doomed = set()
        captures, run.captures = run.captures, False  # RFC 5293 has it match like header, but it is no test
        for number in map(int, numbers):
            value = decode(unfold(block.value(block.fields[number])).strip(b" \t\r\n"))
            if match is None or match(run, [value]):
                doomed.add(number)
        run.captures = captures
        run.seen, run.key = f"{len(doomed)} deleted", name
        if doomed:
            _counted(run)
            run.view.set_header(
                [field for number, field in enumerate(_raw_fields(run)) if number not in doomed]
            )

    return act


_NEEDS = ("editheader",)
_NAME = Param("field name", Kind.STRING)

EXTENSION = Extension(
    "editheader",
    _NEEDS,
    dialect="RFC 5293",
    commands=(
        CommandSpec("addheader", _NEEDS, (_NAME, Param("value", Kind.STRING)), check=_check_add, link=_add),
        CommandSpec(
            "deleteheader",
            _NEEDS,
            (_NAME, Param("value patterns", Kind.STRINGS, optional=True)),
            check=_check_name,
            link=_delete,
            matches=True,
        ),
    ),
    tags=(
        TagSpec("last", ("addheader",)),
        TagSpec("index", ("deleteheader",), kind=Kind.NUMBER, check=check_index),
        TagSpec("last", ("deleteheader",), requires=("index",)),
    ),
)
