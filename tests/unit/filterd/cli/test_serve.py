"""filterd/cli/serve.py: what is refused before anything is bound."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from filterd.cli import CliError
from filterd.cli.serve import check_packages


def test_a_package_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages()
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rules", raising=False)
    with pytest.raises(CliError, match="environment of its own"):
        check_packages()
