"""The text pack proposes a superset, whatever happened to it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from filterd.store import textpack
from filterd.store.base import AccountStore, NewMessage
from filterd.store.jobs import AccountJobs
from rules.comparator import search_form
from rules.mail.message import Message

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World

WORDS = ["Straße", "invoice", "日本語", "naïve", "x", "ÄÖÜ", "tomorrow", "a=b", "ǅ"]


def message(pick: random.Random) -> bytes:
    body = " ".join(pick.choices(WORDS, k=pick.randint(0, 12)))
    return (
        f"Subject: {pick.choice(WORDS)}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n".encode()
    )


def check(account: AccountStore, mailbox: str, exact: bool = True) -> None:
    uids = list(account.snapshot(mailbox).uids)
    texts = {uid: Message(account.read(mailbox, uid) or b"").text_for_search() for uid in uids}
    texts = {uid: search_form(text) for uid, text in texts.items()}
    for needle in (
        "strasse",
        "invoice",
        "本",
        "ï",
        "äö",
        "tomorrow",
        "dž",
        "a=b",
        "nothing here",
        "subject: x",
    ):
        wanted = {uid for uid in uids if search_form(needle) in texts[uid]}
        found = set(account.text_candidates(mailbox, needle, uids) or ())
        assert wanted <= found
        if exact:
            assert wanted == found, needle


def test_candidates_follow_the_mailbox(maildir: World) -> None:
    pick = random.Random(3)
    account = maildir.account()
    account.create("b")
    for _ in range(5):
        account.append("INBOX", [NewMessage(message(pick)) for _ in range(20)])
        check(account, "INBOX")
        some = pick.sample(list(account.snapshot("INBOX").uids), 6)
        account.move("INBOX", some[:3], "b")
        account.set_flags("INBOX", some[3:], "add", ["\\Deleted"])
        account.expunge("INBOX")
        check(account, "INBOX")
        check(account, "b")
    maildir.close()
    check(maildir.account(), "INBOX")


def test_a_damaged_or_stale_pack_never_hides_anything(maildir: World) -> None:
    pick = random.Random(4)
    account = maildir.account()
    account.append("INBOX", [NewMessage(message(pick)) for _ in range(30)])
    check(account, "INBOX")
    path = next((maildir.maildir / ".filterd").glob("text-*"))
    with open(path, "ab") as file:
        file.write(b"garbage of a writer that was killed")
    account.append("INBOX", [NewMessage(message(pick)) for _ in range(5)])
    check(account, "INBOX")
    maildir.close()
    path.write_bytes(path.read_bytes()[:50])
    check(maildir.account(), "INBOX", exact=False)
    for each in (maildir.maildir / ".filterd").glob("text-*"):
        each.unlink()
    maildir.close()
    check(maildir.account(), "INBOX", exact=False)


def test_changed_content_is_packed_anew(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage(b"Subject: old\r\n\r\n")])
    assert account.text_candidates("INBOX", "old", [1]) == [1]
    path = next((maildir.maildir / "new").iterdir())
    fresh = path.with_name("fresh")
    fresh.write_bytes(b"Subject: new\r\n\r\n")
    fresh.replace(path)
    account.read("INBOX", 1)
    assert account.text_candidates("INBOX", "new", [1]) == [1]
    assert account.text_candidates("INBOX", "old", [1]) == []


def test_dead_records_start_a_new_generation(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textpack, "DEAD_FLOOR", 10)
    pick = random.Random(5)
    account = maildir.account()
    for _ in range(4):
        account.append("INBOX", [NewMessage(message(pick), ("\\Deleted",)) for _ in range(15)])
        check(account, "INBOX")
        account.expunge("INBOX")
    account.append("INBOX", [NewMessage(message(pick)) for _ in range(15)])
    check(account, "INBOX")
    assert [path.name[-2:] for path in (maildir.maildir / ".filterd").glob("text-*")] != ["-1"]


def test_very_large_texts_are_always_named(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textpack, "MAX_TEXT", 100)
    account = maildir.account()
    account.append(
        "INBOX", [NewMessage(b"Subject: a\r\n\r\n" + b"x" * 200), NewMessage(b"Subject: b\r\n\r\n")]
    )
    assert account.text_candidates("INBOX", "nothing", [1, 2]) == [1]


def test_jobs_finish_what_a_search_began(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textpack, "BUILD_SECONDS", 0.0)
    monkeypatch.setattr("filterd.store.jobs.PAUSE_SECONDS", 0.0)
    pick = random.Random(6)

    async def main() -> None:
        store = maildir.store()
        jobs = AccountJobs(store)
        texts = [NewMessage(message(pick)) for _ in range(50)]
        await jobs.run("a@b.c", lambda account: account.append("INBOX", texts))
        uids = list(range(1, 51))
        found = await jobs.run("a@b.c", lambda account: account.text_candidates("INBOX", "nothing", uids))
        assert found == uids
        for _ in range(1000):
            if not await jobs.run("a@b.c", lambda account: account.text_candidates("INBOX", "nothing", uids)):
                break
            await asyncio.sleep(0.005)
        else:
            raise AssertionError("the pack was never finished")
        jobs.close()

    asyncio.run(main())


def test_a_pack_folded_another_way_is_made_anew(maildir: World) -> None:
    account = maildir.account()
    account.append("INBOX", [NewMessage("Subject: a\r\n\r\nnai\u0308ve ﬁsh\r\n".encode())])
    uids = list(account.snapshot("INBOX").uids)
    assert account.text_candidates("INBOX", "NA\u00cfVE FISH", uids) == uids
    core = account._core
    row = core.index.mailboxes()[0]
    old = core.index.meta(f"pack:{row.mid}").rpartition(" ")[0]  # as versions wrote it that folded otherwise
    with core.locked(), core.index.transaction():
        core.index.set_meta(f"pack:{row.mid}", old)
    path = next((maildir.maildir / ".filterd").glob("text-*"))
    path.write_bytes(path.read_bytes().replace(b"fish", b"FISH"))
    maildir.close()
    account = maildir.account()
    assert account.text_candidates("INBOX", "naïve fish", uids) == uids
    assert account.text_candidates("INBOX", "naïve bird", uids) == []
    assert [each.name for each in (maildir.maildir / ".filterd").glob("text-*")] != [path.name]
