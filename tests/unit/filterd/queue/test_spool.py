"""Group commit: durable on return, failures told to those they concern, several threads and processes at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
from pathlib import Path

import pytest

from filterd.queue.base import Outgoing, PendingStore
from filterd.queue.journal import BODY_IN_ROW, Journal
from filterd.queue.spool import GroupSpool
from filterd.queue.writer import Writer
from filterd.store.base import NewMessage, StoreUnavailable
from filterd.store.full import disk_full
from tests.queuelab import HandClock, Lab, spool, writer

BIG = b"x" * (BODY_IN_ROW + 1)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def out(key: bytes, data: bytes = b"text", recipient: str = "bob@x.example") -> Outgoing:
    return Outgoing(key, "ann@us.example", recipient, data, "submission")


def stored(lab: Lab) -> list[str]:
    return [item.recipient for item in lab.items()]


def test_durable_on_return(lab: Lab) -> None:
    async def story() -> None:
        door = spool(lab)
        ids, stores = await door.enqueue(
            [out(b"1"), out(b"2")], [PendingStore("ann", "Box", NewMessage(b"t", key=b"s"))]
        )
        with contextlib.closing(Journal(lab.queue)) as journal:
            assert [item.id for item in journal.items()] == list(ids)
            assert journal.pending_store(stores[0]) is not None
        door.performed(stores)
        door.acknowledge([b"1"])
        again, _ = await door.enqueue([out(b"1"), out(b"2")])
        assert again[0] != ids[0] and again[1] == ids[1]
        await asyncio.to_thread(door.close)
        with contextlib.closing(Journal(lab.queue)) as journal:
            assert journal.pending_store(stores[0]) is None

    asyncio.run(story())


def test_many_at_once_share_groups_and_texts(lab: Lab) -> None:
    async def story() -> None:
        door = spool(lab)
        answers = await asyncio.gather(*(door.enqueue([out(b"%d" % n)]) for n in range(500)))
        assert len({ids[0] for ids, _ in answers}) == 500
        await asyncio.to_thread(door.close)

    asyncio.run(story())
    with contextlib.closing(Journal(lab.queue)) as journal:
        assert len({item.body for item in journal.items()}) < 100


def test_close_writes_what_waits_and_then_refuses(lab: Lab) -> None:
    async def story() -> None:
        door = spool(lab)
        waiting = [asyncio.ensure_future(door.enqueue([out(b"%d" % n)])) for n in range(20)]
        await asyncio.sleep(0)
        door.close()
        assert len(await asyncio.gather(*waiting)) == 20
        with pytest.raises(StoreUnavailable):
            await door.enqueue([out(b"late")])
        door.acknowledge([b"late"])
        door.close()

    asyncio.run(story())
    assert len(stored(lab)) == 20


def test_a_bad_request_does_not_fail_its_neighbours(lab: Lab) -> None:
    async def story() -> None:
        door = spool(lab)
        bad = door.enqueue([out(b"bad", recipient="\udcff@x.example")])
        good = [door.enqueue([out(b"%d" % n)]) for n in range(10)]
        answers = await asyncio.gather(good[0], bad, *good[1:], return_exceptions=True)
        assert [isinstance(a, StoreUnavailable) for a in answers] == [False, True] + [False] * 9
        await asyncio.to_thread(door.close)

    asyncio.run(story())
    assert len(stored(lab)) == 10


def test_a_database_that_fails_is_told_and_opened_anew(lab: Lab) -> None:
    lab.queue.write_bytes(b"in the way")

    async def story() -> None:
        door = spool(lab)
        for data in (b"text", BIG):
            with pytest.raises(StoreUnavailable):
                await door.enqueue([out(b"1", data)])
        door.acknowledge([b"1"])
        lab.queue.unlink()
        assert await door.enqueue([out(b"1")])
        await asyncio.to_thread(door.close)

    asyncio.run(story())
    assert len(stored(lab)) == 1


@pytest.mark.parametrize("place", ["begin", "add"])
def test_a_full_disk_is_known_as_the_cause(lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """In a row as in the log of the database: whoever answers can say 452."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, place, full)

    async def story() -> None:
        door = spool(lab)
        with pytest.raises(StoreUnavailable) as caught:
            await door.enqueue([out(b"1")])
        assert disk_full(caught.value)
        await asyncio.to_thread(door.close)

    asyncio.run(story())


