"""fcc: file a copy of a generated message (vacation, notify by mailto).

Specification: RFC 8580. Complete: yes, with :create (mailbox), :flags (imap4flags), :specialuse (special-use)
and :mailboxid (RFC 9042 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import Fcc
from rules.errors import RunError
from rules.ext.actions import mailbox_fault
from rules.ext.imap4flags import flags_of
from rules.match import expand
from rules.registry import Extension, Kind, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.options import ActionOptions


def _check(checker: Checker, bound: Bound) -> None:
    name = bound.tag_text("fcc")
    if isinstance(name, str) and (fault := mailbox_fault(name)):
        checker.error(checker.where_tag(bound, "fcc"), "mailbox-name", fault, "name a mailbox")


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    name = run.expand(bound.tag_text("fcc") or "")
    if fault := mailbox_fault(name):
        raise RunError(f":fcc: {fault}")
    use, mailbox_id = bound.tag_text("specialuse"), bound.tag_text("mailboxid")
    options.fcc = Fcc(
        name,
        flags=flags_of(expand(run, bound.tag_texts("flags") or ())),
        create=bound.has("create"),
        special_use=None if use is None else run.expand(use),
        mailbox_id=None if mailbox_id is None else run.expand(mailbox_id),
    )


_ON = ("vacation", "notify")
_WITH = ("fcc",)

EXTENSION = Extension(
    "fcc",
    ("fcc",),
    dialect="RFC 8580",
    tags=(
        TagSpec("fcc", _ON, ("fcc",), Kind.STRING, check=_check, amend=_amend),
        TagSpec("create", _ON, ("mailbox",), requires=_WITH),
        TagSpec("flags", _ON, ("imap4flags",), Kind.STRINGS, requires=_WITH),
        TagSpec("specialuse", _ON, ("special-use",), Kind.STRING, requires=_WITH),
        # RFC 9042 5
        TagSpec("mailboxid", _ON, ("mailboxid",), Kind.STRING, requires=_WITH, conflicts=("specialuse",)),
    ),
)
