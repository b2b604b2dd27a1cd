"""Which addresses can be accounts, and when two are the same."""

import pytest

from filterd.accounts.errors import BadAccount
from filterd.accounts.names import account_id, fold, split


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Ann@Example.ORG", "ann@example.org"),
        ("ann@example.org.", "ann@example.org"),
        ("jörg@example.org", "jörg@example.org"),
        ("jo\u0308rg@bücher.example", "jörg@xn--bcher-kva.example"),
        ("o'hara.j@example.org", "o'hara.j@example.org"),
    ],
)
def test_account_ids(address: str, expected: str) -> None:
    assert account_id(address, "+") == expected


@pytest.mark.parametrize(
    "address",
    [
        "", "ann", "@example.org", "ann@", "../x@example.org", "a/b@example.org", ".ann@example.org", "a..b@example.org",
        "ann.@example.org", "a b@example.org", "a\x00@example.org", "a\nb@example.org", "a+b@example.org",
        '"a b"@example.org', "x" * 65 + "@example.org", "a%b@example.org", "a\u202eb@example.org", "a\\b@example.org",
        '"../../etc"@example.org', "a\u2044b@example.org",
    ],
)  # fmt: skip
def test_names_that_cannot_be_accounts(address: str) -> None:
    with pytest.raises(BadAccount):
        account_id(address, "+")


def test_quotes_are_no_part_of_the_name() -> None:
    assert split('"john \\"x\\" doe"@example.org') == ('john "x" doe', "example.org")
    assert split("a@b@c") == ("a@b", "c")
    assert fold('"Ann"@EXAMPLE.org') == "ann@example.org"
