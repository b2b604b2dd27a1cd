"""The letters of file names keep their meaning whatever a crash leaves: no message shows a keyword that it was never given."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from filterd.store import flags as fl
from filterd.store import folder
from filterd.store.base import AccountStore, NewMessage
from tests.crash.rig import Mutation, QuickDisk, states, without
from tests.crash.story import Story, open_account
from tests.crash.test_store_crash import quick_path

__all__ = ["quick_path"]

GIVEN = {b"message 1": {"alpha"}, b"message 2": {"beta"}, b"message 3": {"gamma"}, b"later": {"omega"}}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BLOCK", 3)


def keyword_story(root: Path, kind: str) -> Story:
    story = Story(root, kind)
    story.deliver(count=2)
    story.do(lambda account: account.set_flags("INBOX", [1], "add", ["alpha"]))
    story.do(lambda account: account.set_flags("INBOX", [2], "add", ["beta", "\\Seen"]))
    story.deliver(flags=("gamma",))
    story.do(lambda account: account.copy("INBOX", [1, 2], "INBOX"))
    return story


def foreign_keywords(account: AccountStore) -> list[str]:
    """What is shown of messages that were never given it."""
    seen = account.snapshot("INBOX")
    found = []
    for uid, mask in zip(seen.uids, seen.flags, strict=True):
        text = account.read("INBOX", uid) or b""
        words = {word for word in fl.names_of(mask, seen.keywords) if not word.startswith("\\")}
        allowed = next(given for part, given in GIVEN.items() if part in text)
        found += [f"{text!r} has {word}" for word in words - allowed]
    return found


def first_wrong(
    place: Path, kind: str, mutation: Mutation | None = None, per_prefix: int = 24, every: int = 1
) -> str:
    """ "" where all states are right, also once a further keyword was given to a new message."""
    original, work = place / "original", place / "work"
    original.mkdir()
    story = keyword_story(original, kind)
    story.store.close()
    log = story.disk.log if mutation is None else mutation(story.disk.log)
    for crash in states(log, story.disk.root, per_prefix=per_prefix, every=every):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        crash.materialise(work, original)
        store, account = open_account(work, QuickDisk(boot=crash.boot), 1_000_000, kind)
        try:
            found = foreign_keywords(account)
            account.deliver("INBOX", NewMessage(b"Subject: n\r\n\r\nlater\r\n", ("omega",)))
            found += foreign_keywords(account)
        finally:
            store.close()
        if found:
            return f"after step {crash.prefix}, {crash.how}: {found[0]}"
    return ""


@pytest.mark.parametrize("kind", ["maildir", "mbox"])
def test_no_message_gets_the_keyword_of_another_one(quick_path: Path, kind: str) -> None:
    assert not first_wrong(quick_path, kind, per_prefix=8, every=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["maildir", "mbox"])
def test_no_message_gets_the_keyword_of_another_one_in_any_state(quick_path: Path, kind: str) -> None:
    assert not first_wrong(quick_path, kind)


def test_the_rig_sees_keywords_that_are_not_synced(quick_path: Path) -> None:
    unsynced = without(
        lambda step: (
            step.kind == "fsync" and step.node is not None and folder.KEYWORDS_FILE in step.node.label
        )
    )
    assert first_wrong(quick_path, "maildir", unsynced)
