"""Keys and values are found where they stand."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filterd.config.positions import Place, locate

TEXT = '''\
# comment = 1
a = 1
"b c" = "x" # d = 2
d.e = [1, 2,
  3, { f = 4 }]
s = """
g = 5
"""
t = \'\'\'
h = 6\'\'\'

[one.two]
three = true
  four   =   { five = "5", six = [7] }
[[many]]
x = "a]b"
[many.in]
y = 1
[[many]]
x = 2
'''


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("a",), (2, 1), (2, 5)),
        (("b c",), (3, 1), (3, 9)),
        (("d", "e"), (4, 1), (4, 7)),
        (("d", "e", 1), None, (4, 11)),
        (("d", "e", 3, "f"), (5, 8), (5, 12)),
        (("s",), (6, 1), (6, 5)),
        (("t",), (9, 1), (9, 5)),
        (("one", "two"), (12, 1), (12, 1)),
        (("one", "two", "three"), (13, 1), (13, 9)),
        (("one", "two", "four"), (14, 3), (14, 14)),
        (("one", "two", "four", "six"), (14, 28), (14, 34)),
        (("many", 0), (15, 1), (15, 1)),
        (("many", 0, "x"), (16, 1), (16, 5)),
        (("many", 0, "in", "y"), (18, 1), (18, 5)),
        (("many", 1, "x"), (20, 1), (20, 5)),
        (("absent",), (1, 1), (1, 1)),
        (("one", "two", "absent"), (12, 1), (12, 1)),
    ],
)
def test_places(path, key, value) -> None:
    places = locate(TEXT)
    if key is not None:
        assert places.key(path) == Place(*key)
    assert places.value(path) == Place(*value)


def test_windows_line_ends_count_as_one() -> None:
    assert locate("a = 1\r\nb = 2\r\n").key(("b",)) == Place(2, 1)


KEYS = st.text("abcXYZ09_-", min_size=1, max_size=8)
VALUES = st.sampled_from(
    [
        "1",
        "true",
        '"x # y"',
        "'[z]'",
        "[1, 2]",
        "[\n  1,\n  2, # c\n]",
        "{ k = 1 }",
        '"""\na = 1\n"""',
        "1979-05-27",
    ]
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=12, unique_by=lambda pair: pair[0]))
@settings(max_examples=60, deadline=None)
def test_every_key_of_a_valid_document_is_found_on_its_line(pairs) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in pairs)
    tomllib.loads(text)
    places = locate(text)
    lines = text.split("\n")
    for key, _ in pairs:
        place = places.keys[(key,)]
        assert lines[place.line - 1].startswith(f"{key} =")


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_it_ends_on_any_text(text: str) -> None:
    locate(text)
