"""Reports of errors."""

from __future__ import annotations

from rules.errors import ScriptError, line_column, render


def test_line_column() -> None:
    assert line_column("ab\ncd", 0) == (1, 1)
    assert line_column("ab\ncd", 4) == (2, 2)


def test_long_lines_are_cut_around_the_column() -> None:
    text = "x" * 500 + "BAD" + "y" * 500
    report = render([ScriptError(1, 501, "c", "m")], text, "f").splitlines()
    assert len(report[1]) < 140 and report[1][report[2].index("^") :].startswith("BAD")


def test_tabs_and_strange_places() -> None:
    report = render([ScriptError(1, 2, "c", "m", "x"), ScriptError(9, 9, "c", "m")], "\tkeep", "f")
    assert report.splitlines()[1].index("keep") == report.splitlines()[2].index("^")
    assert "f:9:9" in report
