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


def sizes(door: Door) -> list[int]:
    door.take()
    door.feed(b"LIST\r\n")
    return [int(line.split()[1]) for line in door.take().split(b"\r\n")[1:-2]]


WIDE = "From: jø@example.org\r\nSubject: Grüße\r\n\r\nüber\r\nzwei\r\n".encode()
NAMED = (
    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment; filename=ü\r\n\r\nü\r\n--b--\r\n"
).encode()
BODY = "Subject: plain\r\n\r\nüber\r\n".encode()


def test_who_did_not_say_utf8_gets_ascii_headers_and_their_size() -> None:
    """RFC 6856 2.1: LIST says what RETR brings, in both modes; RFC 6858 4: TOP is of the surrogate."""
    for utf8 in (False, True):
        door, jobs, _ = connect(1)
        jobs.store.account(ANN).append("INBOX", [NewMessage(data) for data in (WIDE, NAMED, BODY)])
        door.feed((b"UTF8\r\n" if utf8 else b"") + LOGIN)
        listed = sizes(door)
        for number, data in enumerate((WIDE, NAMED, BODY), 2):
            door.feed(b"RETR %d\r\n" % number)
            first, _, text = door.take().partition(b"\r\n")
            text = text.removesuffix(b".\r\n")
            assert first == b"+OK %d octets" % len(text)
            assert listed[number - 1] == len(text)
            assert (text == data) == (utf8 or data is BODY)
            head = text[: text.rindex(b"\r\n\r\n")]
            assert head.isascii() == (not utf8 or data is BODY)
        door.feed(b"TOP 2 1\r\n")
        assert door.take().endswith("\r\n\r\nüber\r\n.\r\n".encode())
        door.feed(b"STAT\r\n")
        assert door.take() == b"+OK 4 %d\r\n" % sum(listed)
        door.close()
