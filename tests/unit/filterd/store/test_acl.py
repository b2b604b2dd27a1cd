"""Rights, and the list that is kept with a mailbox."""

from __future__ import annotations

import pytest

from filterd.store.acl import (
    ALL,
    ANYONE,
    Acl,
    BadRights,
    identifier,
    parse_rights,
    permitted,
    read_only,
    show_rights,
)

BOB = "bob@example.org"


def test_rights() -> None:
    assert parse_rights("lrs") == frozenset("lrs")
    assert parse_rights("c") == frozenset("kx") and parse_rights("d") == frozenset("te")
    assert show_rights("ts") == "std" and show_rights("") == ""
    assert show_rights(ALL) == "lrswipkxteacd"
    for wrong in ("z", "L", "0", "l r"):
        with pytest.raises(BadRights):
            parse_rights(wrong)
    assert permitted(("\\SEEN", "\\Deleted", "\\Flagged", "word"), frozenset("w")) == ["\\Flagged", "word"]
    assert read_only(frozenset("lrpkxa")) and not read_only(frozenset("s"))


def test_identifiers() -> None:
    assert identifier("Ann@Example.org", BOB) == "ann@example.org"
    assert identifier("ann", BOB) == "ann@example.org"
    assert identifier("-ann", BOB) == "-ann@example.org"
    assert identifier("anyone", BOB) == ANYONE and identifier("ann", "bob") == "ann"
    for wrong in ("", "-", "--ann", "a b", "a\tb", "a\nb", "a\x7f", "a" * 400):
        with pytest.raises(BadRights):
            identifier(wrong, BOB)


def test_a_list() -> None:
    acl = Acl().changed("ann", "", frozenset("lr")).changed(ANYONE, "", frozenset("l"))
    acl = acl.changed("-cat", "", frozenset("l")).changed("ann", "+", frozenset("s"))
    assert Acl.parse(acl.render()) == acl
    assert acl.of("ann") == frozenset("lrs") and acl.of("dan") == frozenset("l") and not acl.of("cat")
    assert acl.readers == {"ann", ANYONE}
    assert not acl.changed("-anyone", "", ALL).of("ann")
    empty = acl.changed("ann", "-", ALL).changed(ANYONE, "", frozenset()).changed("-cat", "-", frozenset("l"))
    assert empty.render() is None and not empty.entries
    assert Acl.parse("nonsense\n\tlr\nann\tzz\nbob\tlrz").entries == {"bob": frozenset("lr")}
