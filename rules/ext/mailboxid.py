"""mailboxid: mailboxes by their object id.

Specification: RFC 9042. Complete: yes. When no mailbox has the id, the host stores into the named one
(section 4). The tag cannot be used together with :specialuse (section 4.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.match import expand
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run
    from rules.options import ActionOptions


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    options.mailbox_id = run.expand(bound.tag_text("mailboxid") or "")


def _exists(bound: Bound) -> TestFn:
    ids = bound.texts(0)

    def test(run: Run) -> bool:
        for one in expand(run, ids):
            run.seen = run.key = one
            if not run.host.mailbox_id_exists(one):
                run.seen = ""
                return False
        return True

    return test


_NEEDS = ("mailboxid",)

EXTENSION = Extension(
    "mailboxid",
    _NEEDS,
    dialect="RFC 9042",
    tests=(TestSpec("mailboxidexists", _NEEDS, (Param("mailbox ids", Kind.STRINGS),), link=_exists),),
    tags=(TagSpec("mailboxid", ("fileinto",), _NEEDS, Kind.STRING, conflicts=("specialuse",), amend=_amend),),
)
