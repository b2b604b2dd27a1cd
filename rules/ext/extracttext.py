"""extracttext: the text of the current MIME part into a variable.

Specification: RFC 5703 section 7. Complete: yes. :first counts characters. Parts that are no text, have an
unknown transfer encoding or charset give the empty string; HTML gives its visible text. At most
``limits.variable_size`` octets are kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rules.ext.foreverypart import current_part
from rules.ext.variables import MODIFIERS, assign, modifier_tag
from rules.htmltext import visible_text
from rules.mail import charset
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.mail.mime import Part

_ENCODINGS = ("7bit", "8bit", "binary", "quoted-printable", "base64", "")
_MARKUP = ("html",)


def _check(checker: Checker, bound: Bound) -> None:
    if not checker.has("variables"):
        message = '"extracttext" needs the capability "variables"'
        checker.error(bound.node.pos, "missing-require", message, 'add "variables" to require')
    if not checker.scope.marks.get("foreverypart"):
        message = "extracttext works inside of a foreverypart loop only"
        checker.error(bound.node.pos, "extracttext", message, "put foreverypart { ... } around it")
    checker.check_variable(bound.text(0), checker.where(bound, 0))


def part_text(part: Part, most: int) -> str:
    """The text of a part; empty when it has none that can be read."""
    if part.ctype != "text" or part.encoding not in _ENCODINGS:
        return ""
    if not charset.known(part.params.get("charset", "us-ascii")):
        return ""
    text = part.text(most) or ""
    return visible_text(text) if part.subtype in _MARKUP else text


def _extract(bound: Bound) -> CommandFn:
    changes = [change for name, _, change in MODIFIERS if bound.has(name)]
    first = bound.tag_number("first")
    name = bound.text(0)

    def act(run: Run) -> None:
        part = current_part(run)
        text = "" if part is None else part_text(part, run.limits.body_text)
        if first is not None:
            text = text[:first]
        for change in changes:
            text = change(text, run.limits.variable_size)
        target = run.expand(name)
        run.seen, run.key = text, target
        assign(run, target, text)

    return act


def _tags() -> tuple[TagSpec, ...]:
    """:first, and the modifiers of ``set`` (those of other extensions with what they need)."""
    needs = {"encodeurl": ("enotify",), "quoteregex": ("regex",)}
    modifiers = [modifier_tag(name, needs.get(name, ())) for name, _, _ in MODIFIERS]
    return (
        TagSpec("first", ("extracttext",), kind=Kind.NUMBER),
        *(replace(tag, on=("extracttext",)) for tag in modifiers),
    )


EXTENSION = Extension(
    "extracttext",
    ("extracttext",),
    dialect="RFC 5703",
    commands=(
        CommandSpec(
            "extracttext",
            ("extracttext",),
            (Param("variable name", Kind.STRING, constant=True),),
            check=_check,
            link=_extract,
            effects=("body",),
        ),
    ),
    tags=_tags(),
)
