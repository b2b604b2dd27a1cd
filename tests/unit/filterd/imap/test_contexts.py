"""Results that are kept current (RFC 5267), over the memory store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Client


def test_a_search_follows_what_happens(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(4)
    client, other = connect(), connect()
    assert client.ok("UID SEARCH RETURN (COUNT UPDATE) UNSEEN") == ['* ESEARCH (TAG "t3") UID COUNT 4']
    other.ok(r"STORE 2 +FLAGS (\Seen)")
    assert client.ok("NOOP") == [
        r"* 2 FETCH (FLAGS (\Seen))",
        '* ESEARCH (TAG "t3") UID REMOVEFROM (0 2)',
    ]
    fill(2, first=5)
    assert client.ok("NOOP") == ["* 6 EXISTS", '* ESEARCH (TAG "t3") UID ADDTO (0 5:6)']
    client.ok(r"STORE 2 -FLAGS.SILENT (\Seen)")
    other.ok(r"STORE 1,2 +FLAGS.SILENT (\Deleted)")
    other.ok("EXPUNGE")
    told = client.ok("NOOP")
    assert told.index('* ESEARCH (TAG "t3") UID REMOVEFROM (0 1:2)') < told.index("* 1 EXPUNGE")


def test_own_changes_count(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(3)
    client = connect()
    client.ok("SEARCH RETURN (UPDATE) UNSEEN")
    assert client.ok(r"UID STORE 2 +FLAGS.SILENT (\Seen)") == ['* ESEARCH (TAG "t3") REMOVEFROM (0 2)']
    assert client.ok(r"STORE 1 +FLAGS.SILENT (\Deleted)") == []
    assert client.ok("EXPUNGE") == ['* ESEARCH (TAG "t3") REMOVEFROM (0 1)', "* 1 EXPUNGE"]
    assert client.ok(r"STORE 1 -FLAGS.SILENT (\Seen)") == ['* ESEARCH (TAG "t3") ADDTO (0 1)']


def test_a_sorted_result_tells_positions(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(3)
    client, other = connect(), connect()
    first = client.ok("UID SORT RETURN (ALL CONTEXT UPDATE) (REVERSE SUBJECT) UTF-8 UNDELETED")
    assert first == ['* ESEARCH (TAG "t3") UID ALL 3,2,1']
    fill(1, first=4)
    assert client.ok("NOOP") == ["* 4 EXISTS", '* ESEARCH (TAG "t3") UID ADDTO (1 4)']
    other.ok(r"STORE 2,3 +FLAGS.SILENT (\Deleted)")
    assert client.ok("NOOP")[-1] == '* ESEARCH (TAG "t3") UID REMOVEFROM (3 2 2 3)'
    other.ok(r"STORE 2 -FLAGS.SILENT (\Deleted)")
    assert client.ok("NOOP")[-1] == '* ESEARCH (TAG "t3") UID ADDTO (2 2)'


def test_cancel_and_refuse(connect: Callable[..., Client], fill: Callable[..., None]) -> None:
    fill(2)
    client = connect()
    client.ok("UID SEARCH RETURN (UPDATE) ALL")
    client.ok('CANCELUPDATE "t3" "other"')
    fill(1, first=3)
    assert client.ok("NOOP") == ["* 3 EXISTS"]
    assert client.ok("SEARCH RETURN (UPDATE) 1:2")[-1].startswith('* NO [NOUPDATE "t6"]')
    for _ in range(8):
        assert len(client.ok("SEARCH RETURN (UPDATE) ALL")) == 1
    assert "NOUPDATE" in client.ok("SEARCH RETURN (UPDATE) ALL")[-1]
    assert client("CANCELUPDATE t3")[-1].startswith("BAD")
    client.ok("SELECT INBOX")
    fill(1, first=4)
    assert client.ok("NOOP") == ["* 4 EXISTS"]


@pytest.mark.parametrize("search", ["SUBJECT 2", "BODY three", "OR SEEN SUBJECT 2", "NOT FLAGGED"])
def test_what_is_told_adds_up_to_a_new_search(
    connect: Callable[..., Client], fill: Callable[..., None], search: str
) -> None:
    fill(3)
    client, other = connect(), connect()
    found = set(numbers(client.ok(f"UID SEARCH RETURN (ALL UPDATE) {search}")[0]))
    steps = (
        r"UID STORE 1 +FLAGS (\Seen \Flagged)",
        r"UID STORE 2 +FLAGS (\Deleted)",
        "EXPUNGE",
        r"UID STORE 1 -FLAGS (\Flagged \Seen)",
    )
    for turn, step in enumerate(steps):
        fill(3, first=4 + 10 * turn)
        other.ok("NOOP")
        other.ok(step)
        for line in client.ok("NOOP"):
            if " ADDTO " in line:
                found |= set(numbers(line))
            elif " REMOVEFROM " in line:
                found -= set(numbers(line))
        assert found == set(numbers(client.ok(f"UID SEARCH RETURN (ALL) {search}")[0])), step


def numbers(line: str) -> list[int]:
    """The UIDs at its end."""
    last = line.rstrip(")").rpartition(" ")[2]
    if not last[0].isdigit():
        return []
    found: list[int] = []
    for part in last.split(","):
        low, _, high = part.partition(":")
        found += range(int(low), int(high or low) + 1)
    return found
