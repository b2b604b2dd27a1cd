"""Which addresses are asked at all; the rest is in tests/peers/test_sasl.py."""

import pytest

from filterd.accounts.webfetch import FetchFailed, fetch, usable


@pytest.mark.parametrize(
    "url", ["https://login.example/keys?x=1", "http://127.0.0.1:8000/", "http://localhost/x"]
)
def test_usable(url: str) -> None:
    assert usable(url)


@pytest.mark.parametrize(
    "url", ["", "x", "http://login.example/", "ftp://x/", "file:///etc/passwd", "https://", "https://x:port/"]
)
def test_not_usable(url: str) -> None:
    assert not usable(url)
    with pytest.raises(FetchFailed):
        fetch(url)
