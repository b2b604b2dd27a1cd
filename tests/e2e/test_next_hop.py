"""The next hop of these tests and of the demonstration: senders that keep a connection open (Postfix does) hold up nobody."""

from __future__ import annotations

import smtplib
import socket

import pytest

from filterd.demo.lab import NextHop

pytestmark = pytest.mark.e2e


def test_an_open_connection_holds_up_nobody() -> None:
    hop = NextHop()
    hop.start()
    try:
        with socket.create_connection(("127.0.0.1", hop.port), 20) as idle:
            assert idle.recv(100).startswith(b"220 ")
            for number in range(3):
                with smtplib.SMTP("127.0.0.1", hop.port, "localhost", timeout=10) as client:
                    client.sendmail("a@away.example", [f"u{number}@home.example"], b"Subject: x\r\n\r\nx\r\n")
        assert [one.recipients for one in hop.arrivals] == [(f"u{n}@home.example",) for n in range(3)]
    finally:
        hop.close()
