"""What tags of other extensions add to an action before it is made (``TagSpec.amend``)."""

from __future__ import annotations

from dataclasses import dataclass

from rules.actions import Fcc


@dataclass(slots=True)
class ActionOptions:
    """The optional fields of the actions in ``rules/actions.py``, collected from tags."""

    flags: tuple[str, ...] | None = None  # None: the script's current flags
    copy: bool = False
    create: bool = False
    special_use: str | None = None
    mailbox_id: str | None = None
    notify: str | None = None
    ret: str | None = None
    by_time: int | None = None
    by_mode: str | None = None
    by_trace: bool = False
    list_name: str | None = None
    fcc: Fcc | None = None
