"""Mailbox names: there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.store import names
from filterd.store.base import BadName


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("INBOX", ""),
        ("inbox", ""),
        ("Inbox/Sub", ".INBOX.Sub"),
        ("a/b", ".a.b"),
        ("a.b", ".a&AC4-b"),
        ("Entwürfe", ".Entw&APw-rfe"),
        ("a&b", ".a&-b"),
        ("日本語", ".&ZeVnLIqe-"),
        ("😀", ".&2D3eAA-"),
        ("filterd", ".&AGY-ilterd"),
        ("x/filterd", ".x.filterd"),
        ("~peter", ".~peter"),
    ],
)
def test_directories(name: str, directory: str) -> None:
    assert names.encode_directory(names.normalise(name)) == directory
    if directory:
        assert names.decode_directory(directory) == names.normalise(name)


@pytest.mark.slow
@given(st.text(max_size=60))
def test_what_is_accepted_comes_back(name: str) -> None:
    try:
        good = names.normalise(name)
    except BadName:
        return
    assert names.normalise(good) == good
    directory = names.encode_directory(good)
    assert len(directory) <= 255
    assert "/" not in directory
    assert directory not in (".", "..")
    assert not directory.startswith(".filterd")
    if directory:
        assert names.decode_directory(directory) == good


@given(st.text(alphabet=".&-,AaBb/ü\xff", max_size=20))
def test_any_directory_can_be_looked_at(directory: str) -> None:
    name = names.decode_directory("." + directory)
    assert name is None or names.normalise(name) == name


def test_composed_and_decomposed_letters_are_one_name() -> None:
    assert names.normalise("u\u0308") == "ü"


def test_foreign_directories() -> None:
    assert names.decode_directory(".Entwürfe") == "Entwürfe"
    assert names.decode_directory(".a&b") == "a&b"
    assert names.decode_directory(".a..b") is None
    assert names.decode_directory(".filterd") is None
    assert names.decode_directory("cur") is None
