"""Every test script below tests/scripts/sieve passes, and every extension has some."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from rules.ext import EXTENSIONS
from rules.testkit.runner import run_file, show

SCRIPTS = Path(__file__).parents[1] / "scripts" / "sieve"
FILES = sorted(SCRIPTS.rglob("*.svtest"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_script(path: Path) -> None:
    report = run_file(str(path), moment=datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
    lines: list[str] = []
    show(report, lines.append)
    assert report.passed, "".join(lines)
    assert report.cases, "a test script has tests"


def test_every_extension_has_test_scripts() -> None:
    have = {path.parent.name for path in FILES}
    assert [one.name for one in EXTENSIONS if one.name not in have] == []
