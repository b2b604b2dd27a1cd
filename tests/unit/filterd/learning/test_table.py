"""The counts: once each, taken back, bounded."""

from __future__ import annotations

from pathlib import Path

from filterd.learning.table import Table


def test_learn_again_change_and_forget(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.db")
    one, other = (b"1" * 16, [1, 2, -(2**63)]), (b"2" * 16, [2, 3])
    assert table.learn([(one[0], "spam", one[1]), (other[0], "ham", other[1])], 5) == ["learned", "learned"]
    assert table.learn([(one[0], "spam", one[1])], 6) == ["again"]
    found = table.counts([1, 2, 3, 4, -(2**63)])
    assert (found.spam, found.ham) == (1, 1)
    assert found.tokens == {1: (1, 0), 2: (1, 1), 3: (0, 1), -(2**63): (1, 0)}
    assert table.learn([(one[0], "ham", one[1])], 7) == ["changed"]
    assert table.counts([1, 2]).tokens == {1: (0, 1), 2: (0, 2)} and table.totals() == (0, 2)
    assert table.learn([(one[0], "none", one[1]), (b"3" * 16, "none", [9])], 7) == ["forgotten", "again"]
    assert table.size() == 2 and table.totals() == (0, 1)
    table.close()
    again = Table(tmp_path / "t.db")
    assert again.totals() == (0, 1)
    again.close()


def test_it_stays_bounded_and_keeps_what_is_common(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.db", max_tokens=100, max_seen=50)
    for n in range(60):
        table.learn([(n.to_bytes(16, "big"), "spam", [1, 2, *range(n * 10 + 100, n * 10 + 110)])], n)
    assert table.size() <= 100 and table.counts([1, 2]).tokens == {1: (60, 0), 2: (60, 0)}
    assert table.learn([((59).to_bytes(16, "big"), "spam", [1])], 60) == ["again"]
    table.close()
