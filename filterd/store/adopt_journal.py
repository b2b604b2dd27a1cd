"""How far the adoption of an account is: a small file in its root that outlives everything.

Format (documented nowhere else): ``filterd-adopt``, text lines::

    filterd-adopt 1
    state begun|placed|done
    kind dovecot
    mode copy
    source /var/vmail/ann/Maildir
    mailbox 0123456789abcdef 1700000000 .Sent

``begun``: files are on their way; the account is not to be opened (``refuse_unfinished``), the adoption run again finishes it.
``placed``: all files have their names, all folders their identity; the index may be made from them by whoever comes.
``done``: verified. A mailbox line fixes id and UIDVALIDITY, so that a second run continues the first. Its last word is the
directory as ``names.encode_directory`` writes it ("" for INBOX), percent-encoded like the source's path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from filterd.store import durable
from filterd.store.base import StoreUnavailable
from filterd.store.folder import read_small

if TYPE_CHECKING:
    from filterd.store.core import Core
    from filterd.store.durable import Dir, Disk

JOURNAL = "filterd-adopt"
HEADING = "filterd-adopt 1"
BEGUN, PLACED, DONE = "begun", "placed", "done"
ADOPTING = b"adopting"  # the note in the account's lock meanwhile


@dataclass(slots=True)
class Journal:
    """``mailboxes``: directory -> (mailbox id, UIDVALIDITY)."""

    kind: str
    mode: str
    source: str
    state: str = BEGUN
    mailboxes: dict[str, tuple[str, int]] = field(default_factory=dict)

    def same(self, other: Journal) -> bool:
        """Of the same adoption."""
        return (self.kind, self.mode, self.source) == (other.kind, other.mode, other.source)

    def write(self, disk: Disk, root: Dir) -> None:
        lines = [
            HEADING,
            f"state {self.state}",
            f"kind {self.kind}",
            f"mode {self.mode}",
            f"source {_word(self.source)}",
        ]
        lines += [f"mailbox {mid} {value} {_word(where)}" for where, (mid, value) in self.mailboxes.items()]
        durable.replace_small(disk, root, JOURNAL, ("\n".join(lines) + "\n").encode())

    @staticmethod
    def parse(data: bytes) -> Journal | None:
        lines = data.decode("ascii", "replace").split("\n")
        if lines[0] != HEADING:
            return None
        values = dict(line.split(" ", 1) for line in lines if " " in line and not line.startswith("mailbox "))
        found = Journal(
            values.get("kind", ""),
            values.get("mode", ""),
            _text(values.get("source", "")),
            values.get("state", BEGUN),
        )
        for line in lines:
            words = line.split(" ")
            if len(words) == 4 and words[0] == "mailbox" and words[2].isdigit():
                found.mailboxes[_text(words[3])] = (words[1], int(words[2]))
        return found


def _word(text: str) -> str:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"))


def _text(word: str) -> str:
    return unquote_to_bytes(word).decode("utf-8", "surrogateescape")


def read_journal(root: Dir) -> Journal | None:
    data = read_small(root, JOURNAL)
    return Journal.parse(data) if data else None


def refuse_unfinished(core: Core) -> None:
    """Raises StoreUnavailable while the account's mail is only partly there."""
    if core.adopting:
        return
    journal = read_journal(core.root)
    if journal is not None and journal.state == BEGUN:
        raise StoreUnavailable(
            f"the adoption of {journal.source} is not finished; run it again: filterd store adopt {journal.kind}"
            f" {core.account} {journal.source} --{journal.mode}"
        )
