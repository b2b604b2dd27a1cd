"""An index is lost: what a client sees is the same. What only the index knew comes from the text beside the mail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from filterd.store import snapshot
from filterd.store.acl import ENTRY
from filterd.store.base import FLAGGED, SEEN, NewMessage, SieveState, StoreUnavailable
from filterd.store.flags import names_of
from filterd.store.folder import KEYWORDS_FILE
from filterd.store.jobs import AccountJobs
from filterd.store.maildir import MaildirAccount
from filterd.store.snapshot_text import (
    ACCOUNT_FILE,
    MAX_OCTETS,
    SNAPSHOT_FILE,
    UNUSABLE,
    Snapshot,
    Unusable,
    parse_runs,
    render_runs,
)

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World

WORDS = tuple(f"$Word{number}" for number in range(30))
KEY = bytes(range(32))


def text(number: int) -> bytes:
    return b"Subject: %d\r\nFrom: a@example.org\r\n\r\nbody\r\n" % number


def open_account(world: World, boot: str | None = None) -> MaildirAccount:
    account = world.account(boot)
    assert isinstance(account, MaildirAccount)
    return account


def furnish(world: World) -> MaildirAccount:
    """One of everything."""
    account = open_account(world)
    account.create("Work/2026", "\\Archive")
    account.subscribe("Work/2026", True)
    account.append("INBOX", [NewMessage(text(number), date=1_600_000_000 + number) for number in range(8)])
    for number in range(3):
        account.deliver("Work", NewMessage(text(100 + number), key=bytes([number]) * 8))
    account.set_flags("INBOX", [1, 2, 3], "add", WORDS)
    account.set_flags("INBOX", [2], "remove", [WORDS[28], WORDS[3]])
    account.set_flags("INBOX", [5, 7, 8], "add", [WORDS[29], "\\Seen"])
    world.clock.now += 5000
    account.copy("INBOX", [1, 2, 6], "Work")
    world.clock.now += 100
    account.move("INBOX", [4], "Work/2026")
    account.set_metadata(None, "/private/comment", "of the account")
    account.set_metadata("Work", "/private/comment", 'of "Work"\r\nüber \N{SNOWMAN}')
    account.set_metadata("Work", "/shared/gone", "x")
    account.set_metadata("Work", "/shared/gone", None)
    account.remember(SieveState({KEY: 7 * 86_400, b"k" * 32: 10, b"marked!!": 86_400}))
    return account


def seen_by_a_client(account: MaildirAccount, now: float) -> dict[str, object]:
    out: dict[str, object] = {
        "boxes": account.mailboxes(),
        "account": account.get_metadata(None, "/private/comment"),
        "known": [account.remembered(key, now) for key in (KEY, b"k" * 32, b"other")],
    }
    for info in account.mailboxes():
        shown = account.snapshot(info.name)
        rows = account.rows(info.name, shown.uids, cold=True)
        out[info.name] = [
            (row.uid, frozenset(names_of(row.flags, shown.keywords)), row.date, row.savedate, row.size,
             row.email_id, row.envelope, row.bodystructure, row.headers, account.read(info.name, row.uid))
            for row in rows
        ]  # fmt: skip
        out[info.name + " entries"] = [
            account.get_metadata(info.name, name) for name in ("/private/comment", "/shared/gone")
        ]
        status = account.status(info.name)
        out[info.name + " status"] = (status.messages, status.unseen, status.size, status.deleted)
        out[info.name + " recent"] = status.recent
    out["quota"] = account.quota()
    return out


def lose_index(world: World) -> None:
    for path in (world.maildir / ".filterd").iterdir():
        path.unlink()


def spoil_index(world: World) -> None:
    (world.maildir / ".filterd" / "index.db").write_bytes(b"\0" * 9000)
    for name in ("index.db-wal", "index.db-shm"):
        (world.maildir / ".filterd" / name).unlink(missing_ok=True)


def home(world: World, account: MaildirAccount, mailbox: str) -> Path:
    return Path(account._core.box(mailbox)[0].top.path)


@pytest.mark.parametrize("kind", ["maildir-crlf", "maildir-lf", "mbox"])
@pytest.mark.parametrize("lose", [lose_index, spoil_index])
def test_a_client_sees_no_difference(
    new_world: Callable[[str], World],
    kind: str,
    lose: Callable[[World], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = new_world(kind)
    account = furnish(world)
    before = seen_by_a_client(account, world.clock.now)
    modseqs = {info.name: account.snapshot(info.name).modseq for info in account.mailboxes()}
    next_uids = {info.name: account.status(info.name).uidnext for info in account.mailboxes()}
    world.close()
    lose(world)
    caplog.set_level(logging.WARNING)
    account = open_account(world)
    if lose is spoil_index:  # the call that finds it out may fail
        with contextlib.suppress(StoreUnavailable):
            account.mailboxes()
    assert seen_by_a_client(account, world.clock.now) == before
    for name, modseq in modseqs.items():
        assert account.snapshot(name).modseq > modseq
        assert account.status(name).uidnext >= next_uids[name]
    assert "the index was made anew" in caplog.text
    facts = json.loads(account.rebuilt)
    assert facts["remembered"] == 2 and facts["annotations"] == 2 and "problems" not in facts
    assert account.snapshot("INBOX").keywords == WORDS
    # and it is so for the next time, too
    world.close()
    lose_index(world)
    assert seen_by_a_client(open_account(world), world.clock.now) == before


def test_what_is_in_the_files(maildir: World) -> None:
    account = furnish(maildir)
    mid, when = account.info("INBOX").id, int(maildir.clock.now)
    maildir.close()
    lines = (maildir.maildir / SNAPSHOT_FILE).read_text().splitlines()
    assert lines[:3] == ["filterd-snapshot 1", f"id {mid}", f"made {when}"]
    assert "keyword $Word28 1,3" in lines and "keyword $Word29 1:3,5,7:8" in lines
    assert not any(line.startswith(("keyword $Word3 ", "saved ")) for line in lines)
    work = (maildir.maildir / ".Work" / SNAPSHOT_FILE).read_text()
    assert f"saved {when - 100} 4:6\n" in work and 'metadata ["/private/comment", "of \\"Work' in work
    assert f"saved {when} 1\n" in (maildir.maildir / ".Work.2026" / SNAPSHOT_FILE).read_text()
    own = (maildir.maildir / ACCOUNT_FILE).read_text()
    assert f"remembered {KEY.hex()} {when + 7 * 86_400}\n" in own and b"marked!!".hex() not in own


def test_who_needs_none_has_none(maildir: World) -> None:
    account = open_account(maildir)
    account.deliver("INBOX", NewMessage(text(1), ("\\Flagged", "word")))
    account.create("Work")
    account.set_flags("INBOX", [1], "set", ["other"])
    account._snapshots.finish(9.0)
    assert (
        not list(maildir.maildir.rglob("filterd-snapshot*")) and not (maildir.maildir / ACCOUNT_FILE).exists()
    )


# -- an old one ---------------------------------------------------------------------------------------------------------


def test_names_win_over_it(maildir: World) -> None:
    """Flags were changed by another program while the index was away."""
    furnish(maildir)
    maildir.close()
    lose_index(maildir)
    for path in (maildir.maildir / "cur").iterdir():
        path.rename(path.with_name(path.name.partition(":2,")[0] + ":2,Fb"))
    account = open_account(maildir)
    shown = account.snapshot("INBOX")
    found = {
        uid: set(names_of(mask, shown.keywords)) for uid, mask in zip(shown.uids, shown.flags, strict=True)
    }
    assert all(
        flags & {"\\Seen", "\\Flagged", *WORDS[:26]} == {"\\Flagged", WORDS[1]}
        for uid, flags in found.items()
        if uid != 6
    )
    assert found[1] - {"\\Flagged", WORDS[1]} == set(WORDS[26:])
    assert found[5] - {"\\Flagged", WORDS[1]} == {WORDS[29]}


@pytest.mark.parametrize("boot", [None, "another"])
def test_an_index_that_is_there_wins_over_it(maildir: World, boot: str | None) -> None:
    """The process was killed, or the machine: the snapshot is from before the last changes."""
    account = furnish(maildir)
    account._snapshots.finish(9.0)
    maildir.clock.now += 5
    account.set_flags("INBOX", [1, 2], "remove", [WORDS[29]])
    account.set_flags("INBOX", [8], "add", [WORDS[27]])
    account.set_metadata(None, "/private/comment", "newer")
    account.set_metadata("Work", "/private/comment", None)
    account.remember(SieveState({KEY: 30 * 86_400}))
    before = seen_by_a_client(account, maildir.clock.now)
    assert WORDS[29] in (maildir.maildir / SNAPSHOT_FILE).read_text()
    again = open_account(maildir, boot)  # the first store is never closed
    assert seen_by_a_client(again, maildir.clock.now) == before
    assert again.unfinished is not None
    maildir.clock.now += 2
    again.step(9.0)
    maildir.clock.now -= 2
    lose_index(maildir)
    assert seen_by_a_client(open_account(maildir, boot), maildir.clock.now) == before


def test_a_longer_memory_stays(maildir: World) -> None:
    account = furnish(maildir)
    maildir.close()
    lose_index(maildir)
    account = open_account(maildir)
    assert not account.remembered(KEY, maildir.clock.now + 8 * 86_400)
    account.remember(SieveState({KEY: 30 * 86_400}))
    account._core.index.execute("delete from meta where key=?", (snapshot.TRIED,))
    with account._core.locked():
        snapshot.restore_account(account._core)
    assert account.remembered(KEY, maildir.clock.now + 8 * 86_400)


def test_numbers_go_on_behind_it(maildir: World) -> None:
    """The mailbox's own small file came from an older backup."""
    account = furnish(maildir)
    status, modseq = account.status("Work"), account.snapshot("Work").modseq
    path = home(maildir, account, "Work") / ".filterd-mailbox"
    maildir.close()
    lose_index(maildir)
    lines = path.read_text().splitlines()
    lines = [
        "uids 2" if one.startswith("uids") else "modseqs 2" if one.startswith("modseqs") else one
        for one in lines
    ]
    path.write_text("\n".join(lines) + "\n")
    account = open_account(maildir)
    assert account.status("Work").uidnext >= status.uidnext and account.snapshot("Work").modseq > modseq


