"""Tokens: kinds, values, offsets, faults."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.lexer import _BLANK, IDENTIFIER, NUMBER, PUNCTUATION, STRING, TAG, Tokens, _run, _whole, tokenize
from rules.limits import DEFAULT, Limits


def tokens(text: str) -> list[tuple[int, str]]:
    found = tokenize(text, Limits())
    assert found.faults == []
    return list(zip(found.kinds, found.values, strict=True))[:-1]


def faults(text: str) -> list[str]:
    return [fault.code for fault in tokenize(text, Limits()).faults]


def test_kinds_and_case() -> None:
    assert tokens('IF Header :Is ["A", 5K];') == [
        (IDENTIFIER, "if"),
        (IDENTIFIER, "header"),
        (TAG, "is"),
        (PUNCTUATION, "["),
        (STRING, "A"),
        (PUNCTUATION, ","),
        (NUMBER, "5"),
        (PUNCTUATION, "]"),
        (PUNCTUATION, ";"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("7k", 7 << 10), ("3M", 3 << 20), ("1G", 1 << 30), ("18446744073709551615", 2**64 - 1)],
)
def test_numbers(text: str, value: int) -> None:
    assert tokenize(text, Limits()).numbers == {0: value}


@pytest.mark.parametrize("text", ["18446744073709551616", "17179869184G", "9" * 100_000])
def test_numbers_too_large(text: str) -> None:
    assert faults(text) == ["number-size"]


@pytest.mark.parametrize("text", ["12abc", "1kb", "0x10"])
def test_not_numbers(text: str) -> None:
    assert faults(text) == ["number"]


def test_strings() -> None:
    assert tokens(r'"a\"b\\c\d"') == [(STRING, 'a"b\\cd')]
    assert tokens('"a\nb\r\nc"') == [(STRING, "a\r\nb\r\nc")]


def test_multiline() -> None:
    text = "text: # comment\n..dot\n.x\nline\n.\n;"
    assert tokens(text) == [(STRING, ".dot\r\n.x\r\nline\r\n"), (PUNCTUATION, ";")]
    assert tokens("TEXT:\r\n.\r\n") == [(STRING, "")]
    assert tokens("text:\na\n.") == [(STRING, "a\r\n")]


def test_comments() -> None:
    assert tokens("# a\n/* b * / \n c */ keep /**/ ; # end") == [(IDENTIFIER, "keep"), (PUNCTUATION, ";")]
    # RFC 5228 2.3: bracket comments do not nest
    assert tokens("/* /* */ keep") == [(IDENTIFIER, "keep")]


def test_offsets() -> None:
    found = tokenize('  # x\n keep :tag "s" 5K text:\n.\n;', Limits())
    assert [found.positions[index] for index in range(6)] == [7, 12, 17, 21, 24, 32]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('"abc', "unterminated-string"),
        ("/* abc", "unterminated-comment"),
        ("text:\nabc", "unterminated-text"),
        ("keep $$$;", "character"),
        ("a\0b", "nul"),
        ("x" * 33, "identifier-length"),
    ],
)
def test_faults(text: str, code: str) -> None:
    assert code in faults(text)


def test_string_limit() -> None:
    found = tokenize('"' + "x" * 11 + '"', Limits(string_size=10))
    assert [fault.code for fault in found.faults] == ["string-length"]


@pytest.mark.parametrize(
    "text", ['"' * 100_001, "/*" * 50_000, "\\" * 100_000, "text:\n" * 20_000, "#" * 100_000]
)
def test_linear_on_hostile_text(text: str) -> None:
    tokenize(text, Limits())


PIECES = (
    *('"', "\\", "text:", "\n.\n", "\n", ".", "\r\n", " ", "#", "/*", "*/", "/", "a", "Text:", ":", "1", "K"),
    *(
        "9G",
        "9" * 22,
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ",",
        ";",
        "é",
        "\0",
        "_",
        "if",
        '"a"',
        '"$\\{b}"',
        "x" * 33,
    ),
    *(
        "..",
        "text",
        "text:\nx\n.\n",
        "text: # c\n..y\n.\n",
        "/* c */",
        "# c\n",
        ":tag",
        "007",
        "5m",
    ),
)


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_all_at_once_is_the_same_as_one_by_one(pieces: list[str]) -> None:
    text = "".join(pieces)
    whole = Tokens()
    if _whole(text, whole, DEFAULT):
        slow = Tokens()
        assert _BLANK.match(text, _run(text, 0, slow, DEFAULT)).end() == len(text)  # type: ignore[union-attr]  # matches ""
        assert whole == slow
        assert not slow.faults
    else:
        assert tokenize(text, DEFAULT).faults
