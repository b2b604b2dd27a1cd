"""The actions of the base language: keep, discard, redirect; and fileinto.

Specification: RFC 5228 section 4. Complete: yes. Tags of other extensions (:copy, :flags, :create, ...) reach
the actions through ``TagSpec.amend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.actions import Discard, FileInto, Keep, Redirect
from rules.errors import RunError
from rules.options import ActionOptions
from rules.outaddress import out_address
from rules.registry import CommandFn, CommandSpec, Extension, Kind, Param
from rules.result import is_inbox
from rules.variables import Template

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run

_MAILBOX_LENGTH = 1000


def options(run: Run, bound: Bound) -> ActionOptions:
    """What the tags of this use say."""
    chosen = ActionOptions()
    for tag in bound.tag_specs:
        if tag.amend is not None:
            tag.amend(run, bound, chosen)
    return chosen


def mailbox_fault(name: str) -> str | None:
    """Why this cannot be the name of a mailbox, or None."""
    if not name:
        return "the name of a mailbox must not be empty"
    if len(name) > _MAILBOX_LENGTH:
        return "the name of the mailbox is too long"
    if "\ufffd" in name:
        return "the name of the mailbox is not valid UTF-8"
    if any(char < " " or char == "\x7f" for char in name):
        return "the name of a mailbox must not have control characters"
    return None


def is_address(text: str) -> bool:
    """Is it one address with a domain, as redirect and vacation need?"""
    return out_address(text) is not None


def the_address(text: str) -> str:
    """The address without a display name."""
    return out_address(text) or text


def check_address(checker: Checker, bound: Bound, index: int) -> None:
    """An error when a constant is no address."""
    text = bound.text(index)
    if isinstance(text, str) and not is_address(text):
        message = f'"{text[:60]}" is not an address'
        checker.error(checker.where(bound, index), "address", message, "write user@domain.example")


def _keep(bound: Bound) -> CommandFn:
    amend = any(tag.amend for tag in bound.tag_specs)

    def act(run: Run) -> None:
        flags = options(run, bound).flags if amend else None
        action = Keep(
            run.flags if flags is None else flags, place=run.place(bound), message=run.view.stored()
        )
        run.result.add(action)
        run.result.cancel_keep()
        run.seen = "INBOX"
        run.key = " ".join(action.flags)

    return act


def _discard(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        run.result.add(Discard(run.place(bound)))
        run.result.cancel_keep()

    return act


def _check_redirect(checker: Checker, bound: Bound) -> None:
    if not bound.has("list"):
        check_address(checker, bound, 0)


def _redirect(bound: Bound) -> CommandFn:
    target = bound.text(0)
    amend = any(tag.amend for tag in bound.tag_specs)

    def act(run: Run) -> None:
        text = run.expand(target)
        chosen = options(run, bound) if amend else ActionOptions()
        if chosen.list_name is None:
            if not is_address(text):
                raise RunError(f'redirect: "{text[:60]}" is not an address')
            text = the_address(text)
        run.seen = text
        run.result.add(
            Redirect(
                text,
                copy=chosen.copy,
                notify=chosen.notify,
                ret=chosen.ret,
                by_time=chosen.by_time,
                by_mode=chosen.by_mode,
                by_trace=chosen.by_trace,
                list_name=chosen.list_name,
                place=run.place(bound),
                message=run.view.rendered(),
            )
        )
        if not chosen.copy:
            run.result.cancel_keep()

    return act


def _check_fileinto(checker: Checker, bound: Bound) -> None:
    text = bound.text(0)
    if not isinstance(text, Template) and (fault := mailbox_fault(text)):
        checker.error(checker.where(bound, 0), "mailbox-name", fault, "name a mailbox")


def _fileinto(bound: Bound) -> CommandFn:
    target = bound.text(0)
    amend = any(tag.amend for tag in bound.tag_specs)

    def act(run: Run) -> None:
        name = run.expand(target)
        if fault := mailbox_fault(name):
            raise RunError(f"fileinto: invalid folder name: {fault}")
        chosen = options(run, bound) if amend else ActionOptions()
        run.seen = name
        run.result.add(
            FileInto(
                "INBOX" if is_inbox(name) else name,
                flags=run.flags if chosen.flags is None else chosen.flags,
                create=chosen.create,
                copy=chosen.copy,
                special_use=chosen.special_use,
                mailbox_id=chosen.mailbox_id,
                place=run.place(bound),
                message=run.view.stored(),
            )
        )
        if not chosen.copy:
            run.result.cancel_keep()

    return act


EXTENSION = Extension(
    "actions",
    ("fileinto",),
    dialect="RFC 5228",
    commands=(
        CommandSpec("keep", link=_keep, keeps_message=True, writes=()),
        CommandSpec("discard", link=_discard, keeps_message=True, writes=()),
        CommandSpec(
            "redirect",
            params=(Param("address", Kind.STRING),),
            check=_check_redirect,
            link=_redirect,
            keeps_message=True,
            writes=(),
        ),
        CommandSpec(
            "fileinto",
            needs=("fileinto",),
            params=(Param("mailbox", Kind.STRING),),
            check=_check_fileinto,
            link=_fileinto,
            keeps_message=True,
            writes=(),
        ),
    ),
)
