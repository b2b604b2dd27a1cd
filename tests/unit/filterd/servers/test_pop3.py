"""What the POP3 shell adds to the core; the conversations are in tests/scripts/pop3."""

from __future__ import annotations

from collections.abc import Callable

from filterd.proto.pop3 import Pop3Config
from filterd.servers.maildrop import MemoryLocks, TooSoon
from filterd.servers.pop3 import READ_AHEAD, Pop3Connection, Pop3Door
from filterd.store.base import NewMessage
from filterd.store.memory import MemoryStore
from tests.dialog import Door
from tests.doors import CountingIds, FixedClock, InlineJobs, Logins

ANN = "ann@example.org"
LOGIN = b"USER ann@example.org\r\nPASS secret\r\n"


class Counted(InlineJobs):
    count = 0

    async def run(self, account, work):  # type: ignore[no-untyped-def]  # as its base
        self.count += 1
        return await super().run(account, work)


class Hasty(MemoryLocks):
    """As if the last log-in had been a moment ago."""

    hasty = True

    async def acquire(self, account: str) -> Callable[[], None] | None:
        if self.hasty:
            raise TooSoon
        return await super().acquire(account)


def connect(messages: int, locks: MemoryLocks | None = None) -> tuple[Door, Counted, MemoryLocks]:
    log: list[str] = []
    store = MemoryStore(FixedClock(), CountingIds())
    store.account(ANN).append("INBOX", [NewMessage(b"Subject: %d\r\n\r\n.\r\n" % n) for n in range(messages)])
    jobs = Counted(store, log)
    locks = locks or MemoryLocks()
    made = Pop3Door(Pop3Config("pop", allow_plain_auth=True), Logins(log), jobs, locks)
    return Door(lambda: Pop3Connection(made), log), jobs, locks


def test_messages_fetched_in_order_share_jobs() -> None:
    door, jobs, _ = connect(100)
    door.feed(LOGIN)
    before = jobs.count
    for number in range(1, 101):
        door.take()
        door.feed(b"RETR %d\r\n" % number)
        assert door.take() == b"+OK %d octets\r\nSubject: %d\r\n\r\n..\r\n.\r\n" % (
            len(b"Subject: %d\r\n\r\n.\r\n" % (number - 1)),
            number - 1,
        )
    assert jobs.count - before <= 100 // READ_AHEAD + 1
    door.close()


def test_messages_out_of_order_are_read_alone() -> None:
    door, jobs, _ = connect(10)
    door.feed(LOGIN)
    before = jobs.count
    for number in (9, 3, 7, 3):
        door.take()
        door.feed(b"RETR %d\r\n" % number)
        assert b"Subject: %d\r\n" % (number - 1) in door.take()
    assert jobs.count - before == 4
    door.close()


def test_a_log_in_that_comes_too_soon_is_no_failed_one() -> None:
    """RFC 2449 8.1.1. It may be tried again in the same session, any number of times."""
    locks = Hasty()
    door, _, _ = connect(2, locks)
    for _ in range(5):
        door.take()
        door.feed(LOGIN)
        assert b"-ERR [LOGIN-DELAY] " in door.take()
    locks.hasty = False
    door.feed(LOGIN + b"STAT\r\n")
    assert b"+OK 2 " in door.take()
    door.close()


def test_the_lock_is_let_go_at_every_end() -> None:
    locks = MemoryLocks()
    for end in (b"QUIT\r\n", b"DELE 1\r\nQUIT\r\n", b""):
        door, _, _ = connect(2, locks)
        door.feed(LOGIN)
        assert locks.take(ANN) is None
        door.feed(end)
        if not end:
            door.cut()
        release = locks.take(ANN)
        assert release is not None, end
        release()
        door.close()
    door, _, _ = connect(2, locks)
    door.feed(b"USER ann@example.org\r\nPASS wrong\r\n")
    release = locks.take(ANN)
    assert release is not None
    release()
    door.close()
