"""Programs and files that aliases lead to: what is allowed, from where, and which words are no program and no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.accounts import aliasfile
from filterd.accounts.outlets import ALIAS, FORWARD, INCLUDE, Outlet, Permits, decoded

ALL = frozenset({ALIAS, FORWARD, INCLUDE})
OPEN = Permits(ALL, ALL, ("/srv/lists", "/srv/people/%{user}"), "/usr/lib/filters")


@pytest.mark.parametrize(
    ("text", "outlet"),
    [
        ("|take", Outlet("take")),
        ("| take -x 'a b' \"c d\" e\\ f", Outlet("take", ("-x", "a b", "c d", "e f"))),
        ("|/usr/lib/filters/take", Outlet("take")),
        ("|/usr/lib//filters/take", Outlet("take")),
        ("|take '$x; | `y`' \"a;b\" \\$1", Outlet("take", ("$x; | `y`", "a;b", "$1"))),
        ("/srv/lists/a", Outlet(path="/srv/lists/a")),
        ("/srv/lists/a/b/", Outlet(path="/srv/lists/a/b/")),
        ("/dev/null", Outlet(path="/dev/null")),
    ],
)
def test_what_is_followed(text: str, outlet: Outlet) -> None:
    found = OPEN.outlet(text, ALIAS)
    assert found == outlet and decoded(found.encode()) == found and OPEN.holds(found) == ""
    assert OPEN.outlet(str(found), ALIAS) == found  # as people are told it


@pytest.mark.parametrize(
    "written",
    [
        "\"|/usr/lib/filters/take 'a, b' c\"",
        "|\"/usr/lib/filters/take 'a, b' c\"",
        '| "take \\"a, b\\" c"',
        '"|take \\"a, b\\" c"',
        '|"take a\\\\,\\\\ b c"',
    ],
)
def test_the_two_ways_to_quote_a_command_in_an_alias(written: str) -> None:
    """sendmail and Postfix take the quotes, and the backslashes in them, away wherever they stand."""
    table = aliasfile.read("aliases", f"list: {written}, ann\n", "/etc/aliases", "us.example", permits=OPEN)
    entry = table.find("list", "us.example")
    assert entry is not None and entry.targets == ("ann@us.example",)
    assert entry.outlets == (Outlet("take", ("a, b", "c")),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("|", "names no program"),
        ("|''", "cannot be the name"),
        ("|/usr/bin/perl x", "not in exec.directory"),
        ("|../filters/take", "not in exec.directory"),
        ("|/usr/lib/filters/../../bin/sh", "not in exec.directory"),
        ("|/usr/lib/filters/", "cannot be the name"),
        ("|.hidden", "cannot be the name"),
        ("|take; rm x", "needs a shell (;)"),
        ("|IFS=' ' && exec take", "needs a shell (&)"),
        ("|take $HOME", "needs a shell ($)"),
        ('|take "$HOME"', "needs a shell ($)"),
        ("|take `id`", "needs a shell (`)"),
        ("|take > /tmp/x", "needs a shell (>)"),
        ("|take *", "needs a shell (*)"),
        ("|take 'x", "quote that is not closed"),
        ("|take " + "x " * 65, "more than 64"),
        ("|take " + "x" * 9000, "longer one"),
        ("/", "write the whole path"),
        ("//srv/lists/x", "write the whole path"),
        ("/srv/lists/../../etc/passwd", "write the whole path"),
        ("/srv/lists/./x", "write the whole path"),
        ("/srv/lists//x", "write the whole path"),
        ("/srv/lists/a\nb", "write the whole path"),
        ("/srv/lists", "not below a folder"),
        ("/srv/lists/", "not below a folder"),
        ("/srv/listsx/a", "not below a folder"),
        ("/etc/passwd", "not below a folder"),
        ("/srv/people/ann/x", "not below a folder"),  # for her .forward only
        ("/dev/null/", "not below a folder"),
    ],
)
def test_what_is_not(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # the words are looked at
        OPEN.outlet(text, ALIAS)
    assert why in str(caught.value)


def test_a_forward_writes_only_where_its_user_may() -> None:
    assert OPEN.outlet("/srv/people/ann/x", FORWARD, "ann") == Outlet(path="/srv/people/ann/x", owner="ann")
    for path, who in (("/srv/people/bob/x", "ann"), ("/srv/lists/x", "ann"), ("/srv/people/../lists/x", ".."),
                      ("/srv/people/a/b/x", "a/b")):  # fmt: skip
        with pytest.raises(ValueError, match=r"folder|whole path"):
            OPEN.outlet(path, FORWARD, who)


@pytest.mark.parametrize("kind", sorted(ALL))
def test_each_kind_has_its_switch(kind: str) -> None:
    others = ALL - {kind}
    with pytest.raises(ValueError, match=f'mail_to_commands does not allow here ."{kind}"'):
        Permits(others, ALL, ("/srv/lists",)).outlet("|x", kind)
    with pytest.raises(ValueError, match=f'mail_to_files does not allow here ."{kind}"'):
        Permits(ALL, others, ("/srv/lists",)).outlet("/srv/lists/x", kind)
    assert Permits(frozenset({kind})).outlet("|x", kind) == Outlet("x")


def test_what_waits_is_asked_for_once_more() -> None:
    waiting = OPEN.outlet("/srv/lists/a", ALIAS)
    assert "any more" in Permits(ALL, ALL, ("/srv/other",)).holds(waiting)
    assert "any more" in Permits(ALL).holds(waiting)
    assert Permits(files=frozenset({FORWARD}), folders=("/srv/lists",)).holds(waiting)
    assert decoded("") is None and decoded("[]") is None and decoded("{}") is None


def test_lines_of_a_file() -> None:
    text = (
        "a: x, |take 'a, b', /srv/lists/a\n"
        'b: "|take \\"a, b\\"",\n   "/srv/lists/b c/"\n'
        "c: x,\n\t# note |bad\n    |bad;\n"
        "d: x, no good\n"
        "e: :include:/list\n"
        "f: |take, |take, /dev/null\n"
    )
    table = aliasfile.read("aliases", text, "f", "us.example", lambda path: "|take in\n/srv/lists/i\n", OPEN)
    names = table.names
    assert names["b"].told == "|take 'a, b', /srv/lists/b c/" and names["f"].told == "|take, /dev/null"
    assert names["e"].told == "|take in, /srv/lists/i"
    assert names["c"].refused and not names["c"].outlets and not names["c"].targets
    assert [(fault.place, fault.lost) for fault in table.faults] == [
        ("1:7", False),
        ("6:5", False),
        ("7:7", True),
    ]
    assert "d" not in names


def test_includes_have_a_switch_of_their_own(tmp_path: Path) -> None:
    permits = Permits(frozenset({ALIAS}), ALL, ("/srv/lists",))
    table = aliasfile.read(
        "aliases", "e: :include:/list\n", "f", "us.example", lambda path: "|take\n", permits
    )
    assert '"include"' in table.names["e"].refused and table.faults[0].place == "1:4"


def test_virtual_tables_have_no_programs_and_files() -> None:
    table = aliasfile.read("hash", "a |take\nb /srv/lists/b\n", "f", "us.example", None, OPEN)
    assert [fault.line for fault in table.faults] == [1]
    assert table.names["b"].targets == ("/srv/lists/b@us.example",)  # an address, as in Postfix
