"""The power fails after every step of the mbox store; programs are killed in the midst; others append before we are back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from filterd.store import folder, mbox_tree
from filterd.store.base import NewMessage
from tests.crash.rig import Mutation, QuickDisk, Step, both, earlier, without
from tests.crash.story import (
    Story,
    look,
    mark_story,
    open_account,
    short_story,
    state_story,
    transfer_story,
    tree_story,
    whole_story,
)
from tests.crash.test_store_crash import laid_out, later, quick_path, run

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


FOREIGN = b"From bob@example.net Mon Nov 23 10:36:28 2026\nSubject: foreign\n\nbody\n\n"


@pytest.mark.slow
@pytest.mark.parametrize("tell", [short_story, transfer_story, flag_story])
def test_what_others_append_after_the_crash_is_kept(
    quick_path: Path, tell: Callable[[Path, str], Story]
) -> None:
    """They know nothing of torn ends and journals."""
    original, work = quick_path / "original", quick_path / "work"
    original.mkdir()
    story = tell(original, "mbox")
    story.store.close()
    for crash, owed in laid_out(story.disk.log, story.disk.root, original, work, 4, 3):
        inbox = work / "example.org/ann/inbox"
        if not inbox.exists():
            continue
        with inbox.open("ab") as file:
            file.write(FOREIGN)
        store, account = open_account(work, QuickDisk(boot=crash.boot), 1_000_000, "mbox")
        view = look(account)
        store.close()
        what = f"after step {crash.prefix}, {crash.how}"
        assert b"Subject: foreign\r\n\r\nbody\r\n" in view["INBOX"].messages.values(), what
        found = [text for box in view.values() for text in box.messages.values()]
        now = {text for box in owed.now.values() for text in box.messages.values()}
        then = owed.then or owed.now
        kept = now & {text for box in then.values() for text in box.messages.values()}
        assert kept <= set(found), f"{what}: lost {kept - set(found)}"
        copies = (
            max(
                sum(text in box.messages.values() for box in state.values())
                for state in (then, owed.now)
                for text in kept
            )
            if kept
            else 1
        )
        assert all(found.count(text) <= copies for text in kept), f"{what}: doubled"


@pytest.mark.slow
def test_what_others_append_to_a_message_cut_anywhere_is_kept(quick_path: Path) -> None:
    """The first one of a mailbox; the index has not heard of it."""
    original = quick_path / "original"
    original.mkdir()
    store, account = open_account(original, QuickDisk(boot="first"), 0, "mbox")
    account.status("INBOX")
    store.close()
    shutil.copytree(original, quick_path / "before")
    store, account = open_account(original, QuickDisk(boot="first"), 0, "mbox")
    account.deliver("INBOX", NewMessage(b"Subject: ours\r\n\r\nbody\r\n", key=b"k" * 8))
    store.close()
    ours = (original / "example.org/ann/inbox").read_bytes()
    ours = ours.replace(
        b"X-Filterd-Mbox: w=1", b"X-Filterd-Mbox: w=0"
    )  # said last, once the rest is on the disk
    for cut in (*range(1, 12), *range(12, 380, 7), *range(380, len(ours) - 1)):
        work = quick_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(quick_path / "before", work)
        (work / "example.org/ann/inbox").write_bytes(ours[:cut] + FOREIGN)
        store, account = open_account(work, QuickDisk(boot="second"), 1_000_000, "mbox")
        texts = look(account)["INBOX"].messages.values()
        store.close()
        assert b"Subject: foreign\r\n\r\nbody\r\n" in texts, (cut, ours[:cut], texts)


def is_journal(step: Step) -> bool:
    return step.kind == "change" and any(name == "journal" for _, name, _ in step.entries)


def is_mbox(step: Step) -> bool:
    return step.node is not None and step.node.label in ("inbox", "b")


MUTATIONS: dict[str, tuple[Callable[[Path, str], Story], Mutation]] = {
    "mbox files are not synced": (short_story, without(lambda step: step.kind == "fsync" and is_mbox(step))),
    "a new file's directory is not synced": (
        short_story,
        later(without(lambda step: step.kind == "syncdir")),
    ),
    "the answer comes before the sync": (
        short_story,
        earlier(lambda step: step.kind == "answer", lambda step: step.kind == "fsync" and is_mbox(step)),
    ),
    "no journal": (transfer_story, without(is_journal)),
    "the journal has its name before it is synced": (
        transfer_story,
        both(
            earlier(is_journal, lambda step: step.kind == "append"),
            without(
                lambda step: step.kind == "fsync" and step.node is not None and step.node.label == "journal"
            ),
        ),
    ),
    "the journal's directory is not synced": (
        transfer_story,
        without(lambda step: step.kind == "syncdir" and step.what == ".mailboxes"),
    ),
    "no note while a file changes": (transfer_story, without(lambda step: step.kind == "note")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_rig_sees_a_fault(quick_path: Path, name: str) -> None:
    tell, mutation = MUTATIONS[name]
    seen = next(run(mbox(tell), quick_path, mutation, per_prefix=24), None)
    assert seen is not None
    print(f"{name}: {seen}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "tell", [short_story, mark_story, transfer_story, tree_story, state_story, flag_story]
)
def test_every_prefix_of_a_short_story(quick_path: Path, tell: Callable[[Path, str], Story]) -> None:
    assert next(run(mbox(tell), quick_path, per_prefix=6), None) is None


@pytest.mark.slow
def test_prefixes_of_everything(quick_path: Path) -> None:
    assert next(run(mbox(whole_story), quick_path, per_prefix=3, every=5), None) is None


@pytest.mark.slow
def test_every_prefix_of_everything(quick_path: Path) -> None:
    found = list(run(mbox(whole_story), quick_path, per_prefix=24))
    assert not found, "\n".join(found[:20])
