"""Every ``tests/scripts/PROTOCOL/*.dialog`` in each of its modes (format and modes: ``tests/dialog.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import dialog
from tests.doors import DOORS

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
CASES = [
    pytest.param(script, mode, DOORS[name], id=f"{name}/{script.path.stem}-{mode}")
    for name in DOORS
    for script in map(dialog.load, sorted((SCRIPTS / name).glob("*.dialog")))
    for mode in script.modes
]


@pytest.mark.parametrize(("script", "mode", "make_door"), CASES)
def test_dialog(script: dialog.Script, mode: str, make_door: dialog.MakeDoor) -> None:
    dialog.run(script, mode, make_door)


def test_each_protocol_has_scripts() -> None:
    for name in DOORS:
        assert list((SCRIPTS / name).glob("*.dialog")), name


def test_a_failure_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.dialog"
    path.write_text("S: 220 *\nC: NOOP\n# a comment\nS: 999 never\n", "utf-8")
    with pytest.raises(
        dialog.DialogFailure, match=r"wrong\.dialog:4 \(whole\): expected '999 never', got '250"
    ):
        dialog.run(dialog.load(path), "whole", DOORS["smtp"])
