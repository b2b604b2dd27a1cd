"""Config check and ``accounts.allow``: what is missing, what contradicts itself, each with its line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.config.errors import ConfigErrors
from filterd.config.load import parse

HEAD = '[server]\nhostname = "m.us.example"\n[[domain]]\nname = "us.example"\n'
EXEC = '[exec]\nsocket = "/run/x"\ndirectory = "/usr/lib/filters"\n'


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('mail_to_commands = ["alias"]', (6, 20), "exec.socket"),
        ('mail_to_commands = ["aliases"]', (6, 20), "aliases"),
        ('mail_to_files_in = ["lists"]', (6, 20), "whole path"),
        ('mail_to_files_in = ["/srv/../etc"]', (6, 20), "whole path"),
        ('mail_to_files_in = ["/"]', (6, 20), "whole path"),
        ('mail_to_files_in = ["/srv/%{domain}"]', (6, 20), "whole part"),
        ('mail_to_files_in = ["/srv/x%{user}"]', (6, 20), "whole part"),
        ("mail_to_file = []", (6, 1), "mail_to_files"),
    ],
)
def test_problems(text: str, place: tuple[int, int], words: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(f"{HEAD}[accounts.allow]\n{text}\n")
    found = caught.value.errors[0]
    assert words in f"{found.about} {found.text} {found}"
    assert (found.line, found.column) == place


def test_warnings(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    text = (
        f'[accounts.allow]\nmail_to_commands = ["forward"]\nmail_to_files = ["forward"]\n'
        f'mail_to_files_in = ["{tmp_path}/open", "{tmp_path}/absent"]\n{EXEC}'
    )
    said = " | ".join(f"{one.line} {one.about} {one.text}" for one in parse(HEAD + text).warnings)
    for words in (
        "others may write there",
        "No such file",
        "no folder has %{user}",
        "forward.enabled is off",
    ):
        assert words in said
    said = " ".join(
        one.text for one in parse(f'{HEAD}[accounts.allow]\nmail_to_files = ["alias"]\n').warnings
    )
    assert "nothing but /dev/null" in said


def test_what_is_right() -> None:
    text = (
        '[accounts.allow]\nmail_to_commands = ["alias", "include"]\nmail_to_files = ["alias"]\n'
        f'mail_to_files_in = ["/srv/%{{user}}/mail", "/tmp"]\n{EXEC}'
    )
    assert parse(HEAD + text).accounts.allow.mail_to_commands == ("alias", "include")
