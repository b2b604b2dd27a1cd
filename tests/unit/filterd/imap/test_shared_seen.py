"""What a reader has seen: the text it is kept as."""

from __future__ import annotations

from filterd.imap.shared_seen import KEPT_LINES, MAX_LINES, Seen
from filterd.store.base import FLAGGED, SEEN


def test_there_and_back() -> None:
    seen = Seen().changed([1, 2, 3, 7], True, 10, ()).changed([2], False, 12, {1, 2, 3, 7})
    assert seen.render() == "10 + 1,3,7\n12 - 2"
    assert Seen.parse(seen.render()) == seen
    assert (seen.has(1), seen.has(2), seen.has(9)) == (True, False, False)
    assert (seen.modseq(1, 3), seen.modseq(2, 50), seen.modseq(9, 4), seen.highest) == (10, 50, 4, 12)
    assert seen.flags(1, FLAGGED) == FLAGGED | SEEN and seen.flags(2, FLAGGED | SEEN) == FLAGGED
    assert Seen().render() is None and Seen.parse("") == Seen() == Seen.parse(None)


def test_what_is_gone_is_forgotten() -> None:
    seen = Seen().changed(range(1, 100), True, 5, ()).changed([200], True, 6, {1, 2, 200})
    assert seen.render() == "5 + 1:2\n6 + 200"


def test_nonsense_is_left_out() -> None:
    assert Seen.parse("x + 1\n7\n8 + a:b,3\n\n9 -").marks == {3: (True, 8)}


def test_many_lines_become_few() -> None:
    """Nobody is told of too little: what a line is merged into is never older than it was."""
    seen = Seen()
    for uid in range(1, MAX_LINES + 10):
        seen = seen.changed([uid], uid % 3 > 0, uid * 2, seen.marks)
    text = seen.render()
    assert text is not None and len(text.split("\n")) <= KEPT_LINES + 2
    again = Seen.parse(text)
    assert again.highest == seen.highest and again.marks.keys() == seen.marks.keys()
    assert all(again.has(uid) == seen.has(uid) for uid in seen.marks)
    assert all(again.modseq(uid, 0) >= seen.modseq(uid, 0) for uid in seen.marks)
