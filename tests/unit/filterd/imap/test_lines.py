"""Kept lines: the same answers as made anew, whatever happened between them."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence

import pytest

from filterd.imap import fetch
from filterd.imap.config import ImapServerConfig
from filterd.imap.lines import BLOCK, Lines, cut
from filterd.imap.work import Work
from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount
from filterd.store.ready import NotReady

from .conftest import Client

Connect = Callable[..., Client]
MANY = 2 * BLOCK + 300
ASKED = (
    "FETCH 1:* FLAGS",
    "UID FETCH 1:* (FLAGS)",
    "FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE)",
    "FETCH 1:* (RFC822.SIZE)",
    f"FETCH 2,{BLOCK}:{BLOCK + 2},{2 * BLOCK}:* (FLAGS)",
    "FETCH 1:* (FLAGS MODSEQ)",
)


@pytest.fixture
def large(account: MemoryAccount) -> MemoryAccount:
    flags: tuple[tuple[str, ...], ...] = ((), ("\\Seen",), ("\\Seen", "$Label1"))
    account.append(
        "INBOX", [NewMessage(b"a: %d\r\n\r\n" % n, flags[n % 3], 1_700_000_000 + n) for n in range(MANY)]
    )
    return account


def render_counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages' lines were made, each time some were."""
    made: list[int] = []
    render = fetch._render

    def counting(line: bytes, lead: Sequence[int], *rest: object) -> bytes:
        made.append(len(lead))
        return render(line, lead, *rest)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(fetch, "_render", counting)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_as_if_made_anew(connect: Connect, large: MemoryAccount, seed: int) -> None:
    pick = random.Random(seed)
    lines = Lines()
    kept = connect(config=ImapServerConfig(message_size=100_000, lines=lines))
    other = connect(config=ImapServerConfig(message_size=100_000, lines=lines))
    for _ in range(6):
        first = pick.randrange(1, len(large.snapshot("INBOX").uids))
        match pick.randrange(4):
            case 0:
                other.ok(f"STORE {first}:{first + pick.randrange(5)} +FLAGS.SILENT (\\Answered $New{seed})")
            case 1:
                other.ok(f"STORE {first} -FLAGS.SILENT (\\Seen)")
            case 2:
                other.ok(f"STORE {first} +FLAGS.SILENT (\\Deleted)")
                other.ok("EXPUNGE")
            case _:
                large.append("INBOX", [NewMessage(b"b: c\r\n\r\n")])
        kept.ok("NOOP")
        fresh = connect(config=ImapServerConfig(message_size=100_000, lines=Lines(0)))
        for asked in ASKED:
            told = fresh.ok(asked)
            assert len(told) > 300
            assert kept.ok(asked) == told
            assert kept.ok(asked) == told


def test_a_change_makes_one_block_anew(
    connect: Connect, large: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines()
    client, other = [connect(config=ImapServerConfig(message_size=100_000, lines=lines)) for _ in range(2)]
    made = render_counted(monkeypatch)
    client.ok("FETCH 1:* FLAGS")
    assert made == [BLOCK, BLOCK, 300]
    other.ok("FETCH 1:* FLAGS")  # for another session of the account
    assert made == [BLOCK, BLOCK, 300]
    other.ok(f"STORE {BLOCK + 5} +FLAGS (\\Flagged)")
    client.ok("NOOP")
    lines_now = client.ok("FETCH 1:* FLAGS")
    assert made == [BLOCK, BLOCK, 300, BLOCK]
    assert "\\Flagged" in lines_now[BLOCK + 4]


def test_what_is_kept_is_told_on_the_loop(connect: Connect, large: MemoryAccount) -> None:
    client = connect()

    def work() -> Work:
        client.session.receive_data(b"t FETCH 1:* FLAGS\r\n")
        event = client.session.next_event()
        assert isinstance(event, Work)
        return event

    first = work()
    with pytest.raises(NotReady):  # to make so many lines takes too long there
        first.attempt(large)
    told = b"".join(first.step(large))
    client.session.work_done(first)
    assert first.done
    assert b"".join(work().attempt(large)) == told


def test_nobody_is_told_what_another_sees(connect: Connect, large: MemoryAccount) -> None:
    """What was made of other messages is not told, even under the same key."""
    lines = Lines()
    key = ("ann@example.org", "m", "0 x")
    uids, masks = array("I", [1, 2]), array("Q", [0, 1])
    lines.put(key, ("\\Seen",), (uids, masks), b"text")
    assert lines.get(key, ("\\Seen",), (uids[:], masks[:])) == b"text"
    assert lines.get(key, ("\\Seen", "$a"), (uids, masks)) is None
    assert lines.get(key, ("\\Seen",), (uids, array("Q", [0, 0]))) is None
    assert lines.get(key, ("\\Seen",), (array("I", [1, 3]), masks)) is None
    assert lines.get(("bob@example.org", "m", "0 x"), ("\\Seen",), (uids, masks)) is None


def test_within_a_bound() -> None:
    lines = Lines(limit=1_000)
    for number in range(20):
        lines.put(("a", "m", f"{number}"), (), (), b"x" * 100)
    kept = [number for number in range(20) if lines.get(("a", "m", f"{number}"), (), ()) is not None]
    assert kept == list(range(10, 20))


def test_pieces() -> None:
    end = 3 * BLOCK + 5
    assert list(cut([(0, BLOCK), (BLOCK + 7, 2 * BLOCK + 9), (3 * BLOCK, end)], end)) == [
        ([(0, BLOCK)], True),
        ([(BLOCK + 7, 2 * BLOCK)], False),
        ([(2 * BLOCK, 2 * BLOCK + 9)], False),
        ([(3 * BLOCK, end)], True),
    ]
    assert list(cut([(3 * BLOCK, end)], end + 1)) == [([(3 * BLOCK, end)], False)]
    assert list(cut([], end)) == []


def test_what_lies_scattered_is_made_together() -> None:
    spans = [(at, at + 1) for at in range(0, 5 * BLOCK, 2)]
    pieces = [span for span, whole in cut(spans, 5 * BLOCK) if not whole]
    assert list(map(len, pieces)) == [BLOCK, BLOCK, BLOCK // 2]
    assert [span for piece in pieces for span in piece] == spans
