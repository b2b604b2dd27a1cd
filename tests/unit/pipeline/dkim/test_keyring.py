"""Which keys sign for whom."""

from __future__ import annotations

import pytest

from pipeline.adapters.crypto import KeyProblem, PrivateKey
from pipeline.dkim.keyring import SigningKey, TableError, opendkim_tables, own_domains
from rules.mail.header import scan

KEYS = """
# name   domain:selector:path
main     example.org:2026a:/keys/a
second   example.org:2026e:/keys/b
any      %:s:/keys/a
"""


def message(author: bytes) -> bytes:
    return b"From: " + author + b"\r\nSubject: x\r\n\r\nhi\r\n"


@pytest.fixture
def files(rsa_key: PrivateKey, ed_key: PrivateKey) -> dict[str, PrivateKey]:
    return {"/keys/a": rsa_key, "/keys/b": ed_key}


def read(files: dict[str, PrivateKey], path: str) -> PrivateKey:
    if path not in files:
        raise KeyProblem("no such key")
    return files[path]


@pytest.mark.parametrize(
    ("table", "refile", "author", "expected"),
    [
        ("example.org main", False, "ann@example.org", ["example.org/2026a"]),
        ("example.org main,second", False, "Ann@Example.Org", ["example.org/2026a", "example.org/2026e"]),
        ("@example.org main", False, "ann@mail.example.org", []),
        (".example.org any", False, "ann@mail.example.org", ["mail.example.org/s"]),
        ("ann@example.org second\nexample.org main", False, "ann@example.org", ["example.org/2026e"]),
        ("ann@example.org second\nexample.org main", False, "bob@example.org", ["example.org/2026a"]),
        ("*@example.org main", True, "bob@example.org", ["example.org/2026a"]),
        ("*@*.example.org any", True, "bob@x.example.org", ["x.example.org/s"]),
        ("*@example.org main", True, "bob@example.net", []),
    ],
)
def test_opendkim_tables(
    files: dict[str, PrivateKey], table: str, refile: bool, author: str, expected: list[str]
) -> None:
    ring = opendkim_tables(KEYS, table, lambda path: read(files, path), refile)
    assert [f"{key.domain}/{key.selector}" for key in ring.keys_for(author)] == expected


@pytest.mark.parametrize(
    ("keys", "table", "why"),
    [
        ("main example.org:2026a", "", "KeyTable line 1"),
        ("main", "", "KeyTable line 1"),
        ("main example.org:s:/missing", "", "no such key"),
        (KEYS, "example.org other", "no key is called other"),
        (KEYS, "\n\nexample.org", "SigningTable line 3"),
    ],
)
def test_bad_tables(files: dict[str, PrivateKey], keys: str, table: str, why: str) -> None:
    with pytest.raises(TableError, match=why):
        opendkim_tables(keys, table, lambda path: read(files, path))


def test_signing_with_all_keys_of_the_author(rsa_key: PrivateKey, ed_key: PrivateKey) -> None:
    ring = own_domains(
        [
            SigningKey("example.org", "r", rsa_key),
            SigningKey("example.org", "e", ed_key),
            SigningKey("xn--bcher-kva.example", "e", ed_key),
        ]
    )
    block = scan(ring.sign(message(b"Ann <ann@example.org>")) + b"\r\n")
    assert [field.lname for field in block.fields] == [b"dkim-signature"] * 2
    assert ring.sign(message(b"ann@example.net")) == b""
    assert ring.sign(message(b"ann@example.org, bob@example.net")) == b""
    assert ring.sign(message(b"nobody")) == b""
    assert b"d=xn--bcher-kva.example" in ring.sign(message("ann@bücher.example".encode()))
