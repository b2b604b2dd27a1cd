"""UIDL formats as Dovecot reads them, and the file that keeps adopted ones."""

from __future__ import annotations

import pytest

from filterd.store.uidl import Adopted, BadFormat, Format, Names, is_uidl

NAMES = Names(10, 0x6B041A5A, "1500.M1.h", "feed")


@pytest.mark.parametrize(
    ("form", "uidl"),
    [
        ("%08Xu%08Xv", "0000000a6b041a5a"),
        ("%v.%u", f"{0x6B041A5A}.10"),
        ("%f", "1500.M1.h"),
        ("%g", "feed"),
        ("%Xv-%08u%%", "6b041a5a-00000010%"),
        ("UID%u-%v", f"UID10-{0x6B041A5A}"),
        ("%Mf", "c3fe2a5d7c4bb5dcc5bd1c0d6ad8a50e"),
        ("%{uid | hex(8)}%{uidvalidity|hex(8)}", "0000000a6b041a5a"),
        ("%{filename | upper}", "1500.M1.H"),
    ],
)
def test_formats(form: str, uidl: str) -> None:
    made = Format(form)(NAMES)
    if "M" in form[:2]:
        import hashlib

        uidl = hashlib.md5(b"1500.M1.h", usedforsecurity=False).hexdigest()
    assert made == uidl and is_uidl(made)


@pytest.mark.parametrize(
    "form", ["", "constant", "%", "%m", "%x", "%-u", "%{uid", "%{user}", "%{uid | rot13}", "100%% same"]
)
def test_bad_formats(form: str) -> None:
    with pytest.raises(BadFormat):
        Format(form)


def test_the_file_and_what_it_may_be() -> None:
    kept = Adopted("ab" * 16)
    kept.set("P", 5, "UID5-1")
    kept.set("G", 5, "feed")
    assert Adopted.parse(kept.render()) == kept
    for data in (b"", b"x", b"filterd-adopted 2\nP 1 a\n", b"filterd-adopted 1\nP x y\nP 1\nQ 1 a\n\xff\n"):
        assert Adopted.parse(data) == Adopted()
    assert not is_uidl("") and not is_uidl("x" * 71) and not is_uidl("a b") and not is_uidl("ä")
