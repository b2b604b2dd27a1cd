"""copy: the tag :copy of fileinto and redirect leaves the implicit keep alone.

Specification: RFC 3894. Complete: yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.registry import Extension, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run
    from rules.options import ActionOptions


def _amend(run: Run, bound: Bound, options: ActionOptions) -> None:
    options.copy = True


EXTENSION = Extension(
    "copy",
    ("copy",),
    dialect="RFC 3894",
    tags=(TagSpec("copy", ("fileinto", "redirect"), ("copy",), amend=_amend),),
)
