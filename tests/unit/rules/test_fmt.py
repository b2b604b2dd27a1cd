"""The formatter: the tree stays, comments stay, twice is once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.ast import print_commands
from rules.errors import ScriptErrors
from rules.fmt import format_script
from rules.parser import parse

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted([*ROOT.glob("tests/scripts/sieve/**/*.s*"), *ROOT.glob("rules/library/*.sieve")])


def test_layout() -> None:
    text = (
        'REQUIRE ["fileinto" , "envelope"];\n# who\n\n\n\nif anyof(header :is "a" "b",  size :over 10k)'
        '{fileinto "A";# here\nkeep;}\n\nelsif true{stop;} else {discard;}\n'
    )
    assert format_script(text) == (
        'require ["fileinto", "envelope"];\n# who\n\nif anyof (header :is "a" "b", size :over 10K) {\n'
        '    fileinto "A";  # here\n    keep;\n} elsif true {\n    stop;\n} else {\n    discard;\n}\n'
    )


def test_long_lists_stand_one_item_a_line() -> None:
    items = [f"somebody-{number}@example.org" for number in range(9)]
    text = 'if address "from" [' + ", ".join(f'"{item}"' for item in items) + "] { stop; }"
    lines = format_script(text).splitlines()
    assert lines[0] == 'if address "from" ['
    assert lines[1:10] == [f'    "{item}"' + ("," if item != items[-1] else "") for item in items]
    assert lines[10:] == ["] {", "    stop;", "}"]


def test_texts_and_comments_in_statements() -> None:
    text = 'if header "a" [ # one\n"b", /* two */ "c"] {\nvacation text: # three\nHello\n..\n.\n;\n}\n'
    new = format_script(text)
    assert format_script(new) == new
    assert all(word in new for word in ("# one", "/* two */", "# three"))
    assert print_commands(parse(text)[0].commands) == print_commands(parse(new)[0].commands)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n", "/* a */ keep;", "\ufeffkeep;"])
def test_small_texts(text: str) -> None:
    new = format_script(text)
    assert format_script(new) == new


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_of_the_tree(path: Path) -> None:
    text = path.read_text()
    script, errors = parse(text)
    if errors:
        with pytest.raises(ScriptErrors):
            format_script(text)
        return
    new = format_script(text)
    again, errors = parse(new)
    assert not errors
    assert print_commands(script.commands) == print_commands(again.commands)
    assert format_script(new) == new
    assert text.count("#") == new.count("#")
