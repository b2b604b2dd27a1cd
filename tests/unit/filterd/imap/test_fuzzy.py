"""FUZZY: what counts as near, and that what the index proposes for it leaves nothing out."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

import pytest

from filterd.imap import fuzzy
from filterd.imap.fuzzy import near
from filterd.imap.search_keys import fold
from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount

from .conftest import Client

LETTERS = "abé日"


def neighbours(word: str) -> set[str]:
    """All that one slip makes of it."""
    found = {word}
    for at in range(len(word) + 1):
        found |= {word[:at] + letter + word[at:] for letter in LETTERS}
        if at < len(word):
            found.add(word[:at] + word[at + 1 :])
            found |= {word[:at] + letter + word[at + 1 :] for letter in LETTERS}
        if at + 1 < len(word):
            found.add(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    return found


def test_near_is_one_slip() -> None:
    pick = random.Random(6203)
    words = ["".join(pick.choices(LETTERS, k=pick.randint(0, 5))) for _ in range(300)]
    for one in words:
        close = neighbours(one)
        for other in (*words, *close):
            assert near(one, other) == (other in close), (one, other)


@pytest.mark.parametrize("word", ["invoice", "Straßen", "naïveté", "hello"])
def test_every_slip_is_found(connect: Callable[..., Client], account: MemoryAccount, word: str) -> None:
    slips = sorted(neighbours(unicodedata.normalize("NFC", fold(word))))  # slips of what is compared
    for slip in slips:
        account.append("INBOX", [NewMessage(f"Subject: x {slip} y\r\n\r\n({slip})\r\n".encode())])
    client = connect()
    octets = word.encode()
    for key in ("SUBJECT", "BODY"):
        found = client(b"SEARCH CHARSET UTF-8 FUZZY %b {%d+}\r\n%b" % (key.encode(), len(octets), octets))
        exact = client(b"SEARCH CHARSET UTF-8 %b {%d+}\r\n%b" % (key.encode(), len(octets), octets))
        assert len(found[0].split()) - 2 == len(slips), key
        assert len(exact[0].split()) - 2 == sum(fold(word) in fold(slip) for slip in slips)


def test_slips_are_looked_for_in_the_first_part_of_a_long_text(
    connect: Callable[..., Client], account: MemoryAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzy, "_MAX_TEXT", 1_000)
    for before in (0, 2_000):
        account.append(
            "INBOX", [NewMessage(b"Subject: x\r\n\r\n" + b"ab " * before + b"invocie invoice2\r\n")]
        )
    client = connect()
    assert client(b'SEARCH FUZZY BODY "invoice"')[0] == "* SEARCH 1 2"  # the text as it is, wherever
    assert client(b'SEARCH FUZZY BODY "invoiec"')[0] == "* SEARCH"
    assert client(b'SEARCH FUZZY BODY "invocei"')[0] == "* SEARCH 1"
