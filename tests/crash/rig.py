"""A disk that remembers every durable step, and the states that a crash may leave it in.

``RecordingDisk`` does the real thing and writes a log. ``states`` replays any prefix of the log on a model:

* power failure: octets not yet synced are lost, cut short or kept (of those written by offset also every other write); each
  change of a directory since its last sync is lost or kept by itself, but a rename is one change, and what was done to a name
  needs the change that made the name; of the commits of a database any prefix survives that holds the last durable one;
* the process is killed: all steps are kept, and the note in the lock file with them; the boot is the same.

``Crash.materialise`` writes such a state into a real directory, where the real code is to open it. A *mutation* changes the log
as a fault in the program would (a sync left out, two steps swapped): the checks must then find a state that breaks a promise.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filterd.store.durable import Dir, FlockLock, Lock, LockRules, MailLock, NewFile, OpenFile, RealDisk


@dataclass(eq=False)
class Node:
    """A file (``data``) or a directory of the model."""

    kind: str
    label: str = ""


@dataclass(eq=False)
class Step:
    """``entries``: what a change of directories does, as (directory, name, node or None)."""

    kind: str  # data, append, write, size, fsync, change, syncdir, commit, note, answer
    node: Node | None = None
    data: bytes = b""
    entries: tuple[tuple[Node, str, Node | None], ...] = ()
    durable: bool = False
    what: str = ""
    answer: object = None


class RecordingLock(FlockLock):
    def __init__(self, fd: int, path: str, log: list[Step], node: Node) -> None:
        super().__init__(fd, path)
        self._log = log
        self._node = node

    def set_note(self, note: bytes) -> None:
        super().set_note(note)
        self._log.append(Step("note", self._node, note))


class QuickDisk(RealDisk):
    """Does not wait for the platter: no real power will fail here."""

    def sync(self, file: NewFile) -> None:
        """Nothing."""

    def sync_dir(self, at: Dir) -> None:
        """Nothing."""

    def sync_file(self, file: OpenFile) -> None:
        """Nothing."""


class NoMailLock(MailLock):
    """No other program is there."""

    def acquire(self, fd: int, seconds: float | None = None) -> None:
        """Nothing."""

    def release(self, fd: int) -> None:
        """Nothing."""


class RecordingDisk(QuickDisk):
    """All below ``root`` is recorded; what was there before counts as durable."""

    def __init__(self, root: Path) -> None:
        super().__init__(boot="first")
        self.log: list[Step] = []
        self.root = Node("dir", ".")
        self._dirs: dict[int, Node] = {root.stat().st_ino: self.root}
        self._live: dict[tuple[Node, str], Node] = {}
        self._files: dict[int, Node] = {}  # by descriptor

    def _dir(self, at: Dir) -> Node:
        return self._dirs[os.fstat(at.fd).st_ino]

    def _change(self, what: str, *entries: tuple[Node, str, Node | None]) -> None:
        for where, name, node in entries:
            if node is None:
                self._live.pop((where, name), None)
            else:
                self._live[where, name] = node
        self.log.append(Step("change", entries=entries, what=what))

    def _node(self, where: Node, name: str) -> Node:
        return self._live.get((where, name)) or Node("file", name)

    def make_dir(self, at: Dir, name: str) -> None:
        super().make_dir(at, name)
        node = Node("dir", name)
        self._dirs[os.stat(name, dir_fd=at.fd).st_ino] = node
        self._change("mkdir", (self._dir(at), name, node))

    def write_new(
        self, at: Dir, data: bytes, mtime: int | None = None, temporary: Dir | None = None
    ) -> NewFile:
        file = super().write_new(at, data, mtime, temporary)
        node = self._files[file.fd] = Node("file")
        self.log.append(Step("data", node, bytes(data), what=str(file.mtime)))
        return file

    def sync(self, file: NewFile) -> None:
        super().sync(file)
        self.log.append(Step("fsync", self._files[file.fd]))

    def publish(self, file: NewFile, name: str) -> None:
        node = self._files[file.fd]
        node.label = name
        super().publish(file, name)
        self._change("publish", (self._dir(file.at), name, node))

    def link(self, source: Dir, name: str, target: Dir, new: str) -> None:
        super().link(source, name, target, new)
        self._change("link", (self._dir(target), new, self._node(self._dir(source), name)))

    def rename(self, source: Dir, name: str, target: Dir, new: str) -> None:
        super().rename(source, name, target, new)
        node = self._node(self._dir(source), name)
        self._change("rename", (self._dir(source), name, None), (self._dir(target), new, node))

    def unlink(self, at: Dir, name: str) -> None:
        super().unlink(at, name)
        self._change("unlink", (self._dir(at), name, None))

    def remove_dir(self, at: Dir, name: str) -> None:
        super().remove_dir(at, name)
        self._change("rmdir", (self._dir(at), name, None))

    def sync_dir(self, at: Dir) -> None:
        super().sync_dir(at)
        self.log.append(Step("syncdir", self._dir(at), what=self._dir(at).label))

    def append(self, at: Dir, name: str, data: bytes) -> None:
        super().append(at, name, data)
        self.log.append(Step("append", self._node(self._dir(at), name), data))

    def extend_new(self, file: NewFile, data: bytes) -> None:
        super().extend_new(file, data)
        self.log.append(Step("append", self._files[file.fd], bytes(data)))

    def open_file(self, at: Dir, name: str) -> OpenFile:
        there = os.path.lexists(f"{at.path}/{name}")
        file = super().open_file(at, name)
        where = self._dir(at)
        if not there or (where, name) not in self._live:
            self._change("create", (where, name, Node("file", name)))
        self._files[file.fd] = self._live[where, name]
        return file

    def write_at(self, file: OpenFile, offset: int, data: bytes) -> None:
        super().write_at(file, offset, data)
        self.log.append(Step("write", self._files[file.fd], bytes(data), what=str(offset)))

    def set_size(self, file: OpenFile, size: int) -> None:
        super().set_size(file, size)
        self.log.append(Step("size", self._files[file.fd], what=str(size)))

    def sync_file(self, file: OpenFile) -> None:
        super().sync_file(file)
        self.log.append(Step("fsync", self._files[file.fd]))

    def open_mail_lock(self, path: str, rules: LockRules) -> MailLock:
        return NoMailLock(path, rules)

    def open_lock(self, at: Dir, name: str) -> Lock:
        node = Node("lock", name)
        self._change("lock", (self._dir(at), name, node))
        self.log.append(Step("syncdir", self._dir(at)))  # whether a lock file survives does not matter
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=at.fd)
        return RecordingLock(fd, name, self.log, node)

    def committed(self, path: str, database: sqlite3.Connection, durable: bool) -> None:
        self.log.append(Step("commit", None, database.serialize(), durable=durable, what=path))


# -- states -------------------------------------------------------------------------------------------------------------------


@dataclass
class Crash:
    """One state: where the log was cut, what survived."""

    prefix: int
    boot: str
    entries: dict[tuple[Node, str], Node]
    contents: dict[Node, tuple[bytes, int]]  # octets, mtime in nanoseconds
    commits: dict[str, bytes]
    notes: dict[Node, bytes]
    answer: object
    root: Node
    how: str
    original: str = ""

    def materialise(self, target: Path, original: Path) -> None:
        """Write it into the empty directory ``target``; ``original`` is where the recording was made."""
        stack = [(self.root, target)]
        children: dict[Node, list[tuple[str, Node]]] = {}
        for (where, name), node in self.entries.items():
            children.setdefault(where, []).append((name, node))
        written: dict[Node, Path] = {}
        while stack:
            directory, path = stack.pop()
            for name, node in children.get(directory, ()):
                place = path / name
                if node.kind == "dir":
                    place.mkdir()
                    stack.append((node, place))
                elif node in written:
                    os.link(written[node], place)
                else:
                    data, mtime = self.contents.get(node, (b"", 0))
                    if node.kind == "lock":
                        data = self.notes.get(node, b"")
                    place.write_bytes(data)
                    os.utime(place, ns=(mtime, mtime))
                    written[node] = place
        for path, image in self.commits.items():
            place = target / Path(path).relative_to(original)
            if place.parent.is_dir():
                place.write_bytes(image)

    def key(self) -> tuple[object, ...]:
        """Equal for states that look the same and owe the same."""
        return (
            self.boot,
            frozenset((id(where), name, id(node)) for (where, name), node in self.entries.items()),
            frozenset((id(node), data) for node, (data, _) in self.contents.items() if node),
            tuple((path, hash(image)) for path, image in self.commits.items()),
            tuple(self.notes.values()) if self.boot == "first" else (),
            id(self.answer),
        )


@dataclass
class _Replay:
    """What is known to be durable after a prefix of the log, and what is pending."""

    changes: list[tuple[Step, bool]] = field(default_factory=list)  # (step, durable)
    data: dict[Node, list[tuple[Step, bool]]] = field(default_factory=dict)  # what was written, durable
    placed: bool = False  # something was written by offset
    mtimes: dict[Node, int] = field(default_factory=dict)
    commits: dict[str, list[Step]] = field(default_factory=dict)
    notes: dict[Node, bytes] = field(default_factory=dict)
    answer: object = None

    def apply(self, step: Step) -> None:
        match step.kind:
            case "change":
                self.changes.append((step, False))
            case "data":
                assert step.node is not None
                self.data[step.node] = [(step, False)]
                self.mtimes[step.node] = int(step.what)
            case "append" | "write" | "size":
                assert step.node is not None
                self.data.setdefault(step.node, []).append((step, False))
                self.placed = self.placed or step.kind != "append"
            case "fsync":
                assert step.node is not None
                self.data[step.node] = [(piece, True) for piece, _ in self.data.get(step.node, [])]
            case "syncdir":
                self._sync(step.node)
            case "commit":
                self.commits.setdefault(step.what, []).append(step)
            case "note":
                assert step.node is not None
                self.notes[step.node] = step.data
            case "answer":
                self.answer = step.answer

    def _sync(self, directory: Node | None) -> None:
        needed: set[tuple[Node, str]] = set()
        for at in range(len(self.changes) - 1, -1, -1):
            change, durable = self.changes[at]
            if durable:
                continue
            made = {(where, name) for where, name, node in change.entries if node is not None}
            if made & needed or any(where is directory for where, _, _ in change.entries):
                self.changes[at] = (change, True)
                needed -= made
                needed |= {(where, name) for where, name, node in change.entries if node is None}


def states(
    log: list[Step], root: Node, seed: int = 1, per_prefix: int = 16, every: int = 1
) -> Iterator[Crash]:
    """States after each ``every``-th prefix of the log, at most so many a prefix, none twice."""
    replay = _Replay()
    seen: set[tuple[object, ...]] = set()
    pick = random.Random(seed)
    for prefix, step in enumerate(log, 1):
        replay.apply(step)
        if prefix % every and step.kind != "answer":
            continue
        for crash in _of(replay, prefix, root, pick, per_prefix):
            key = crash.key()
            if key not in seen:
                seen.add(key)
                yield crash


def _of(replay: _Replay, prefix: int, root: Node, pick: random.Random, limit: int) -> Iterator[Crash]:
    yield _build(replay, prefix, root, "first", set(), "full", None, "killed")
    pending = [at for at, (_, durable) in enumerate(replay.changes) if not durable]
    losses: list[set[int]] = [set(), set(pending)]
    losses += [{at} for at in pending[-6:]]
    losses += [set(pending) - {at} for at in pending[-6:]]
    if len(pending) > 2:
        losses += [{at for at in pending if pick.random() < 0.5} for _ in range(3)]
    counts = _commit_choices(replay)
    survived = ("lost", "half", "full", "scattered") if replay.placed else ("lost", "half", "full")
    whole = list(itertools.product(losses, survived, counts))
    corners = [choice for choice in whole if choice[0] in (losses[0], losses[1])]
    rest = [choice for choice in whole if choice[0] not in (losses[0], losses[1])]
    pick.shuffle(corners)
    pick.shuffle(rest)
    for lost, data, back in [*corners[: limit // 2], *rest[: limit - limit // 2]]:
        yield _build(
            replay,
            prefix,
            root,
            "second",
            lost,
            data,
            back,
            f"lost {sorted(lost)} data {data} commits -{back}",
        )


def _commit_choices(replay: _Replay) -> list[int]:
    """How many of the last commits are lost: none, one, two, half, all that may be."""
    most = 0
    for commits in replay.commits.values():
        durable = [at for at, commit in enumerate(commits) if commit.durable]
        most = max(most, len(commits) - (durable[-1] + 1 if durable else 0))
    return sorted({0, min(1, most), min(2, most), most // 2, most})


def _build(
    replay: _Replay, prefix: int, root: Node, boot: str, lost: set[int], data: str, back: int | None, how: str
) -> Crash:
    entries: dict[tuple[Node, str], Node] = {}
    for at, (change, _) in enumerate(replay.changes):
        gone = any(node is None and (where, name) not in entries for where, name, node in change.entries)
        if at not in lost and not gone:
            for where, name, node in change.entries:
                if node is None:
                    entries.pop((where, name), None)
                else:
                    entries[where, name] = node
    contents = {}
    for node, pieces in replay.data.items():
        contents[node] = (_octets(pieces, data), replay.mtimes.get(node, 0))
    commits = {}
    for path, made in replay.commits.items():
        durable = [at for at, commit in enumerate(made) if commit.durable]
        least = durable[-1] + 1 if durable else 0
        kept = len(made) if back is None else max(least, len(made) - back)
        if kept:
            commits[path] = made[kept - 1].data
    return Crash(prefix, boot, entries, contents, commits, dict(replay.notes), replay.answer, root, how)


def _octets(pieces: list[tuple[Step, bool]], survived: str) -> bytes:
    """What is in a file when of the writes that were not synced none, the first half, all or every other one survived."""
    octets = bytearray()
    for step, durable in pieces:
        if durable:
            _write(octets, step)
    loose = [step for step, durable in pieces if not durable]
    if all(step.kind in ("data", "append") for step in loose):
        tail = b"".join(step.data for step in loose)
        keep = {"lost": 0, "half": len(tail) // 2}.get(survived, len(tail))
        return bytes(octets) + tail[:keep]
    for at, step in enumerate(loose):
        if (
            survived == "full"
            or (survived == "half" and at < len(loose) // 2)
            or (survived == "scattered" and at % 2)
        ):
            _write(octets, step)
        elif survived == "half" and at == len(loose) // 2:
            _write(octets, Step(step.kind, step.node, step.data[: len(step.data) // 2], what=step.what))
    return bytes(octets)


def _write(octets: bytearray, step: Step) -> None:
    if step.kind == "size":
        size = int(step.what)
        octets[size:] = b""
        octets.extend(bytes(size - len(octets)))
        return
    offset = int(step.what) if step.kind == "write" else len(octets)
    if not step.data:
        return
    octets.extend(bytes(max(0, offset - len(octets))))
    octets[offset : offset + len(step.data)] = step.data


# -- mutations ------------------------------------------------------------------------------------------------------------------

Mutation = Callable[[list[Step]], list[Step]]


def without(wanted: Callable[[Step], bool]) -> Mutation:
    """Leave out all steps that ``wanted`` picks."""
    return lambda log: [step for step in log if not wanted(step)]


def earlier(wanted: Callable[[Step], bool], before: Callable[[Step], bool]) -> Mutation:
    """Each step that ``wanted`` picks happens before the nearest earlier one that ``before`` picks."""

    def mutate(log: list[Step]) -> list[Step]:
        out: list[Step] = []
        for step in log:
            at = len(out)
            if wanted(step):
                for candidate in range(len(out) - 1, -1, -1):
                    if wanted(out[candidate]) or out[candidate].kind == "answer":
                        break
                    if before(out[candidate]):
                        at = candidate
            out.insert(at, step)
        return out

    return mutate


def both(*mutations: Mutation) -> Mutation:
    def mutate(log: list[Step]) -> list[Step]:
        for mutation in mutations:
            log = mutation(log)
        return log

    return mutate


def labels(steps: Iterable[Step]) -> list[str]:
    """For people: the log as words."""
    return [f"{step.kind} {step.what}" for step in steps]
