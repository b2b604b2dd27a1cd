"""What Pigeonhole's compiler says of included scripts: the faults, and one entry more for every script on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rules.compiler import compile_script
from rules.limits import DEFAULT
from rules.testkit.closure import Closure

SCRIPTS = {
    "self": 'require "include"; include "self";',
    "one": 'require "include"; include "two";',
    "two": 'require "include"; include "one";',
    "broken": "foo;\nbar;\n",
    "deep": 'require "include"; include "deeper";',
    "deeper": 'require "include"; include "deepest";',
    "deepest": "keep;",
    "onceself": 'require "include"; include :once "onceself";',
}


def errors(what: str, **limits: int) -> list[str]:
    script = compile_script(f'require "include"; {what}', name="main")
    return Closure(lambda location, name: SCRIPTS.get(name), replace(DEFAULT, **limits)).errors(script)


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ('include "deep";', 0),
        ('include "self";', 3),
        ('include "one";', 4),
        ('include "onceself";', 0),
        ('include "nowhere";', 2),
        ('include :optional "nowhere";', 0),
        ('include "broken";', 4),
        ('include "deep"; include "nowhere"; include "nothing";', 3),
    ],
)
def test_counts(what: str, count: int) -> None:
    assert len(errors(what)) == count


def test_limits() -> None:
    assert errors('include "deep";', include_depth=2)[0] == "cannot nest includes deeper than 2 levels"
    assert len(errors('include "deep";', include_depth=2)) == 4
    assert errors('include "deep";', includes=2)[0].startswith("failed to include script")
    assert not errors('include "deep";', includes=3, include_depth=3)
