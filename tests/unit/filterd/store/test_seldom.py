"""The rare octet finds what a plain search finds."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.store.seldom import find, rarest


@pytest.fixture
def text(tmp_path: Path) -> Iterator[mmap.mmap]:
    pick = random.Random(5)
    words = ["the", "meeting", "zebra", "quiz", "a", "\u65e5\u672c", "0815", "x", "\u00fc", "zz"]
    rare = ["unfindable", "qx", "j\u00fcrgen"]
    data = " ".join(
        pick.choice(rare) if pick.random() < 0.002 else pick.choice(words[: pick.randint(1, 10)])
        for _ in range(60_000)
    )
    path = tmp_path / "text"
    path.write_bytes(data.encode())
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as found:
        yield found


def test_it_finds_what_find_finds(text: mmap.mmap) -> None:
    pick = random.Random(6)
    whole = text[:]
    needles = [
        whole[at : at + pick.randint(1, 30)] for at in (pick.randrange(len(whole)) for _ in range(150))
    ]
    needles += [
        b"unfindable",
        b"not there",
        b"zzqxnotthere",
        b"q",
        b"qx",
        "\u65e5".encode(),
        b"meeting zebra",
        b"  ",
        b"\xff",
    ]
    for needle in needles:
        rare = rarest(needle)
        for _ in range(4):
            start = pick.randrange(len(whole))
            end = pick.choice([len(whole), start + pick.randrange(200), start + len(needle), len(whole) + 50])
            assert find(text, needle, rare, start, end) == text.find(needle, start, end), (needle, start, end)
        at, plain = 0, 0
        for _ in range(20):
            at, plain = find(text, needle, rare, at, len(whole)), text.find(needle, plain)
            assert at == plain
            if at < 0:
                break
            at, plain = at + 1, plain + 1


def test_which_octet() -> None:
    assert rarest(b"") == 0
    assert rarest(b"the quiz") == 7
    assert rarest("die \u00fcbung".encode()) == 4
    assert rarest(b"eee") == 0
