"""The power fails after every durable step of the Maildir store; then the promises of ``filterd.store.base`` are checked.

Each mutation is a fault that a careless change would make; the rig must see it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filterd.store import folder, tree
from tests.crash.rig import Mutation, Step, both, earlier, states, without
from tests.crash.story import Owed, Story, check, short_story, whole_story


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BLOCK", 3)
    monkeypatch.setattr(tree, "BLOCK", 3)


def failures(
    story: Story, original: Path, work: Path, mutation: Mutation | None = None, per_prefix: int = 16, every: int = 1
) -> Iterator[str]:
    """What breaks in which state."""
    log = story.disk.log if mutation is None else mutation(story.disk.log)
    for crash in states(log, story.disk.root, per_prefix=per_prefix, every=every):
        if not isinstance(crash.answer, Owed):
            continue
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()
        crash.materialise(work, original)
        try:
            check(work, crash.boot, crash.answer)
        except AssertionError as error:
            last = log[crash.prefix - 1]
            yield f"after step {crash.prefix} ({last.kind} {last.what}), {crash.how}: {str(error).splitlines()[0]}"


def run(
    tell: Callable[[Path], Story], tmp_path: Path, mutation: Mutation | None = None, per_prefix: int = 16, every: int = 1
) -> Iterator[str]:
    original = tmp_path / "original"
    original.mkdir()
    story = tell(original)
    story.store.close()
    return failures(story, original, tmp_path / "work", mutation, per_prefix, every)


def test_every_prefix_of_deliveries(tmp_path: Path) -> None:
    assert next(run(short_story, tmp_path, per_prefix=12), None) is None


def test_prefixes_of_everything(tmp_path: Path) -> None:
    assert next(run(whole_story, tmp_path, per_prefix=4, every=3), None) is None


@pytest.mark.slow
def test_every_prefix_of_everything(tmp_path: Path) -> None:
    found = list(run(whole_story, tmp_path, per_prefix=24))
    assert not found, "\n".join(found[:20])


# -- mutations ----------------------------------------------------------------------------------------------------------------------


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


MUTATIONS: dict[str, tuple[Callable[[Path], Story], Mutation]] = {
    "message files are not synced": (short_story, without(lambda s: s.kind == "fsync" and is_mail(s))),
    "directories of messages are not synced": (short_story, without(syncs("new", "cur"))),
    "the name is made before the sync": (short_story, earlier(names_mail, lambda s: s.kind == "fsync" and is_mail(s))),
    "the answer comes before the directory's sync": (short_story, earlier(is_answer, syncs("new"))),
    "the answer comes before the name": (short_story, earlier(is_answer, names_mail)),
    "the index is committed before the name": (short_story, earlier(is_commit, names_mail)),
    "the reserved mark is not synced": (
        short_story,
        both(without(lambda s: s.kind == "fsync" and is_small(s)), without(syncs("ann", "."))),
    ),
    "no note while names are made": (short_story, without(lambda s: s.kind == "note")),
    "removals, copies and moves are not synced": (whole_story, without(syncs("cur"))),
    "new mailboxes are not synced": (whole_story, without(syncs("ann"))),
    "no intent when a tree is renamed": (
        whole_story,
        without(lambda s: s.kind == "change" and any(name == "rename" for _, name, _ in s.entries)),
    ),
    "Sieve state is committed without a sync": (whole_story, undurable),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_rig_sees_a_fault(tmp_path: Path, name: str) -> None:
    tell, mutation = MUTATIONS[name]
    assert next(run(tell, tmp_path, mutation, per_prefix=24), None) is not None
