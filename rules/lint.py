"""Warnings: what compiles, but hardly does what its author wants.

Dead code behind ``stop`` is found by the checker. Here: rules that an earlier rule shadows, ``:contains ""``,
redirects to oneself. Linear in the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rules.ast import Number, Strings, Test
from rules.bound import Bound, Texts, constants
from rules.comparator import ascii_casemap
from rules.outaddress import out_address
from rules.registry import CommandSpec

if TYPE_CHECKING:
    from rules.checker import Checker

_MOST_PARTS = 64  # keys of earlier rules that a later key is searched for
_MOST_RULES = 4_000  # in one block: beyond, looking for shadowed rules would take longer than compiling may
_NAMED_BY_FIELDS = frozenset(
    ("header", "address", "envelope", "date")
)  # their names are compared without case
_TOLD_BY_SPECS = frozenset(
    ("is", "contains", "matches", "comparator", "all", "domain", "localpart", "user", "detail")
)
Signature = tuple[object, ...]


def lint(checker: Checker, bounds: Sequence[Bound]) -> None:
    """Adds warnings about these commands, and all inside them, to the checker."""
    seen: dict[Signature, dict[str, int]] = {}
    whole: dict[Signature, int] = {}
    begin = 0
    look = len(bounds) <= _MOST_RULES
    closed = True  # do all branches of the chain so far end the script?
    always = 0  # the line of a branch whose test is literally true: no later one of the chain acts
    ended = 0  # the line of an if-else whose branches all do
    for bound in bounds:
        if ended and bound.name not in ("elsif", "else"):
            message = f"this is never reached: the if in line {ended} ends the script in every case"
            checker.warn(bound.node.pos, "dead-code", message, "remove it, or move it up")
            ended = 0
        if bound.name == "if":
            closed, begin, always = True, bound.line, 0
        if bound.name in ("if", "elsif", "else"):
            outcome = _literal(bound.tests[0]) if bound.tests else True
            if always or outcome is False:
                told = f"the test in line {always} is always true" if always else "its test is always false"
                checker.warn(
                    bound.node.pos, "dead-code", f"this never acts: {told}", "remove it, or mend the test"
                )
            closed = closed and (outcome is False or _ends(bound.block or ()))
            if closed and outcome is True and not always:
                ended = begin
            if outcome is True and not always:
                always = bound.line
        for test in bound.tests:
            _test(checker, test)
        if bound.block is not None:
            lint(checker, bound.block)
        if bound.name not in ("if", "elsif", "else"):
            if not (isinstance(bound.spec, CommandSpec) and bound.spec.keeps_message):
                seen, whole = {}, {}
            if bound.name == "redirect" and not bound.plan.problems:
                _redirect(checker, bound)
            continue
        if not look:
            continue
        if bound.name == "if":
            _shadowed(checker, bound, seen, whole)
            if not _calm(bound.block or ()):
                seen, whole = {}, {}
        elif not _calm(bound.block or ()):
            seen, whole = {}, {}


def _calm(block: Sequence[Bound]) -> bool:
    """Does the block leave everything that tests look at alone (or end the script)?"""
    if block and _ends(block):
        return True
    for bound in block:
        if bound.name in ("if", "elsif", "else"):
            if not _calm(bound.block or ()):
                return False
        elif not (isinstance(bound.spec, CommandSpec) and bound.spec.keeps_message):
            return False
    return True


def _ends(block: Sequence[Bound]) -> bool:
    """Does its last command end the script (an if does when all its branches do, and there is an else)?"""
    if not block:
        return False
    last = block[-1]
    if last.name == "else":
        index = len(block) - 1
        while index >= 0 and block[index].name in ("elsif", "else"):
            index -= 1
        return index >= 0 and all(_ends(bound.block or ()) for bound in block[index:])
    return isinstance(last.spec, CommandSpec) and last.spec.ends


def _shadowed(
    checker: Checker,
    bound: Bound,
    seen: dict[Signature, dict[str, int]],
    whole: dict[Signature, int],
) -> None:
    """Warns when an earlier rule with a ``stop`` is true whenever this one is."""
    if not bound.tests or bound.tests[0].constant is not None:
        return
    test = bound.tests[0]
    line = None
    keys = constants(test.keys) if test.match is not None else None
    plain = test.match is not None and test.match.name in ("is", "contains", "matches")
    if keys is not None and plain and (test.comparator is None or test.comparator.name == "i;ascii-casemap"):
        keys = tuple(map(ascii_casemap, keys))
    if keys is not None and isinstance(test.node, Test):
        match = test.match.name if test.match is not None else ""
        frame = _frame(test)
        known = seen.get((match, frame), {})
        pieces = seen.get(("contains", frame), {}) if match in ("is", "contains") else {}
        if pieces and len(pieces) <= _MOST_PARTS:  # "spam" is in "spammy", whole or not
            lines = [found for key in keys if (found := known.get(key) or _within(pieces, key))]
        else:
            lines = [known[key] for key in keys if key in known]
        if lines and len(lines) == len(keys):
            line = max(lines)
        elif _ends(bound.block or ()):
            table = seen.setdefault((match, frame), {})
            for key in keys:
                table.setdefault(key, bound.line)
    elif isinstance(test.node, Test) and not _varies(test):
        signature = _signature(test.node)
        line = whole.get(signature)
        if line is None and _ends(bound.block or ()):
            whole[signature] = bound.line
    if line is not None:
        message = f"this rule never acts: the rule in line {line} is true whenever it is, and ends the script"
        checker.warn(bound.node.pos, "shadowed", message, "remove it, or move it above the other one")


def _within(known: dict[str, int], key: str) -> int:
    """The line of a known key that is the whole or a piece of this one; 0 when there is none."""
    return min((line for piece, line in known.items() if piece in key), default=0)


def _literal(test: Bound) -> bool | None:
    """What ``true``, ``false`` and ``not`` of them say whatever the mail is."""
    if test.name == "not" and test.tests:
        inner = _literal(test.tests[0])
        return None if inner is None else not inner
    return {"true": True, "false": False}.get(test.name)


def _varies(test: Bound) -> bool:
    """Does its outcome depend on more than the message (variables, memory)?"""
    for value in (*test.args, *test.tags.values()):
        if isinstance(value, tuple) and constants(value) is None:
            return True
    if "state" in getattr(test.spec, "reads", ()) or "other" in getattr(test.spec, "reads", ()):
        if test.name not in ("allof", "anyof", "not"):
            return True
    return any(map(_varies, test.tests))


def _frame(test: Bound) -> Signature:
    """A matching test without its keys and its match type, however it is written."""
    fold = test.name in _NAMED_BY_FIELDS
    args = [_folded(arg) if fold and type(arg) is tuple else arg for arg in test.args[:-1]]
    tags = [tag for tag in test.tags.items() if tag[0] not in _TOLD_BY_SPECS]
    comparator = "" if test.comparator is None else test.comparator.name
    return (test.name, *args, "" if test.part is None else test.part.name, comparator, *tags)


def _folded(texts: Texts) -> Texts:
    return tuple(text.lower() if type(text) is str else text for text in texts)


def _signature(node: Test) -> Signature:
    return (node.name, node.shape, tuple(map(_plain, node.args)), tuple(map(_signature, node.tests)))


def _plain(arg: object) -> object:
    if isinstance(arg, Strings):
        return arg.values
    return arg.value if isinstance(arg, Number) else None


def _test(checker: Checker, test: Bound) -> None:
    if test.match is not None and test.match.name == "contains":
        keys = constants(test.keys)
        if keys is not None and "" in keys:
            message = f'"{test.name}" with :contains "" is true for every value'
            checker.warn(test.node.pos, "broad-contains", message, "write what is looked for, or use exists")
    for inner in test.tests:
        _test(checker, inner)


def _bare_address(text: str) -> str:
    """An address in lower case, without display name and subaddress."""
    local, at, domain = (out_address(text) or text).lower().rpartition("@")
    return local.partition("+")[0] + at + domain


def _redirect(checker: Checker, bound: Bound) -> None:
    address = bound.text(0)
    if isinstance(address, str) and not bound.has("list") and _bare_address(address) in checker.own_addresses:
        message = f"this redirects to your own address {address}: the mail comes back here"
        checker.warn(checker.where(bound, 0), "redirect-loop", message, "redirect elsewhere, or use keep")
