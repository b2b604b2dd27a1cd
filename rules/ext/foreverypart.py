"""foreverypart and break: a loop over the MIME parts of a message.

Specification: RFC 5703 section 3. Complete: yes. The outermost loop begins with the message itself and takes
all parts, depth first; an inner loop takes the parts inside the current part. Loops may be nested to four
levels (included scripts counted). The open loops are in ``run.loops``; ``current_part`` gives what :mime tests,
``replace`` and ``extracttext`` work on. The tree is that of the message when the outermost loop began; parts
that ``replace`` took away are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from rules.errors import RunError
from rules.loops import Loop
from rules.mail import mime
from rules.registry import CommandSpec, Extension, Kind, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.compiler import Emitter, Label
    from rules.context import Run
    from rules.mail.mime import Part

MAX_LOOPS = 4  # nested; RFC 5703 3 leaves it open
_MARK = "foreverypart"


def current_part(run: Run) -> Part | None:
    """The part that the innermost loop is at; None outside of all loops."""
    return run.loops[-1].part if run.loops else None


def _name(bound: Bound) -> str:
    text = bound.tag_text("name")
    return text if isinstance(text, str) else ""


def _open(checker: Checker) -> list[str]:
    names = checker.scope.marks.setdefault(_MARK, [])
    assert isinstance(names, list)
    return names


def _check_loop(checker: Checker, bound: Bound) -> None:
    if len(_open(checker)) >= MAX_LOOPS:
        message = f"foreverypart loops are nested deeper than {MAX_LOOPS}"
        checker.error(bound.node.pos, "nesting", message, "use fewer inner loops: one walks all parts")


def _enter_loop(checker: Checker, bound: Bound) -> Callable[[], None]:
    names = _open(checker)
    names.append(_name(bound))

    def leave() -> None:
        names.pop()

    return leave


def _check_break(checker: Checker, bound: Bound) -> None:
    names = _open(checker)
    name = _name(bound)
    if not names:
        checker.error(bound.node.pos, "break", "break stands outside of a foreverypart loop", "remove it")
    elif bound.has("name") and name not in names:
        message = f'no open foreverypart loop has the name "{name[:60]}"'
        checker.error(checker.where_tag(bound, "name"), "break", message, "write foreverypart :name")


def _emit_loop(emitter: Emitter, bound: Bound) -> None:
    again, behind = emitter.label(), emitter.label()

    def begin(run: Run) -> None:
        if len(run.loops) >= MAX_LOOPS:
            raise RunError(f"foreverypart loops are nested deeper than {MAX_LOOPS}")
        outer = run.loops[-1] if run.loops else None
        if outer is None or outer.part is None:
            root = run.view.message.root
            run.loops.append(Loop(bound, root, islice(mime.walk(root), run.limits.mime_parts), []))
            return
        walk = islice(mime.walk(outer.part), run.limits.mime_parts)
        next(walk, None)  # the current part itself is the outer loop's
        run.loops.append(Loop(bound, outer.root, walk, outer.replaced))

    def advance(run: Run) -> bool:
        loops = run.loops
        while loops[-1].bound is not bound:  # of a loop that was left by other ways
            loops.pop()
        part = loops[-1].advance()
        run.seen = "" if part is None else f"{part.ctype}/{part.subtype}"
        if part is None:
            loops.pop()
        return part is not None

    emitter.action(bound, begin)
    emitter.here(again)
    emitter.call(bound, advance, behind)
    emitter.marks.setdefault(_MARK, []).append(behind)
    emitter.marks.setdefault(_mark(_name(bound)), []).append(behind)
    emitter.block(bound.block or ())
    emitter.marks[_MARK].pop()
    emitter.marks[_mark(_name(bound))].pop()
    emitter.jump(again)
    emitter.here(behind)


def _mark(name: str) -> str:
    return f"{_MARK} {name}"


def _emit_break(emitter: Emitter, bound: Bound) -> None:
    labels = emitter.marks.get(_mark(_name(bound)) if bound.has("name") else _MARK, [])
    target: Label = labels[-1]
    every = emitter.marks[_MARK]
    levels = len(every) - every.index(target)

    def leave(run: Run) -> bool:
        del run.loops[-levels:]
        return False

    emitter.call(bound, leave, target)


_NEEDS = ("foreverypart",)

EXTENSION = Extension(
    "foreverypart",
    _NEEDS,
    dialect="RFC 5703",
    commands=(
        CommandSpec(
            "foreverypart",
            _NEEDS,
            block=True,
            check=_check_loop,
            enter=_enter_loop,
            emit=_emit_loop,
            effects=("body",),
        ),
        CommandSpec("break", _NEEDS, check=_check_break, emit=_emit_break, ends=True),
    ),
    tags=(TagSpec("name", ("foreverypart", "break"), kind=Kind.STRING, constant=True),),
)
