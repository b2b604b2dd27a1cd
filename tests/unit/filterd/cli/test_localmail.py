"""What arguments of filterd-deliver and filterd-sendmail are believed: filterd/local_text.py."""

from __future__ import annotations

import pytest

from filterd.local_text import is_path


@pytest.mark.parametrize(
    "address", ["", "a@b.example", '"a b"@b.example', "\u00fc@b.example", "a@[192.0.2.1]"]
)
def test_addresses(address: str) -> None:
    assert is_path(address)


@pytest.mark.parametrize(
    "address",
    [
        "a@b>\r\nX-Evil: 1",
        "a@b> SIZE=3",
        "a b@c.example",
        "ann+a>\r\nX-Evil: 2@b.example",
        "a\nb@c.example",
        "a\0@b.example",
        "\udcff@b.example",
        "x" * 300 + "@b.example",
    ],
)
def test_what_is_no_address(address: str) -> None:
    assert not is_path(address)
