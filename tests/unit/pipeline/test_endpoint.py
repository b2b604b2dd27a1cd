"""Sockets in everybody's spelling."""

from __future__ import annotations

import pytest

from pipeline.endpoint import Endpoint, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/clamav/clamd.ctl", Endpoint(path="/run/clamav/clamd.ctl")),
        ("local:/run/x", Endpoint(path="/run/x")),
        ("/run/x:y", Endpoint(path="/run/x:y")),
        ("inet:783@127.0.0.1", Endpoint("127.0.0.1", 783)),
        ("inet6:783@[::1]", Endpoint("::1", 783)),
        ("inet:localhost:783", Endpoint("localhost", 783)),
        ("tcp:localhost:783", Endpoint("localhost", 783)),
        ("localhost:783", Endpoint("localhost", 783)),
        ("[::1]:783", Endpoint("::1", 783)),
        ("[::1]", Endpoint("::1", 11)),
        ("INET:783@localhost", Endpoint("localhost", 783)),
        ("Local:/run/x", Endpoint(path="/run/x")),
        ("localhost", Endpoint("localhost", 11)),
    ],
)
def test_spellings(text: str, expected: Endpoint) -> None:
    assert parse(text, default_port=11) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:run/x",
        ":783",
        "localhost:",
        "localhost:x",
        "localhost:0",
        "h:65536",
        "h:٣",
        "inet:783",
        "783",
    ],
)
def test_nonsense(text: str) -> None:
    with pytest.raises(ValueError, match=r"socket|neither|names no host"):
        parse(text)
