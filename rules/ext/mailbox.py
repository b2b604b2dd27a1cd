"""mailbox: the test mailboxexists and the tag :create of fileinto.

Specification: RFC 5490 section 3. Complete: yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.match import expand
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run
    from rules.options import ActionOptions


def _exists(bound: Bound) -> TestFn:
    names = bound.texts(0)

    def test(run: Run) -> bool:
        for name in expand(run, names):
            if not run.host.mailbox_exists(name):
                run.seen, run.key = "", name
                return False
            run.seen = run.key = name
        return True

    return test


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    options.create = True


EXTENSION = Extension(
    "mailbox",
    ("mailbox",),
    dialect="RFC 5490",
    tests=(TestSpec("mailboxexists", ("mailbox",), (Param("mailbox names", Kind.STRINGS),), link=_exists),),
    tags=(TagSpec("create", ("fileinto",), ("mailbox",), amend=_amend),),
)