# -- one that cannot be believed ------------------------------------------------------------------------------------------


def damage(data: bytes) -> bytes:
    return data.replace(b"keyword $Word28 1", b"keyword $Word28 2")


SPOILERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "changed": (damage, "is damaged"),
    "cut": (lambda data: data[: len(data) // 2], "is damaged"),
    "empty": (lambda data: b"", "is damaged"),
    "zeros": (lambda data: b"\0" * len(data), "is damaged"),
    "newer": (
        lambda data: data.replace(b"filterd-snapshot 1", b"filterd-snapshot 2"),
        "is of a newer filterd",
    ),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_one_that_cannot_be_believed_is_put_aside_and_said_so(
    maildir: World, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    account = furnish(maildir)
    maildir.close()
    lose_index(maildir)
    spoil, why = SPOILERS[how]
    for name in (SNAPSHOT_FILE, ACCOUNT_FILE):
        path = maildir.maildir / name
        path.write_bytes(
            spoil(path.read_bytes()) if how != "changed" else path.read_bytes()[:-10] + b"0" * 9 + b"\n"
        )
    account = open_account(maildir)
    shown = account.snapshot("INBOX")
    assert len(shown.uids) == 7 and shown.flags[0] & SEEN == 0
    assert not set(names_of(shown.flags[0], shown.keywords)) & set(WORDS[26:])
    assert account.get_metadata(None, "/private/comment") is None
    assert account.get_metadata("Work", "/private/comment") is not None  # that one is whole
    problems = json.loads(account.rebuilt)["problems"]
    assert len(problems) == 2 and all(why in problem for problem in problems), problems
    assert caplog.text.count(why) == 2
    assert (maildir.maildir / (SNAPSHOT_FILE + UNUSABLE)).exists() and not (
        maildir.maildir / SNAPSHOT_FILE
    ).exists()
    account.set_flags("INBOX", [1], "add", [WORDS[28]])  # life goes on, with a new one
    maildir.close()
    lose_index(maildir)
    account = open_account(maildir)
    shown = account.snapshot("INBOX")
    assert WORDS[28] in names_of(shown.flags[0], shown.keywords)


def test_one_of_the_future_and_one_of_another_mailbox(maildir: World) -> None:
    furnish(maildir)
    maildir.close()
    lose_index(maildir)
    maildir.clock.now -= 3 * 86_400
    (maildir.maildir / ".Work" / SNAPSHOT_FILE).write_bytes((maildir.maildir / SNAPSHOT_FILE).read_bytes())
    maildir.clock.now += 3 * 86_400
    account = open_account(maildir)
    account.status("Work")
    assert "is of another mailbox" in json.loads(account.rebuilt)["problems"][0]
    maildir.close()
    lose_index(maildir)
    maildir.clock.now -= 3 * 86_400
    account = open_account(maildir)
    account.status("INBOX")
    assert "is of the future" in str(json.loads(account.rebuilt)["problems"])


def test_nothing_that_is_read_does_harm() -> None:
    whole = Snapshot(
        "0" * 16, 5, 1, 9, 7, {"a": "b"}, {"$W": [(1, 3), (9, 9)]}, {77: [(4, 4)]}, {KEY: 99.0}
    ).render()
    assert Snapshot.parse(whole, 10).render() == whole
    pick = random.Random(7)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(pick.randint(1, 4)):
            at = pick.randrange(len(data))
            data[at : at + pick.randint(0, 3)] = pick.randbytes(pick.randint(0, 3))
        if bytes(data) != whole:
            with pytest.raises(Unusable):
                Snapshot.parse(bytes(data), 10)


@pytest.mark.parametrize("line", ["keyword a 3,2", "keyword a 0", "saved x 1", "metadata [1, 2]", "metadata {", "numbers 1",
                                  "remembered zz 1", "keyword a 99999999999", "made x", "made -1", "numbers 1 4294967297 1",
                                  "numbers 1 1 9223372036854775808", "remembered 00 1" + 400 * "0",
                                  "saved 9223372036854775808 1"])  # fmt: skip
def test_lines_that_no_filterd_writes(line: str) -> None:
    """With a digest that is right."""
    from filterd.store.snapshot_text import _digest

    data = f"filterd-snapshot 1\nid a\n{line}\n".encode()
    with pytest.raises(Unusable, match="damaged"):
        Snapshot.parse(data + f"end {_digest(data)}\n".encode(), 10)


def test_a_heading_that_is_no_number() -> None:
    with pytest.raises(Unusable, match="damaged"):
        Snapshot.parse(b"filterd-snapshot " + 5000 * b"9" + b"\n", 10)


def test_runs() -> None:
    assert parse_runs("1:3,5,7:9") == [(1, 3), (5, 5), (7, 9)]
    assert render_runs([(1, 3), (5, 5), (7, 9)]) == "1:3,5,7:9"


def test_it_is_bounded_and_the_newest_memories_are_kept() -> None:
    memories = {number.to_bytes(32, "big"): float(number) for number in range(80_000)}
    full = Snapshot("account", 5, metadata={"/private/comment": "kept"}, remembered=memories)
    data = full.render()
    assert len(data) < MAX_OCTETS + 1000 and full.omitted
    found = Snapshot.parse(data, 10)
    assert found.metadata == full.metadata and found.omitted == full.omitted
    assert min(found.remembered.values()) == full.omitted and max(found.remembered.values()) == 79_999


# -- where it goes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["maildir-crlf", "mbox"])
def test_it_goes_where_the_mailbox_goes(new_world: Callable[[str], World], kind: str) -> None:
    world = new_world(kind)
    account = furnish(world)
    account._snapshots.finish(9.0)
    count = len(list(world.root.rglob(SNAPSHOT_FILE)))
    account.rename("Work", "Play")
    account.set_metadata("Play/2026", "/private/comment", "child")
    world.close()
    lose_index(world)
    account = open_account(world)
    assert account.get_metadata("Play", "/private/comment") and account.get_metadata(
        "Play/2026", "/private/comment"
    )
    assert len(list(world.root.rglob(SNAPSHOT_FILE))) == max(count, 2)
    account.delete("Play/2026")
    account.delete("Play")
    world.close()
    assert len(list(world.root.rglob(SNAPSHOT_FILE))) == (1 if kind == "maildir-crlf" else 0)
    lose_index(world)
    account = open_account(world)
    account.create("Play")
    assert account.get_metadata("Play", "/private/comment") is None


# -- when it is written -------------------------------------------------------------------------------------------------


def test_not_more_often_than_every_half_minute(maildir: World) -> None:
    account = open_account(maildir)
    file = maildir.maildir / ACCOUNT_FILE
    account.set_metadata(None, "/private/comment", "1")
    assert account.unfinished == pytest.approx(snapshot.SETTLE_SECONDS)
    account.step(1.0)
    assert not file.exists()
    maildir.clock.now += 2
    assert account.unfinished == 0.0
    account.step(1.0)
    assert '"1"' in file.read_text() and account.unfinished is None
    account.set_metadata(None, "/private/comment", "2")
    assert account.unfinished == pytest.approx(snapshot.INTERVAL_SECONDS)
    maildir.clock.now += snapshot.INTERVAL_SECONDS - 1
    account.step(1.0)
    assert '"1"' in file.read_text()
    maildir.clock.now += 2
    account.step(1.0)
    assert '"2"' in file.read_text()


def test_what_fails_is_not_tried_again_at_once(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a mailbox that is gone cannot be taken away: somebody else has the lock."""
    account, other = open_account(maildir), open_account(maildir)
    account.create("Work")
    account.set_metadata("Work", "/private/comment", "1")
    account._snapshots.finish(9.0)
    account.delete("Work")
    account.set_metadata(None, "/private/comment", "1")
    maildir.clock.now += 100
    assert account.unfinished == 0.0
    monkeypatch.setattr("filterd.store.core.LOCK_SECONDS", 0.01)
    with other.hold(), pytest.raises(StoreUnavailable):
        account.step(1.0)
    assert account.unfinished == pytest.approx(snapshot.INTERVAL_SECONDS)
    maildir.clock.now += 100
    account.step(1.0)
    assert account.unfinished is None and '"1"' in (maildir.maildir / ACCOUNT_FILE).read_text()


def test_a_keyword_that_has_a_letter_now_is_no_problem(maildir: World) -> None:
    """The list of keywords was made anew in another order: the first of them is known all the same."""
    account = furnish(maildir)
    account._snapshots.finish(9.0)
    words = maildir.maildir / KEYWORDS_FILE
    words.write_text("".join(f"{number} {word}\n" for number, word in enumerate(reversed(WORDS))))
    lose_index(maildir)
    again = open_account(maildir)
    again.status("INBOX")
    assert again._core.box("INBOX")[1].keyword_list == WORDS[::-1]
    assert "problems" not in json.loads(again.rebuilt)


def test_rights_are_written_at_once(maildir: World) -> None:
    """What was taken away must not come back."""
    account = open_account(maildir)
    account.create("Work")
    account.set_metadata("Work", ENTRY, "bob@example.org lr")
    account._snapshots.finish(9.0)
    account.set_metadata("Work", ENTRY, None)
    lose_index(maildir)
    assert open_account(maildir).get_metadata("Work", ENTRY) is None


def test_a_killed_process_leaves_it_to_the_next(maildir: World) -> None:
    account = furnish(maildir)
    account._snapshots.finish(9.0)
    account.set_metadata("Work", "/private/comment", "late")
    again = open_account(maildir)
    assert again.unfinished == pytest.approx(snapshot.SETTLE_SECONDS)
    maildir.clock.now += 2
    again.step(1.0)
    assert again.unfinished is None
    assert '"late"' in (maildir.maildir / ".Work" / SNAPSHOT_FILE).read_text()


@pytest.mark.parametrize("mailbox", [None, "Work"])
def test_killed_after_another_has_written(maildir: World, mailbox: str | None) -> None:
    """Its change waited, another process wrote it, and then came one more."""
    first, second = furnish(maildir), open_account(maildir)
    first.set_metadata(mailbox, "/private/comment", "early")
    second.set_metadata(None, "/private/x", "1")
    second._snapshots.finish(9.0)
    first.set_metadata(mailbox, "/private/comment", "late")
    again = open_account(maildir)  # the first two are never closed
    assert again.unfinished is not None
    maildir.clock.now += 2
    again.step(9.0)
    file = home(maildir, again, mailbox) / SNAPSHOT_FILE if mailbox else maildir.maildir / ACCOUNT_FILE
    assert '"late"' in file.read_text()


def test_two_processes_write_all_that_both_did(maildir: World) -> None:
    first, second = open_account(maildir), open_account(maildir)
    first.set_metadata(None, "/private/one", "1")
    second.set_metadata(None, "/private/two", "2")
    second._snapshots.finish(9.0)
    first._snapshots.finish(9.0)
    text = (maildir.maildir / ACCOUNT_FILE).read_text()
    assert '"/private/one", "1"' in text and '"/private/two", "2"' in text


def test_a_large_mailbox_is_looked_at_in_pieces_and_once(
    maildir: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "BLOCK", 3)
    account = open_account(maildir)
    account.create("Old")
    account.append("INBOX", [NewMessage(text(number)) for number in range(10)])
    maildir.clock.now += 60
    account.copy("INBOX", range(1, 8), "Old")
    account._snapshots.finish(9.0)
    maildir.clock.now += 60
    account.copy("INBOX", [8, 9], "Old")
    account.copy("INBOX", [1], "INBOX")
    maildir.clock.now += 60
    account.set_flags("Old", [1, 2, 3, 4, 5, 6], "add", ["\\Deleted"])
    account.expunge("Old")
    account.copy("Old", [8], "Old")
    before = seen_by_a_client(account, maildir.clock.now)
    account._snapshots.finish(9.0)
    assert {"7", "8:9", "10"} & {
        line.rpartition(" ")[2]
        for line in (maildir.maildir / ".Old" / SNAPSHOT_FILE).read_text().splitlines()
    } >= {"8:9", "10"}
    maildir.close()
    lose_index(maildir)
    assert seen_by_a_client(open_account(maildir), maildir.clock.now) == before


def test_the_jobs_write_it_when_nobody_asks(maildir: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SETTLE_SECONDS", 0.0)
    jobs = AccountJobs(maildir.store())
    file = maildir.maildir / ACCOUNT_FILE

    async def run() -> None:
        await jobs.deliver(
            "ann@example.org", "INBOX", NewMessage(text(1), key=b"k" * 8), SieveState({KEY: 500})
        )
        until = time.monotonic() + 20
        while not file.exists() and time.monotonic() < until:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    jobs.close()
    assert f"remembered {KEY.hex()}" in file.read_text()


def test_an_account_that_was_removed_is_left_alone(maildir: World, caplog: pytest.LogCaptureFixture) -> None:
    account = open_account(maildir)
    account.set_metadata(None, "/private/comment", "x")
    shutil.rmtree(maildir.maildir)
    maildir.clock.now += 2
    account.step(1.0)
    assert account.unfinished is None
    maildir.close()
    assert not maildir.maildir.exists() and "snapshots" not in caplog.text


def test_what_the_mail_tells_itself_costs_nothing(new_world: Callable[[str], World]) -> None:
    """An mbox has all keywords and save dates."""
    world = new_world("mbox")
    account = open_account(world)
    account.create("Work")
    account.append("INBOX", [NewMessage(text(1), WORDS)])
    account.step(9.0)
    world.clock.now += 2
    account.step(9.0)
    assert account.unfinished is None
    account.set_flags("INBOX", [1], "set", WORDS[:20])
    account.copy("INBOX", [1], "Work")
    account.move("INBOX", [1], "Work")
    assert account.unfinished is None


def test_system_flags_cost_nothing(maildir: World) -> None:
    account = open_account(maildir)
    account.append("INBOX", [NewMessage(text(number)) for number in range(3)])
    account._snapshots.finish(9.0)
    account.unfinished  # noqa: B018  # asked as the jobs ask
    maildir.clock.now += 100
    account.step(1.0)
    assert account.unfinished is None
    account.set_flags("INBOX", [1, 2], "add", ["\\Seen", "\\Flagged"])
    account.set_flags("INBOX", [1], "set", ["\\Seen"])
    account.expunge("INBOX")
    account.deliver("INBOX", NewMessage(text(9), key=b"x" * 8))
    assert account.unfinished is None
    assert account.snapshot("INBOX").flags[1] == SEEN | FLAGGED
