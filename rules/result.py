"""The actions of a run: duplicates dropped, conflicts refused, the implicit keep.

Specification: RFC 5228 2.10.1 to 2.10.3 (conflicts, duplicates), 2.10.2 (implicit keep), RFC 5429 2.4 (reject
goes with no delivery), RFC 3894 (:copy leaves the keep alone), RFC 5230 4.7 (vacation and reject exclude each
other). RFC 5293 7 (an edited message is a duplicate of the unedited one: the first delivery stays). Choice:
of two equal fileintos the later one's flags win, as with Pigeonhole.
"""

from __future__ import annotations

from dataclasses import replace

from rules.actions import (
    Action,
    Discard,
    FileInto,
    Keep,
    Notify,
    Pipe,
    Quarantine,
    Redirect,
    Reject,
    Remember,
    Vacation,
)
from rules.errors import RunError
from rules.limits import Limits

_DELIVERS = (Keep, FileInto, Redirect, Pipe)


def is_inbox(mailbox: str) -> bool:
    """RFC 9051 5.1: INBOX is named without regard to case."""
    return mailbox.upper() == "INBOX"


def action_name(action: Action) -> str:
    """An action in the words of messages."""
    match action:
        case Reject():
            return "ereject" if action.ereject else "reject"
        case _:
            return type(action).__name__.lower()


class Result:
    """The list of actions, in order, and whether the implicit keep still stands."""

    __slots__ = ("actions", "implicit_keep", "keep_flags", "limits", "marks")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.actions: list[Action] = []
        self.implicit_keep = True
        self.marks: set[tuple[str, str]] = set()  # what extensions note of their own actions
        self.keep_flags: tuple[str, ...] | None = (
            None  # of a keep that an earlier script of the chain handed on
        )

    def cancel_keep(self) -> None:
        """The implicit keep is cancelled."""
        self.implicit_keep = False

    def add(self, action: Action) -> bool:
        """Takes an action in; False when it was a duplicate. Raises RunError on a conflict or a limit."""
        self._check_conflict(action)
        match action:
            case Keep() | FileInto():
                fresh = self._add_store(action)
            case Redirect():
                fresh = self._add_redirect(action)
            case Discard():
                fresh = self._add_once(action, Discard)
            case Vacation():
                fresh = self._add_limited(action, Vacation, self.limits.vacations)
            case Notify():
                fresh = self._add_limited(action, Notify, self.limits.notifies)
            case _:
                fresh = self._append(action)
        return fresh

    def _append(self, action: Action) -> bool:
        if len(self.actions) >= self.limits.actions:
            raise RunError(
                f"total number of actions exceeds policy limit: at most {self.limits.actions} actions"
            )
        self.actions.append(action)
        return True

    def _check_conflict(self, action: Action) -> None:
        for other in self.actions:
            if not isinstance(other, Reject) and not isinstance(action, Reject):
                continue
            reject, mate = (action, other) if isinstance(action, Reject) else (other, action)
            if isinstance(mate, (_DELIVERS, Vacation)):
                raise RunError(
                    f"{action_name(reject)} cannot be used together with {action_name(mate)} (RFC 5429 2.4)"
                )
            if isinstance(mate, Reject):
                raise RunError("a message can be rejected only once (RFC 5429 2.4)")

    def _add_store(self, action: Keep | FileInto) -> bool:
        for index, other in enumerate(self.actions):
            if isinstance(other, Keep | FileInto) and _same_store(other, action):
                if isinstance(action, FileInto) and isinstance(other, Keep):
                    self.actions[index] = replace(other, flags=action.flags)
                elif isinstance(action, FileInto) and isinstance(other, FileInto):
                    self.actions[index] = replace(
                        other,
                        flags=action.flags,
                        copy=other.copy and action.copy,
                        create=other.create or action.create,
                    )
                else:
                    self.actions[index] = action
                return False
        return self._append(action)

    def _add_redirect(self, action: Redirect) -> bool:
        for index, other in enumerate(self.actions):
            if isinstance(other, Redirect) and _same_address(other.address, action.address):
                self.actions[index] = replace(other, copy=other.copy and action.copy)
                return False
        return self._add_limited(action, Redirect, self.limits.redirects)

    def _add_limited(self, action: Action, kind: type, most: int) -> bool:
        if sum(isinstance(other, kind) for other in self.actions) >= most:
            raise RunError(
                f"number of {action_name(action)} actions exceeds policy limit ({most} in one run)"
            )
        return self._append(action)

    def _add_once(self, action: Action, kind: type) -> bool:
        if any(isinstance(other, kind) for other in self.actions):
            return False
        return self._append(action)

    def keeps(self) -> bool:
        """Is the message kept, implicitly or by an explicit keep?"""
        return self.implicit_keep or any(isinstance(action, Keep) for action in self.actions)

    def hand_on(self) -> None:
        """The chain goes on: the keep becomes the next script's implicit keep."""
        for action in self.actions:
            if isinstance(action, Keep):
                self.keep_flags = action.flags
        self.actions = [action for action in self.actions if not isinstance(action, Keep | Discard)]
        self.implicit_keep = True

    def finish(self, flags: tuple[str, ...], message: bytes | None) -> list[Action]:
        """The final list; the implicit keep is added when it stands and is no duplicate."""
        if self.implicit_keep and not any(isinstance(action, Keep | Reject) for action in self.actions):
            keep = Keep(flags or self.keep_flags or (), implicit=True, message=message)
            if not any(isinstance(action, FileInto) and _same_store(action, keep) for action in self.actions):
                self.actions.append(keep)
        if (
            message is not None
        ):  # the whole message is held, with all that the script did to it, before or after
            for index, action in enumerate(self.actions):
                if isinstance(action, Quarantine):
                    self.actions[index] = replace(action, message=message)
        return self.actions

    def remembered(self) -> list[Remember]:
        """Keys to be remembered with the delivery."""
        return [action for action in self.actions if isinstance(action, Remember)]


def _same_store(one: Keep | FileInto, other: Keep | FileInto) -> bool:
    # RFC 5293 7: a message that was edited in between counts as the same one.
    return _target(one) == _target(other)


def _target(action: Keep | FileInto) -> tuple[str, str | None, str | None]:
    if isinstance(action, Keep) or (
        is_inbox(action.mailbox) and not action.mailbox_id and not action.special_use
    ):
        return ("INBOX", None, None)
    return (action.mailbox, action.mailbox_id, action.special_use)


def _same_address(one: str, other: str) -> bool:
    """Equal but for the case of the domain (RFC 5321 2.4: local parts keep theirs)."""
    local, _, domain = one.rpartition("@")
    local2, _, domain2 = other.rpartition("@")
    return local == local2 and domain.lower() == domain2.lower()
