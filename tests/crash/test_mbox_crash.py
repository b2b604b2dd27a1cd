"""The power fails after every step of the mbox store; programs are killed in the midst; others append before we are back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from filterd.store import folder, mbox_tree
from tests.crash.rig import Mutation, Step, both, earlier, without
from tests.crash.story import Story, mark_story, short_story, state_story, transfer_story, tree_story, whole_story
from tests.crash.test_store_crash import later, quick_path, run

__all__ = ["quick_path"]

Tell = Callable[[Path], Story]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BLOCK", 3)
    monkeypatch.setattr(mbox_tree, "BLOCK", 3)


def mbox(tell: Callable[[Path, str], Story]) -> Tell:
    return partial(tell, kind="mbox")  # type: ignore[call-arg]  # each story takes it


def flag_story(root: Path, kind: str) -> Story:
    """Flags in place, and some for which there is no room."""
    story = Story(root, kind)
    story.deliver(count=3)
    story.do(lambda account: account.set_flags("INBOX", [1, 2], "add", ["\\Seen"]))
    story.do(lambda account: account.set_flags("INBOX", [2], "add", ["x" * 70]))
    story.do(lambda account: account.set_flags("INBOX", [1, 2], "add", ["\\Deleted"]))
    story.deliver()
    story.do(lambda account: account.expunge("INBOX", [2]))
    story.do(lambda account: account.move("INBOX", [1], "INBOX"))
    return story


@pytest.mark.parametrize("tell", [short_story, mark_story, transfer_story, tree_story, state_story, flag_story])
def test_every_prefix_of_a_short_story(quick_path: Path, tell: Callable[[Path, str], Story]) -> None:
    assert next(run(mbox(tell), quick_path, per_prefix=12), None) is None


def test_prefixes_of_everything(quick_path: Path) -> None:
    assert next(run(mbox(whole_story), quick_path, per_prefix=4, every=3), None) is None


@pytest.mark.slow
def test_every_prefix_of_everything(quick_path: Path) -> None:
    found = list(run(mbox(whole_story), quick_path, per_prefix=24))
    assert not found, "\n".join(found[:20])
