"""special-use: mailboxes by their use.

Specification: RFC 8579. Complete: yes. ``fileinto :specialuse`` names the use, the host resolves it when it
stores and falls back to the named mailbox (section 4); with :create a new mailbox gets the use.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rules.errors import RunError
from rules.match import expand
from rules.registry import Extension, Kind, Param, TagSpec, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.options import ActionOptions

_USE = re.compile(r"\\[A-Za-z0-9!#$&'+\-./:;<=>?@^_`|~]+")  # RFC 6154 6: "\" atom


def _fault(use: str) -> str | None:
    return None if _USE.fullmatch(use) else f'"{use[:40]}" is not a special use'


def _check_tag(checker: Checker, bound: Bound) -> None:
    use = bound.tag_text("specialuse")
    if isinstance(use, str) and (fault := _fault(use)):
        checker.error(
            checker.where_tag(bound, "specialuse"), "special-use", fault, 'write for example "\\\\Junk"'
        )


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    use = run.expand(bound.tag_text("specialuse") or "")
    if fault := _fault(use):
        raise RunError(f"fileinto: {fault}")
    options.special_use = use


def _check(checker: Checker, bound: Bound) -> None:
    for item, use in enumerate(bound.texts(1)):
        if isinstance(use, str) and (fault := _fault(use)):
            checker.error(checker.where(bound, 1, item), "special-use", fault, 'write for example "\\\\Junk"')


def _exists(bound: Bound) -> TestFn:
    def test(run: Run) -> bool:
        mailbox = run.expand(bound.text(0)) if bound.given(0) else None
        uses = expand(run, bound.texts(1))
        run.seen, run.key = mailbox or "", " ".join(uses)
        return run.host.special_use_exists(mailbox, uses)

    return test


_NEEDS = ("special-use",)

EXTENSION = Extension(
    "special_use",
    _NEEDS,
    dialect="RFC 8579",
    tests=(
        TestSpec(
            "specialuse_exists",
            _NEEDS,
            (Param("mailbox", Kind.STRING, optional=True), Param("special uses", Kind.STRINGS)),
            check=_check,
            link=_exists,
        ),
    ),
    tags=(TagSpec("specialuse", ("fileinto",), _NEEDS, Kind.STRING, check=_check_tag, amend=_amend),),
)
