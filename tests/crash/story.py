"""What is done to an account while the disk records, what is owed after each answer, and whether a recovered account pays it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filterd.store.base import AccountStore, NewMessage, SieveState
from filterd.store.durable import Disk
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from pipeline.ports import Clock, Ids
from tests.crash.rig import QuickDisk, RecordingDisk, Step

ACCOUNT = "ann@example.org"


class StillClock(Clock):
    def time(self) -> float:
        return 1_790_000_000.5

    def monotonic(self) -> float:
        return 0.0


class Counter(Ids):
    def __init__(self, start: int) -> None:
        self.last = start

    def token(self, octets: int) -> str:
        self.last += 1
        return f"{self.last:0{2 * octets}x}"


def open_account(
    root: Path, disk: Disk, ids: int = 0, kind: str = "maildir"
) -> tuple[MaildirStore, AccountStore]:
    if kind == "mbox":
        store: MaildirStore = MboxStore(
            root, "mx.example.org", lambda account: 0, StillClock(), Counter(ids), disk=disk
        )
    else:
        store = MaildirStore(
            root, "mx.example.org", "crlf", lambda account: 0, StillClock(), Counter(ids), disk=disk
        )
    return store, store.account(ACCOUNT)


@dataclass(frozen=True)
class Box:
    """A mailbox as it was seen."""

    id: str
    uidvalidity: int
    uidnext: int
    modseq: int
    messages: dict[int, bytes]
    flags: dict[int, int]


View = dict[str, Box]


@dataclass
class Owed:
    """What has been answered. ``then`` is what the operation under way would make of it (None: nothing is under way)."""

    now: View
    then: View | None = None
    delivered: dict[bytes, tuple[str, bytes]] = field(
        default_factory=dict
    )  # unacknowledged key -> (mailbox, text)
    pending: dict[bytes, tuple[str, bytes]] = field(
        default_factory=dict
    )  # not answered: the client will come again
    remembered: set[bytes] = field(default_factory=set)
    used: dict[str, dict[int, bytes]] = field(default_factory=dict)  # mailbox id -> every UID ever seen


def look(account: AccountStore) -> View:
    view = {}
    for info in account.mailboxes():
        seen = account.snapshot(info.name)
        messages = {uid: account.read(info.name, uid) for uid in seen.uids}
        assert all(data is not None for data in messages.values()), (
            f"{info.name}: listed, but not there: {messages}"
        )
        view[info.name] = Box(
            info.id,
            info.uidvalidity,
            seen.uidnext,
            seen.modseq,
            {uid: data for uid, data in messages.items() if data is not None},
            dict(zip(seen.uids, seen.flags, strict=True)),
        )
    return view


class Story:
    """Runs operations on a recorded account and notes what each one owes."""

    def __init__(self, root: Path, kind: str = "maildir") -> None:
        self.kind = kind
        self.disk = RecordingDisk(root)
        self.store, self.account = open_account(root, self.disk, kind=kind)
        self.owed: list[Owed] = []
        self.last = Owed(look(self.account))
        self.number = 0
        self._tell(self.last)

    def _tell(self, owed: Owed, at: int | None = None) -> None:
        for box in owed.now.values():
            owed.used.setdefault(box.id, {}).update(box.messages)
        self.owed.append(owed)
        self.last = owed
        self.disk.log.insert(len(self.disk.log) if at is None else at, Step("answer", answer=owed))

    def do(
        self,
        act: Callable[[AccountStore], object],
        delivers: dict[bytes, tuple[str, bytes]] | None = None,
        remembers: set[bytes] | None = None,
    ) -> None:
        last = self.last
        last.pending = delivers or {}
        act(self.account)
        answered = len(self.disk.log)
        after = look(self.account)
        last.then = after
        self._tell(
            Owed(
                after,
                delivered={**last.delivered, **(delivers or {})},
                remembered=last.remembered | (remembers or set()),
                used={box: dict(uids) for box, uids in last.used.items()},
            ),
            answered,
        )

    def text(self) -> bytes:
        self.number += 1
        return b"Subject: %d\r\n\r\nbody of message %d\r\n" % (self.number, self.number)

    def deliver(self, mailbox: str = "INBOX", flags: tuple[str, ...] = (), count: int = 1) -> None:
        texts = [self.text() for _ in range(count)]
        keys = {b"key of " + text: (mailbox, text) for text in texts}
        items = [(mailbox, NewMessage(text, flags, key=key), None) for key, (_, text) in keys.items()]
        self.do(lambda account: account.deliver_many(items), delivers=keys)  # type: ignore[attr-defined]  # Maildir

    def append(self, mailbox: str, count: int) -> None:
        messages = [NewMessage(self.text(), ("\\Seen",)) for _ in range(count)]
        self.do(lambda account: account.append(mailbox, messages))

    def remember(self, key: bytes) -> None:
        self.do(lambda account: account.remember(SieveState({key: 1000})), remembers={key})


def whole_story(root: Path, kind: str = "maildir") -> Story:
    """A bit of everything; blocks of UIDs are short, so that marks move."""
    story = Story(root, kind)
    story.deliver()
    story.do(lambda account: account.create("Work/2026"))
    story.deliver(count=3)
    story.append("Work/2026", 2)
    story.do(lambda account: account.set_flags("INBOX", [1, 3], "add", ["\\Seen", "word"]))
    story.do(lambda account: account.copy("INBOX", [1, 2], "Work/2026"))
    story.do(lambda account: account.move("INBOX", [2, 3], "Work"))
    story.deliver("Work", flags=("\\Flagged",))
    story.do(lambda account: account.set_flags("Work", [1], "add", ["\\Deleted"]))
    story.do(lambda account: account.expunge("Work"))
    story.remember(b"vacation to bob")
    story.do(lambda account: account.rename("Work", "Play"))
    story.deliver("Play/2026", count=2)
    story.do(lambda account: account.delete("Play"))
    story.deliver()
    return story


def short_story(root: Path, kind: str = "maildir") -> Story:
    """The hot path alone."""
    story = Story(root, kind)
    for count in (1, 2, 1, 1):
        story.deliver(count=count)
    return story


def mark_story(root: Path, kind: str = "maildir") -> Story:
    """The newest message goes: only the mark remembers that its UID was used."""
    story = Story(root, kind)
    for last in (4, 8):
        story.deliver(count=4)
        story.do(lambda account, uid=last: account.set_flags("INBOX", [uid], "add", ["\\Deleted"]))  # type: ignore[misc]
        story.do(lambda account: account.expunge("INBOX"))
    return story


def late_story(root: Path, kind: str = "maildir") -> Story:
    """Names that follow their flags (``latenotes.MANY`` is small), and what happens before they have."""
    story = Story(root, kind)
    story.append("INBOX", 5)
    story.do(lambda account: account.create("b"))
    story.do(lambda account: account.set_flags("INBOX", [1, 2, 3, 4, 5], "add", ["\\Flagged", "word"]))
    assert story.account.unfinished == 0.0  # type: ignore[attr-defined]  # names wait
    story.do(lambda account: account.move("INBOX", [2], "b"))
    story.do(lambda account: account.set_flags("INBOX", [3], "add", ["\\Deleted"]))
    story.do(lambda account: account.expunge("INBOX"))
    story.do(lambda account: account.step(9.0))  # type: ignore[attr-defined]  # Maildir
    story.deliver()
    story.do(lambda account: account.set_flags("INBOX", [1, 4, 5], "remove", ["\\Flagged"]))
    story.do(lambda account: account.copy("INBOX", [1, 4], "b"))
    story.do(lambda account: account.step(9.0))  # type: ignore[attr-defined]  # Maildir
    return story


def transfer_story(root: Path, kind: str = "maildir") -> Story:
    story = Story(root, kind)
    story.do(lambda account: account.create("b"))
    story.deliver(count=3)
    story.do(lambda account: account.copy("INBOX", [1], "b"))
    story.do(lambda account: account.move("INBOX", [2], "b"))
    story.do(lambda account: account.set_flags("INBOX", [3], "add", ["\\Deleted"]))
    story.do(lambda account: account.expunge("INBOX"))
    return story


def tree_story(root: Path, kind: str = "maildir") -> Story:
    story = Story(root, kind)
    story.do(lambda account: account.create("a/b"))
    story.do(lambda account: account.rename("a", "z"))
    story.do(lambda account: account.delete("z"))
    return story


def state_story(root: Path, kind: str = "maildir") -> Story:
    story = Story(root, kind)
    story.remember(b"vacation to bob")
    return story


# -- the check ---------------------------------------------------------------------------------------------------------------------


def check(root: Path, boot: str, owed: Owed, kind: str = "maildir") -> None:
    """Open what the crash left, with the real code. Raises AssertionError when a promise is broken."""
    store, account = open_account(root, QuickDisk(boot=boot), 1_000_000, kind)
    try:
        view = look(account)
        _mailboxes(view, owed)
        _messages(view, owed)
        _uids(view, owed)
        _changes(account, view, owed)
        for key in owed.remembered:
            assert account.remembered(key, StillClock().time()), "remembered state is lost"
        _retries(account, owed)
        _goes_on(account, owed)
        assert not list((root / "example.org" / "ann" / "tmp").glob("filterd-*")), "temporary files stay"
    finally:
        store.close()


def _mailboxes(view: View, owed: Owed) -> None:
    found = {name: (box.id, box.uidvalidity) for name, box in view.items()}
    allowed = []
    for state in (owed.now, owed.then):
        if state is not None:
            allowed.append({name: (box.id, box.uidvalidity) for name, box in state.items()})
    names = [set(state) for state in allowed]
    least, most = set.intersection(*names), set.union(*names)
    assert least <= set(found) <= most, f"mailboxes {sorted(found)}, owed {[sorted(each) for each in names]}"
    for name in least:
        assert any(found[name] == state[name] for state in allowed if name in state), (
            f"{name} is another mailbox"
        )
    if owed.then is not None and len(names[0]) == len(names[1]) and names[0] != names[1]:
        assert set(found) in names, f"a renaming stopped half way: {sorted(found)}"


def _places(state: View) -> dict[bytes, list[tuple[str, int]]]:
    places: dict[bytes, list[tuple[str, int]]] = {}
    for box in state.values():
        for uid, text in box.messages.items():
            places.setdefault(text, []).append((box.id, uid))
    return {text: sorted(where) for text, where in places.items()}


def _messages(view: View, owed: Owed) -> None:
    """Each text is where it was before the operation under way, or where that would have put it."""
    found, now = _places(view), _places(owed.now)
    then = _places(owed.then) if owed.then is not None else now
    for text in {*found, *now, *then}:
        allowed = [state.get(text, []) for state in (now, then)]
        have = found.get(text, [])
        if have in allowed:
            continue
        # an operation under way may have got a part of its way: the same mailboxes, perhaps with other UIDs for what is new
        boxes = [sorted(box for box, _ in places) for places in allowed]
        assert sorted(box for box, _ in have) in boxes, f"{text!r} is in {have}, owed {allowed}"
        for place in set(allowed[0]) & set(allowed[1]):
            assert place in have, f"{text!r} lost its UID {place}"


def _uids(view: View, owed: Owed) -> None:
    for box in view.values():
        used = owed.used.get(box.id, {})
        for uid, text in box.messages.items():
            assert used.get(uid, text) == text, f"UID {uid} of {box.id} was used before"
    for name, seen in owed.now.items():
        box_now = view.get(name)
        if box_now is not None and box_now.id == seen.id:
            assert box_now.uidnext >= seen.uidnext, f"UIDNEXT of {name} went back"
            assert box_now.modseq >= seen.modseq, f"HIGHESTMODSEQ of {name} went back"


def _changes(account: AccountStore, view: View, owed: Owed) -> None:
    """A client that was there before the crash comes to the same view, or is told that it must read anew."""
    for name, seen in owed.now.items():
        box = view.get(name)
        if box is None or box.id != seen.id:
            continue
        changes = account.changes(name, seen.modseq)
        if not changes.complete:
            continue
        flags = dict(seen.flags)
        for uid in changes.expunged:
            flags.pop(uid, None)
        flags.update({uid: mask for uid, mask, _ in changes.flags})
        flags.update(dict(changes.appended))
        assert flags == box.flags, (
            f"changes of {name} since {seen.modseq} lead to {flags}, there is {box.flags}"
        )


def _retries(account: AccountStore, owed: Owed) -> None:
    """Clients that had no answer, or lost it, send again: one copy in all."""
    before = _places(look(account))
    for key, (mailbox, text) in {**owed.delivered, **owed.pending}.items():
        target = mailbox if mailbox in {info.name for info in account.mailboxes()} else "INBOX"
        moved = key in owed.delivered and len(before.get(text, [])) != 1
        stored = account.deliver(target, NewMessage(text, key=key))
        if key in owed.delivered:
            assert stored.duplicate or text not in before, f"{text!r} was delivered, is there, and came again"
        if not moved and target == mailbox:
            count = len(_places(look(account)).get(text, []))
            assert count == 1, f"{text!r} is there {count} times after the client came again"


def _goes_on(account: AccountStore, owed: Owed) -> None:
    for info in account.mailboxes():
        stored = account.deliver(info.name, NewMessage(b"Subject: after\r\n\r\n"))
        assert stored.uid not in owed.used.get(info.id, {}), f"UID {stored.uid} of {info.name} is used again"
        seen = owed.now.get(info.name)
        if seen is not None and seen.id == info.id:
            assert stored.uid >= seen.uidnext, "a UID below what was announced"
            assert account.snapshot(info.name).modseq > seen.modseq
