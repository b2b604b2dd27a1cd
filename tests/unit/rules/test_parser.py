"""Syntax trees, recovery, limits, printing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.ast import Command, Number, Strings, Tag, Test, print_commands
from rules.limits import Limits
from rules.parser import parse


def codes(text: str) -> list[tuple[int, str]]:
    return [(error.line, error.code) for error in parse(text)[1]]


def test_tree() -> None:
    script, errors = parse('if anyof (true, not size :over 5K) { fileinto "a"; } else { keep; }')
    assert errors == []
    first, second = script.commands
    assert (first.name, first.listed, [test.name for test in first.tests]) == ("if", False, ["anyof"])
    anyof = first.tests[0]
    assert anyof.listed and [test.name for test in anyof.tests] == ["true", "not"]
    size = anyof.tests[1].tests[0]
    assert size.shape == (":over", "N")
    assert isinstance(size.args[1], Number) and size.args[1].value == 5120
    assert first.block is not None and first.block[0].shape == ("S",)
    assert second.name == "else"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keep", [(1, "semicolon")]),
        ("keep\n}", [(2, "semicolon"), (2, "syntax")]),
        ('fileinto ["a" "b"];\nkeep;\nstop', [(1, "syntax"), (3, "semicolon")]),
        ("if true {", [(1, "unclosed-block")]),
        ("if anyof (true,) { }\nkeep 5 5;", [(1, "syntax")]),
        ("fileinto [];", [(1, "syntax")]),
        ("; keep;", [(1, "syntax")]),
        ('fileinto "a;\nkeep;', [(1, "unterminated-string")]),
    ],
)
def test_errors(text: str, expected: list[tuple[int, str]]) -> None:
    assert codes(text) == expected


def test_recovers_at_the_next_statement() -> None:
    script, errors = parse("keep, keep;\nstop;\nif true { foo, } discard;")
    assert [error.line for error in errors] == [1, 3]
    assert [command.name for command in script.commands if command.name] == ["stop", "if", "discard"]


def test_nesting() -> None:
    limit = Limits().nesting
    assert codes("if true {" * limit + "}" * limit) == []
    assert codes("if true {" * (limit + 1) + "}" * (limit + 1)) == [(1, "nesting")]
    assert codes("if " + "not " * (limit - 1) + "true {}") == []
    assert codes("if " + "not " * limit + "true {}") == [(1, "nesting")]
    assert [code for _, code in codes("if true {" * 100_000)] == ["unclosed-block", "nesting"]


def test_limits() -> None:
    assert parse("keep;" * 10, Limits(script_size=20))[1][0].code == "script-size"
    assert codes("keep " + '"a" ' * 33 + ";") == [(1, "arguments")]
    many = "$;" * 1000
    assert len(parse(many, Limits(errors=7))[1]) == 7


_NAMES = st.sampled_from(["keep", "stop", "foo", "x_1"])
_TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r\n"), max_size=12)
_STRINGS = st.one_of(
    st.builds(lambda value: Strings((value,), 0), _TEXT),
    st.builds(
        lambda values: Strings(tuple(values), 0, True, (0,) * len(values)),
        st.lists(_TEXT, min_size=1, max_size=3),
    ),
)
_ARGS = st.lists(
    st.one_of(
        _STRINGS,
        st.builds(lambda value: Number(value, 0), st.integers(0, 2**64 - 1)),
        st.builds(lambda name: Tag(name, 0), st.sampled_from(["is", "over", "a_b"])),
    ),
    max_size=3,
)
_TESTS = st.recursive(
    st.builds(lambda name, args: Test(name, 0, args), _NAMES, _ARGS),
    lambda inner: st.builds(
        lambda name, args, tests, listed: Test(name, 0, args, (), tests, listed or len(tests) > 1),
        _NAMES,
        _ARGS,
        st.lists(inner, min_size=1, max_size=3),
        st.booleans(),
    ),
    max_leaves=6,
)


def _command(
    name: str, args: list[object], tests: list[Test], listed: bool, block: list[Command] | None
) -> Command:
    return Command(name, 0, args, (), tests, bool(tests) and (listed or len(tests) > 1), block)  # type: ignore[arg-type]  # drawn


_COMMANDS = st.recursive(
    st.builds(_command, _NAMES, _ARGS, st.lists(_TESTS, max_size=2), st.booleans(), st.none()),
    lambda inner: st.builds(
        _command, _NAMES, _ARGS, st.lists(_TESTS, max_size=2), st.booleans(), st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.lists(_COMMANDS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_print_then_parse(commands: list[Command]) -> None:
    text = print_commands(commands)
    script, errors = parse(text)
    assert errors == []
    assert print_commands(script.commands) == text


@given(st.text(st.sampled_from('if not anyof(){}[];,"\\#/*:a1K\n.text:keep'), max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_is_reported(text: str) -> None:
    script, errors = parse(text)
    for error in errors:
        assert error.line >= 1 and error.column >= 1 and error.message
    assert errors or print_commands(script.commands) is not None
