"""What only an account's index knows, as text beside the mail (HOUSE item 12): the files and how they are read.

Two files, UTF-8 lines, each put in place whole (``durable.replace_small``):

``filterd-snapshot`` in a mailbox's directory (mbox: in ``.mailboxes/<id>``), so that it goes where the mailbox goes::

    filterd-snapshot 1
    id 0123456789abcdef
    made 1790000000
    numbers 1790000000 2001 3001
    metadata ["/private/comment", "for the taxes"]
    keyword $Project27 1:3,17
    saved 1790000100 5:9
    end 0f3a...

``filterd-account`` in the account's directory: ``id account``, ``metadata`` of the account, ``remembered KEY UNTIL``
(hexadecimal; seconds) for what Sieve remembers (vacation, duplicate), ``rebuilt {...}``: when the index was last made anew, what
came back and what did not.

``numbers``: UIDVALIDITY, the next UID and the modseq when it was made. ``keyword``: one that file names have no letter for, and the
UIDs that have it. ``saved``: a save date that the file does not tell, and the UIDs. ``omitted N``: so many lines did not fit into
MAX_OCTETS. ``end``: a digest of all before it. Unknown words are skipped; a larger number in the first line is another format.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from filterd.store.folder import MAX_SMALL_FILE, MAX_UID

SNAPSHOT_FILE = "filterd-snapshot"
ACCOUNT_FILE = "filterd-account"
UNUSABLE = ".unusable"  # what is behind the name of one that was not believed
ACCOUNT_ID = "account"
HEADING = "filterd-snapshot"
VERSION = 1
MAX_OCTETS = MAX_SMALL_FILE - 65_536
FUTURE_SECONDS = 86_400  # so far may clocks be apart
MAX_NUMBER = 2**62
_RUN = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")

Runs = list[tuple[int, int]]  # UIDs, first and last, ascending


class Unusable(Exception):
    """A snapshot that cannot be believed; the text says why."""


@dataclass(slots=True)
class Snapshot:
    """One file. ``id``: the mailbox's, or ACCOUNT_ID."""

    id: str
    made: int
    uidvalidity: int = 0
    uidnext: int = 1
    modseq: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    keywords: dict[str, Runs] = field(default_factory=dict)
    saved: dict[int, Runs] = field(default_factory=dict)
    remembered: dict[bytes, float] = field(default_factory=dict)
    rebuilt: str = ""
    omitted: int = 0

    @property
    def empty(self) -> bool:
        return not (self.metadata or self.keywords or self.saved or self.remembered or self.rebuilt)

    def says_the_same(self, other: Snapshot) -> bool:
        """But for when, and for numbers that files know as well."""
        return (
            (self.id, self.metadata, self.keywords) == (other.id, other.metadata, other.keywords)
            and self.rebuilt == other.rebuilt
            and self.saved == other.saved
            and self.remembered == other.remembered
        )

    def render(self) -> bytes:
        """What does not fit is left out: the oldest memories first, then save dates."""
        lines = [f"{HEADING} {VERSION}", f"id {self.id}", f"made {self.made}"]
        lines.append(f"numbers {self.uidvalidity} {self.uidnext} {self.modseq}")
        if self.rebuilt:
            lines.append(f"rebuilt {self.rebuilt}")
        more = [f"metadata {json.dumps(pair)}" for pair in sorted(self.metadata.items())]
        more += [f"keyword {word} {render_runs(runs)}" for word, runs in self.keywords.items()]
        more += [f"saved {date} {render_runs(runs)}" for date, runs in sorted(self.saved.items())]
        last_first = sorted(self.remembered.items(), key=lambda item: -item[1])
        more += [f"remembered {key.hex()} {until:.0f}" for key, until in last_first]
        room = MAX_OCTETS
        self.omitted = 0
        for line in more:
            if len(line) < room:
                room -= len(line) + 1
                lines.append(line)
            else:
                self.omitted += 1
        if self.omitted:
            lines.append(f"omitted {self.omitted}")
        text = ("\n".join(lines) + "\n").encode("utf-8", "replace")
        return text + f"end {_digest(text)}\n".encode()

    @staticmethod
    def parse(data: bytes, now: float) -> Snapshot:
        """Raises Unusable."""
        heading = data.partition(b"\n")[0].decode("ascii", "replace").split(" ")
        if len(heading) != 2 or heading[0] != HEADING or not re.fullmatch("[0-9]{1,9}", heading[1]):
            raise Unusable("is damaged (no heading)")
        if int(heading[1]) > VERSION:
            raise Unusable(f"is of a newer filterd (format {heading[1]})")
        at = data.rfind(b"\nend ") + 1
        if not at or data[at:] != f"end {_digest(data[:at])}\n".encode():
            raise Unusable("is damaged (its digest differs)")
        found = Snapshot("", 0)
        try:
            for line in data[:at].decode("utf-8", "replace").split("\n")[1:]:
                _take(found, *line.partition(" ")[::2])
        except (ValueError, TypeError) as error:
            raise Unusable(f"is damaged ({error})") from error
        if found.made > now + FUTURE_SECONDS:
            raise Unusable(f"is of the future (made at {found.made})")
        return found


def _take(found: Snapshot, word: str, rest: str) -> None:
    """Raises ValueError, TypeError."""
    match word:
        case "id":
            found.id = rest
        case "made":
            found.made = _number(rest)
        case "numbers":
            found.uidvalidity, found.uidnext, found.modseq = (_number(number) for number in rest.split(" "))
            if max(found.uidvalidity, found.uidnext) > MAX_UID:
                raise ValueError("numbers that no mailbox has")
        case "metadata":
            name, value = json.loads(rest)
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError("metadata that is no text")
            found.metadata[name] = value
        case "keyword":
            name, _, runs = rest.rpartition(" ")
            found.keywords[name] = parse_runs(runs)
        case "saved":
            date, _, runs = rest.partition(" ")
            found.saved[_number(date)] = parse_runs(runs)
        case "remembered":
            key, _, until = rest.partition(" ")
            found.remembered[bytes.fromhex(key)] = float(_number(until))
        case "rebuilt":
            found.rebuilt = rest
        case "omitted":
            found.omitted = _number(rest)


def _number(text: str) -> int:
    """Raises ValueError."""
    number = int(text)
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError("a number that no index holds")
    return number


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


# -- sets of UIDs ---------------------------------------------------------------------------------------------------------


def add_uid(runs: Runs, uid: int) -> None:
    """``uid`` is greater than all that are in it."""
    if runs and runs[-1][1] == uid - 1:
        runs[-1] = (runs[-1][0], uid)
    else:
        runs.append((uid, uid))


def count_runs(runs: Runs) -> int:
    return sum(last - first + 1 for first, last in runs)


def render_runs(runs: Runs) -> str:
    return ",".join(str(first) if first == last else f"{first}:{last}" for first, last in runs)


def parse_runs(text: str) -> Runs:
    """Raises ValueError for what is not ascending."""
    runs: Runs = []
    before = 0
    for part in text.split(","):
        match = _RUN.fullmatch(part)
        if match is None:
            raise ValueError("no set of UIDs")
        first, last = int(match[1]), int(match[2] or match[1])
        if not before < first <= last <= MAX_UID:
            raise ValueError("UIDs out of order")
        runs.append((first, last))
        before = last
    return runs
