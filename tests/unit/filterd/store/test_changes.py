"""Notices: within the process, to others, from other programs. Unix datagrams in a temporary directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from filterd.store.changes import NoticeHub


async def soon(event: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(event.wait(), 5)
    except TimeoutError:
        return False
    event.clear()
    return True


def test_watchers_here_and_in_other_processes_are_woken(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = NoticeHub(tmp_path, "worker-0"), NoticeHub(tmp_path, "worker-1")
        here, there, elsewhere = asyncio.Event(), asyncio.Event(), asyncio.Event()
        ends = [
            one.watch("a@b", "inbox", here.set),
            other.watch("a@b", "INBOX", there.set),
            other.watch("a@b", "Entwürfe", elsewhere.set),
        ]
        await asyncio.to_thread(one.changed, "a@b", "INBOX", 7)
        assert await soon(here)
        assert await soon(there)
        assert not elsewhere.is_set()
        one.changed("a@b", "Entwürfe", 8)
        assert await soon(elsewhere)
        assert not there.is_set()
        for end in ends:
            end()
            end()
        one.changed("a@b", "INBOX", 9)
        await asyncio.sleep(0)
        assert not here.is_set()
        one.close()
        other.close()
        assert not list(tmp_path.iterdir())

    asyncio.run(main())


def test_a_slow_receiver_gets_every_mailbox_and_a_dead_one_is_removed(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = NoticeHub(tmp_path, "worker-0"), NoticeHub(tmp_path, "worker-1")
        woken: set[int] = set()
        done = asyncio.Event()

        def wake(number: int) -> None:
            woken.add(number)
            if len(woken) == 500:
                done.set()

        for number in range(500):
            other.watch("a@b", f"box{number}", lambda number=number: wake(number))  # type: ignore[misc]
        for number in range(500):  # more than a socket's queue holds
            one.changed("a@b", f"box{number}", 1)
        assert await soon(done)
        other._loop.remove_reader(other._socket.fileno())  # type: ignore[union-attr]  # as when the process is killed
        other._socket.close()
        one.changed("a@b", "INBOX", 2)
        assert not list(tmp_path.iterdir())  # who watches nothing has no socket, and costs the others nothing
        one.close()

    asyncio.run(main())


def test_a_command_without_a_loop_only_sends(tmp_path: Path) -> None:
    async def main() -> None:
        hub = NoticeHub(tmp_path, "worker-0")
        event = asyncio.Event()
        hub.watch("a@b", "INBOX", event.set)
        await asyncio.to_thread(lambda: NoticeHub(tmp_path, "deliver").changed("a@b", "INBOX", 1))
        assert await soon(event)
        hub.close()

    asyncio.run(main())


def test_files_of_other_programs_are_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        hub = NoticeHub(tmp_path / "run", "worker-0")
        for part in ("new", "cur", ".b/new", ".b/cur"):
            (tmp_path / "mail" / part).mkdir(parents=True)
        hub.follow(lambda account: str(tmp_path / "mail"))
        inbox, box = asyncio.Event(), asyncio.Event()
        end = hub.watch("a@b", "INBOX", inbox.set)
        hub.watch("a@b", "b", box.set)
        (tmp_path / "mail/new/1.x").write_bytes(b"x")
        assert await soon(inbox)
        (tmp_path / "mail/new/1.x").rename(tmp_path / "mail/.b/cur/1.x:2,S")
        assert await soon(box)
        end()
        hub._sweep_all()  # what inotify had told is seen once more by the sweep, then no more
        box.clear()
        hub._sweep_all()
        assert not box.is_set()
        hub.close()

    asyncio.run(main())


def test_the_account_itself_is_watched_by_the_empty_name(tmp_path: Path) -> None:
    """Names, subscriptions and metadata; told to a hub that begins to watch a moment before, too."""

    async def main() -> None:
        one, other = NoticeHub(tmp_path / "run", "worker-0"), NoticeHub(tmp_path / "run", "worker-1")
        one.changed("a@b", "INBOX", 1)  # it has looked for others already
        told = asyncio.Event()
        (tmp_path / "mail").mkdir()
        other.follow(lambda account: str(tmp_path / "mail"))
        end = other.watch("a@b", "", told.set)
        one.changed("a@b", "", 0)
        assert await soon(told)
        told.clear()
        (tmp_path / "mail/.New").mkdir()  # by another program
        other._sweep_all()
        assert told.is_set()
        end()
        one.close()
        other.close()

    asyncio.run(main())
