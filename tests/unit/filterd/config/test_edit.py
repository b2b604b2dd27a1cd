"""Changing one key of a TOML text: nothing else changes, and what cannot be done so is refused."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.config import describe, schema
from filterd.config.edit import CannotEdit, changed, literal, removed, renamed, steps
from filterd.config.values import BadValue

TEXT = """\
# mine
version = 1
[server]
hostname = "a.example"   # us

# who we are
[[domain]]   # the first
name = 'example.org'
aliases = { info = ["ann@example.org"], "d.e" = "bob@example.org" }

# about mail
[stage]
spf.fail = "note"
[pipeline]
incoming = [ # the order
  "spf",  # who
  # before dmarc
  "dkim",
  "arc"  # chains
  # the end
]
"""


def lines(old: str, new: str) -> tuple[list[str], list[str]]:
    """(gone, new) lines."""
    before, after = old.splitlines(), new.splitlines()
    return [line for line in before if line not in after], [line for line in after if line not in before]


@pytest.mark.parametrize(
    ("path", "value", "gone", "new"),
    [
        (
            ("server", "hostname"),
            "b.example",
            'hostname = "a.example"   # us',
            'hostname = "b.example"   # us',
        ),
        (("server", "workers"), 3, "", "workers = 3"),
        (("domain", 0, "catch_all"), "q@example.org", "", 'catch_all = "q@example.org"'),
        (("stage", "spf", "helo"), False, "", "spf.helo = false"),
        (("stage", "clamav", "found"), "tag", "", 'clamav.found = "tag"'),
    ],
)
def test_one_line_changes(path, value, gone: str, new: str) -> None:
    out = changed(TEXT, path, value)
    assert lines(TEXT, out) == ([gone] if gone else [], [new])


def test_an_inline_table_gets_one_more_and_loses_one() -> None:
    more = changed(TEXT, ("domain", 0, "aliases", "new"), ["z@example.org"])
    assert '"d.e" = "bob@example.org", new = ["z@example.org"] }' in more
    assert removed(more, ("domain", 0, "aliases", "new")) == TEXT
    assert 'aliases = { "d.e" =' in removed(TEXT, ("domain", 0, "aliases", "info"))


def test_a_list_of_several_lines_keeps_its_comments() -> None:
    out = changed(TEXT, ("pipeline", "incoming"), ["dkim", "arc", "dmarc"])
    for line in (
        "incoming = [ # the order",
        "  # before dmarc",
        '  "arc",  # chains',
        '  "dmarc",',
        "  # the end",
    ):
        assert line in out.splitlines()
    assert "# who\n" not in out


def test_a_new_element_and_a_new_table() -> None:
    out = changed(TEXT, ("domain", 1, "name"), "example.net")
    assert out.index('"example.net"') < out.index("# about mail")
    out = changed(TEXT, ("log", "level"), "debug")
    assert out.endswith('\n[log]\nlevel = "debug"\n')


def test_the_sample_is_uncommented_where_it_says_so() -> None:
    sample = describe.sample()
    gone, new = lines(sample, changed(sample, ("stage", "spf", "fail"), "junk"))
    assert (gone, new) == (["# [stage.spf]"], ["[stage.spf]", 'fail = "junk"'])
    out = changed(sample, ("server", "workers"), 2)
    assert '# workers = "auto"\nworkers = 2\n' in out


def test_line_ends_stay() -> None:
    text = TEXT.replace("\n", "\r\n")
    out = changed(text, ("server", "workers"), 3)
    assert out.count("\r\n") == out.count("\n") == text.count("\n") + 1


def test_what_is_not_there_cannot_be_taken_out() -> None:
    with pytest.raises(CannotEdit):
        removed(TEXT, ("server", "workers"))
    with pytest.raises(CannotEdit):
        changed(TEXT, ("domain", 7, "name"), "x.example")


def test_a_table_gets_another_name_in_each_way_of_writing() -> None:
    text = '[stage.spam] # x\njunk_at = 5.0\n[stage]\nspf.fail = "note"\n[a.spam.b]\n'
    assert renamed(text, ("stage", "spam"), "new") == text.replace("[stage.spam]", "[stage.new]")
    assert renamed("spam.a = 1\nspam.b = 2 # c\n", ("spam",), "x") == "x.a = 1\nx.b = 2 # c\n"
    with pytest.raises(CannotEdit):
        renamed("a = 1\nb = 2\n", ("a",), "b")


def test_steps() -> None:
    assert steps('domain[0].aliases."a.b"') == ("domain", 0, "aliases", "a.b")
    assert steps("domain[example.org].name") == ("domain", "[example.org]", "name")
    for wrong in ("a..b", "a[", ".", "a b]"):
        with pytest.raises(BadValue):
            steps(wrong)


values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        ("server", "hostname"), ("server", "x"), ("stage", "spf", "fail"), ("stage", "new", "deep", "er"), ("version",),
        ("domain", 0, "aliases", "d.e"), ("domain", 0, "dkim", "key"), ("pipeline", "incoming"), ("top",), ("domain", 1, "name"),
    ]
)  # fmt: skip


@given(st.lists(st.tuples(keys, values), min_size=1, max_size=4))
def test_any_values_one_after_the_other(edits) -> None:
    text = TEXT
    for path, value in edits:
        text = changed(text, path, value)
        at = tomllib.loads(text)
        for part in path:
            at = at[part]  # type: ignore[assignment]
        assert at == value
    for comment in ("# mine", "# us", "# who we are", "# the first", "# about mail"):
        assert comment in text


@given(values)
def test_literals_are_read_as_they_are_meant(value) -> None:
    assert tomllib.loads(f"x = {literal(value)}")["x"] == value
    with pytest.raises(BadValue):
        literal("\udcff")


@pytest.mark.parametrize("base", ["sample", "smallest", "no last line end"])
def test_every_key_can_be_set_and_taken_out_again(base: str) -> None:
    """In the sample each goes below its own commented-out line; taken out, the file is as it was but for a table's header."""
    small = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"'
    text = {"sample": describe.sample(), "smallest": f"{small}\n", "no last line end": small}[base]
    known = set(text.splitlines())
    for key in schema.all_keys():
        if (
            key.section
            or "[]" in key.name.replace("domain[]", "")
            or key.name in ("server.hostname", "domain[].name")
        ):
            continue
        path = tuple(0 if part == "[]" else part for part in key.name.replace("[]", ".[]").split("."))
        out = changed(text, path, "a value")
        added = [line for line in out.splitlines() if line and line not in known]
        assert len(added) <= 2 and added[-1].endswith('= "a value"'), key.name
        if base == "sample":
            above = out.splitlines()[out.splitlines().index(added[-1]) - 1]
            assert key.name.rpartition(".")[2] in above, key.name
        assert tomllib.loads(removed(out, path)).keys() >= tomllib.loads(text).keys()


def test_each_line_keeps_its_own_end() -> None:
    text = '[server]\r\nhostname = "a.example"\n# note\n[store]\nnewline = "crlf"\n'
    new = changed(text, ("server", "hostname"), "b.example")
    assert new == text.replace("a.example", "b.example").replace('b.example"\r', 'b.example"')
    windows = text.replace("\r\n", "\n").replace("\n", "\r\n")
    assert changed(windows, ("server", "hostname"), "b.example") == windows.replace("a.example", "b.example")
