"""The power fails after every durable step of the Maildir store; then the promises of ``filterd.store.base`` are checked.

Each mutation is a fault that a careless change would make; the rig must see it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filterd.store import folder, transfer, tree
from filterd.store.base import StoreError
from tests.crash.rig import Crash, Mutation, Node, Step, both, earlier, states, without
from tests.crash.story import (
    Owed,
    Story,
    check,
    late_story,
    mark_story,
    short_story,
    state_story,
    transfer_story,
    tree_story,
    whole_story,
)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BLOCK", 3)
    monkeypatch.setattr(tree, "BLOCK", 3)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """In memory where there is such a place: nothing here needs the platter."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="filterd-crash-", dir=memory if memory.is_dir() else None))
    yield place
    shutil.rmtree(place)


def laid_out(
    log: list[Step], root: Node, original: Path, work: Path, per_prefix: int, every: int
) -> Iterator[tuple[Crash, Owed]]:
    """The states that a crash may leave, one after the other in ``work``, and what is owed in each."""
    for crash in states(log, root, per_prefix=per_prefix, every=every):
        if not isinstance(crash.answer, Owed):
            continue
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()
        crash.materialise(work, original)
        yield crash, crash.answer


def failures(
    story: Story,
    original: Path,
    work: Path,
    mutation: Mutation | None = None,
    per_prefix: int = 16,
    every: int = 1,
) -> Iterator[str]:
    """What breaks in which state."""
    log = story.disk.log if mutation is None else mutation(story.disk.log)
    for crash, owed in laid_out(log, story.disk.root, original, work, per_prefix, every):
        try:
            check(work, crash.boot, owed, story.kind)
        except (AssertionError, StoreError) as error:
            last = log[crash.prefix - 1]
            yield f"after step {crash.prefix} ({last.kind} {last.what}), {crash.how}: {str(error).splitlines()[0]}"


def run(
    tell: Callable[[Path], Story],
    place: Path,
    mutation: Mutation | None = None,
    per_prefix: int = 16,
    every: int = 1,
) -> Iterator[str]:
    original = place / "original"
    original.mkdir()
    story = tell(original)
    story.store.close()
    return failures(story, original, place / "work", mutation, per_prefix, every)


def test_every_prefix_of_deliveries(quick_path: Path) -> None:
    assert next(run(short_story, quick_path, per_prefix=12), None) is None


@pytest.mark.slow
def test_prefixes_of_everything(quick_path: Path) -> None:
    assert next(run(whole_story, quick_path, per_prefix=4, every=3), None) is None


@pytest.mark.slow
def test_every_prefix_of_everything(quick_path: Path) -> None:
    found = list(run(whole_story, quick_path, per_prefix=24))
    assert not found, "\n".join(found[:20])


# -- mutations --------------------------------------------------------------------------------------------------------------


def is_mail(step: Step) -> bool:
    return step.node is not None and ",U=" in step.node.label


def is_small(step: Step) -> bool:
    """The mailbox file and its like."""
    return step.node is not None and step.node.label.startswith(".filterd-mailbox")


def names_mail(step: Step) -> bool:
    return step.kind == "change" and any(",U=" in name for _, name, _ in step.entries)


def syncs(*places: str) -> Callable[[Step], bool]:
    return lambda step: step.kind == "syncdir" and step.what in places


def is_commit(step: Step) -> bool:
    return step.kind == "commit"


def is_answer(step: Step) -> bool:
    return step.kind == "answer"


def undurable(log: list[Step]) -> list[Step]:
    return [Step("commit", None, s.data, what=s.what) if s.kind == "commit" else s for s in log]


def without_sync_after(what: str) -> Mutation:
    """Leave out the syncs of a directory of messages that follow such a change of names."""

    def mutate(log: list[Step]) -> list[Step]:
        out = []
        last = ""
        for step in log:
            if names_mail(step):
                last = step.what
            if step.kind == "syncdir" and step.what in ("new", "cur") and last == what:
                continue
            out.append(step)
        return out

    return mutate


def later(mutation: Mutation) -> Mutation:
    """Only what comes after the account was opened."""

    def mutate(log: list[Step]) -> list[Step]:
        first = next(at for at, step in enumerate(log) if is_answer(step)) + 1
        return log[:first] + mutation(log[first:])

    return mutate


MUTATIONS: dict[str, tuple[Callable[[Path], Story], Mutation]] = {
    "message files are not synced": (short_story, without(lambda s: s.kind == "fsync" and is_mail(s))),
    "directories of messages are not synced": (short_story, without(syncs("new", "cur"))),
    "the name is made before the sync": (
        short_story,
        earlier(names_mail, lambda s: s.kind == "fsync" and is_mail(s)),
    ),
    "the answer comes before the directory's sync": (short_story, earlier(is_answer, syncs("new"))),
    "the answer comes before the name": (short_story, earlier(is_answer, names_mail)),
    "the index is committed before the name": (short_story, earlier(is_commit, names_mail)),
    "the reserved mark is not synced": (
        mark_story,
        later(both(without(lambda s: s.kind == "fsync" and is_small(s)), without(syncs("ann")))),
    ),
    "no note while names are made": (short_story, without(lambda s: s.kind == "note")),
    "removals are not synced": (transfer_story, without_sync_after("unlink")),
    "copies are not synced": (transfer_story, without_sync_after("link")),
    "moves are not synced": (transfer_story, without_sync_after("rename")),
    "new mailboxes are not synced": (tree_story, later(without(syncs("ann")))),
    "no intent when a tree is renamed": (
        tree_story,
        without(lambda s: s.kind == "change" and any(name == "rename" for _, name, _ in s.entries)),
    ),
    "Sieve state is committed without a sync": (state_story, undurable),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_rig_sees_a_fault(quick_path: Path, name: str) -> None:
    tell, mutation = MUTATIONS[name]
    seen = next(run(tell, quick_path, mutation, per_prefix=24), None)
    assert seen is not None
    print(f"{name}: {seen}")


@pytest.mark.parametrize("tell", [mark_story, transfer_story, tree_story, state_story])
def test_every_prefix_of_a_short_story(quick_path: Path, tell: Callable[[Path], Story]) -> None:
    assert next(run(tell, quick_path, per_prefix=12), None) is None


@pytest.mark.slow
def test_every_prefix_of_names_that_follow(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MANY", 2)
    assert next(run(late_story, quick_path, per_prefix=8), None) is None
