"""vnd.filterd.list: lists that scripts themselves keep for the account.

    addtolist <list: string> <values: string-list>;
    removefromlist <list: string> <values: string-list>;
    inlist <lists: string-list> <values: string-list>      test: is any of the values in any of the lists?

The lists are those of :list (RFC 6134) too. What a run adds or takes away it sees at once; it is kept when, and only
when, the delivery commits (ListStore). Values are compared without case, blanks at their ends do not count.
Complete: yes. A name has up to 128 characters and no control characters; a value up to 1,000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import ListStore
from rules.errors import RunError
from rules.ext.extlists import CHANGED, contains, list_name
from rules.match import expand
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_NAME_LENGTH = 128
_VALUE_LENGTH = 1000
_MOST = 64  # changes in one run


def _name_fault(name: str) -> str | None:
    if not name or len(name) > _NAME_LENGTH or any(char < " " or char == "\x7f" for char in name):
        return f'"{name[:40]}" cannot be the name of a list'
    return None


def _check(checker: Checker, bound: Bound) -> None:
    for item, name in enumerate(bound.texts(0)):
        if isinstance(name, str) and (fault := _name_fault(name)):
            checker.error(checker.where(bound, 0, item), "list-name", fault, 'write for example "friends"')


def _change(bound: Bound) -> CommandFn:
    remove = bound.name == "removefromlist"

    def act(run: Run) -> None:
        name = list_name(run.expand(bound.text(0)))
        if fault := _name_fault(name):
            raise RunError(f"{bound.name}: {fault}")
        values = [value.strip() for value in expand(run, bound.texts(1))]
        run.seen, run.key = ", ".join(values[:8]), name
        for value in values:
            _one(run, bound, name, value, remove)

    return act


def _one(run: Run, bound: Bound, name: str, value: str, remove: bool) -> None:
    if not value or "\n" in value or "\r" in value:
        return  # what a message did not say cannot be remembered
    value = value[:_VALUE_LENGTH]
    if bool(contains(run, name, value)) is not remove:
        return  # as it is already
    changed = run.get(CHANGED)
    if len(changed) >= _MOST:
        raise RunError(f"{bound.name}: a run may change lists at most {_MOST} times")
    changed[name, value.lower()] = not remove
    actions = run.result.actions
    same = [one for one in actions if isinstance(one, ListStore) and one.name == name]
    for one in same:
        if one.value.lower() == value.lower():
            actions.remove(one)
            return  # back to what it was
    actions.append(ListStore(name, value, remove, run.place(bound)))


def _inlist(bound: Bound) -> TestFn:
    def test(run: Run) -> bool:
        names = [list_name(name) for name in expand(run, bound.texts(0))]
        values = [value.strip() for value in expand(run, bound.texts(1))]
        for value in values:
            for name in names:
                if value and contains(run, name, value):
                    run.seen, run.key = value, name
                    return True
        run.seen, run.key = values[0] if values else "", ", ".join(names[:8])
        return False

    return test


_NEEDS = ("vnd.filterd.list",)
_PARAMS = (Param("list", Kind.STRING), Param("values", Kind.STRINGS))

EXTENSION = Extension(
    "list_storage",
    _NEEDS,
    dialect="filterd",
    commands=tuple(
        CommandSpec(name, _NEEDS, _PARAMS, check=_check, link=_change, keeps_message=True, writes=("lists",))
        for name in ("addtolist", "removefromlist")
    ),
    tests=(
        TestSpec(
            "inlist",
            _NEEDS,
            (Param("lists", Kind.STRINGS), Param("values", Kind.STRINGS)),
            check=_check,
            link=_inlist,
        ),
    ),
)
