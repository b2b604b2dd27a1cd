"""Quota: what an account uses, and the ``maildirsize`` file that other Maildir++ programs read.

Specification: Maildir++ quota (Courier), but for the rules of Trash: every folder counts. Complete: yes.

Sizes are those of the files; a message copied by a hard link counts twice. The index is the truth for our own decisions;
``maildirsize`` is kept beside it when the account has a limit: first line ``<octets>S``, then ``<size> <count>`` a change, made
anew from the index when it grows beyond MAX_OCTETS, when the limit changed, or after healing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from filterd.store import durable
from filterd.store.base import OverQuota, Quota

if TYPE_CHECKING:
    from filterd.store.core import Core

SIZE_FILE = "maildirsize"
MAX_OCTETS = 5120  # Maildir++: recalculate above


def used(core: Core) -> tuple[int, int]:
    """(octets, messages) of all mailboxes."""
    row = core.index.query("select total(disk_size), total(messages) from mailbox")[0]
    return int(row[0] or 0), int(row[1] or 0)


def current(core: Core) -> Quota:
    octets, messages = used(core)
    return Quota(used=octets, messages=messages, limit=core.limit())


def check(core: Core, octets: int, pending: int = 0) -> None:
    """Raises OverQuota when so many octets more do not fit; ``pending`` are on their way already."""
    limit = core.limit()
    if limit and octets and used(core)[0] + pending + octets > limit:
        raise OverQuota("the account's mail has reached its limit")


def count(core: Core, octets: int, messages: int) -> None:
    """Note a change for other programs. Under the lock, after the index commit."""
    limit = core.limit()
    if not limit or not (octets or messages) or not core.settings.layout.counts_sizes:
        return
    try:
        facts = os.stat(SIZE_FILE, dir_fd=core.root.fd, follow_symlinks=False)
    except FileNotFoundError:
        rewrite(core)
        return
    if facts.st_size > MAX_OCTETS or not _limit_stands(core, limit):
        rewrite(core)
        return
    core.settings.disk.append(core.root, SIZE_FILE, f"{octets} {messages}\n".encode())


def _limit_stands(core: Core, limit: int) -> bool:
    with open(f"{core.path}/{SIZE_FILE}", "rb") as file:
        return file.readline(200).strip() == b"%dS" % limit


def rewrite(core: Core) -> None:
    """Write it anew from the index."""
    limit = core.limit()
    if limit and core.settings.layout.counts_sizes:
        octets, messages = used(core)
        text = f"{limit}S\n{octets} {messages}\n"
        durable.replace_small(core.settings.disk, core.root, SIZE_FILE, text.encode(), durable=False)