def test_a_locked_database_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.queue.journal.LOCK_WAIT", 0.02)

    async def story() -> None:
        door = spool(lab)
        await door.enqueue([out(b"0")])
        other = Journal(lab.queue)
        other.begin()
        answers = await asyncio.gather(
            *(door.enqueue([out(b"%d" % n, data)]) for n, data in ((1, b"a"), (2, BIG))),
            return_exceptions=True,
        )
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        door.acknowledge([b"0"])  # rides until it can be written
        other.rollback()
        other.close()
        assert await door.enqueue([out(b"0"), out(b"1")])
        assert len(lab.items()) == 3  # "0" was acknowledged, so it is new
        await asyncio.to_thread(door.close)

    asyncio.run(story())
    assert not list(lab.queue.glob("body-*"))


def test_riders_go_when_nobody_else_does(lab: Lab) -> None:
    async def story() -> None:
        lab.put(out(b"k"))
        door = spool(lab)
        door.acknowledge([b"k"])
        with contextlib.closing(Journal(lab.queue)) as journal:
            await lab.until(lambda: journal._db.execute("select sum(acked) from item").fetchone() == (1,))
        await asyncio.to_thread(door.close)

    asyncio.run(story())


def test_a_caller_that_goes_away_loses_nothing(lab: Lab) -> None:
    async def story() -> None:
        door = spool(lab)
        tasks = [
            asyncio.ensure_future(door.enqueue([out(b"%d" % n, data)]))
            for n, data in enumerate((b"small", BIG))
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await lab.until(lambda: len(lab.items()) == 2)
        await asyncio.to_thread(door.close)

    asyncio.run(story())
    with contextlib.closing(Journal(lab.queue)) as journal:
        assert {len(journal.body(item.body)) for item in journal.items()} == {5, len(BIG)}


def test_large_texts_of_one_message_are_written_once(lab: Lab) -> None:
    async def story() -> None:
        door = spool(lab)
        equal = [bytes(bytearray(BIG)) for _ in range(30)]
        await asyncio.gather(*(door.enqueue([out(b"%d" % n, data)]) for n, data in enumerate(equal)))
        assert len(list(lab.queue.glob("body-*"))) == 1
        await door.enqueue([out(b"3", BIG)])  # known: its file goes again
        assert len(list(lab.queue.glob("body-*"))) == 1
        await asyncio.to_thread(door.close)

    asyncio.run(story())
    assert len(lab.items()) == 30 and len({item.body for item in lab.items()}) == 1


def test_work_that_raises_is_rolled_back_alone(lab: Lab) -> None:
    async def story() -> None:
        desk = writer(lab)

        def bad(journal: Journal) -> None:
            journal.add([out(b"half")], (), 0.0)
            raise KeyError("a bug")

        answers = await asyncio.gather(
            desk.write(lambda j: j.add([out(b"1")], (), 0.0)),
            desk.write(bad),
            desk.read(lambda j: len(j.items())),
            desk.write(lambda j: j.add([out(b"2")], (), 0.0)),
            return_exceptions=True,
        )
        assert isinstance(answers[1], StoreUnavailable) and not isinstance(answers[3], BaseException)
        await asyncio.to_thread(desk.close)

    asyncio.run(story())
    assert len(stored(lab)) == 2


def _fill(directory: str, number: int) -> None:
    async def story() -> None:
        door = GroupSpool(Path(directory), HandClock())
        await asyncio.gather(
            *(door.enqueue([out(b"%d-%d" % (number, n)), out(b"same-%d" % n)]) for n in range(60))
        )
        await asyncio.to_thread(door.close)

    asyncio.run(story())


def test_several_processes_at_once(lab: Lab) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(str(lab.queue), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    items = lab.items()
    assert len(items) == 3 * 60 + 60 and len({item.id for item in items}) == len(items)


def test_a_writer_without_work_needs_no_database(tmp_path: Path) -> None:
    desk = Writer(tmp_path / "queue", HandClock(), "idle")
    desk.close()
    assert not (tmp_path / "queue").exists()
