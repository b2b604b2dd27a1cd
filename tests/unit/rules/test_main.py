"""python -m rules: exit codes and what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.__main__ import main

EXAMPLE = Path(__file__).parents[3] / "examples" / "sieve-test"


def test_check_and_lint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, doubtful = (tmp_path / name for name in ("good.sieve", "bad.sieve", "doubtful.sieve"))
    good.write_text("keep;\n")
    bad.write_text('fileinto "A";\n')
    doubtful.write_text("stop;\nkeep;\n")
    assert main(["check", str(good), str(doubtful)]) == 0
    assert "good.sieve is fine" in capsys.readouterr().out
    assert main(["lint", str(good), str(doubtful)]) == 1
    assert "never reached" in capsys.readouterr().out
    assert main(["check", str(bad)]) == 1
    assert "bad.sieve:1:1: error:" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "absent")]) == 2


def test_fmt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.sieve"
    path.write_text("KEEP ;")
    assert main(["fmt", "--check", str(path)]) == 1
    assert main(["fmt", str(path)]) == 0
    assert path.read_text() == "keep;\n"
    assert main(["fmt", "--check", str(path)]) == 0


def test_run_test_svtest_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(EXAMPLE / "main.sieve"), str(EXAMPLE / "invoice.eml")]) == 0
    assert "redirect to books@example.net" in capsys.readouterr().out
    assert main(["test", str(EXAMPLE)]) == 0
    assert "4 of 4 as expected" in capsys.readouterr().out
    svtest = EXAMPLE.parents[1] / "tests" / "scripts" / "sieve" / "copy" / "copy.svtest"
    assert main(["svtest", str(svtest)]) == 0
    assert main(["capabilities"]) == 0
    assert "fileinto" in capsys.readouterr().out.splitlines()


def test_the_example_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLE.parent / "sieve" / "ten_lines.py"
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "example"})
    assert "FileInto(mailbox='Bills'" in capsys.readouterr().out
