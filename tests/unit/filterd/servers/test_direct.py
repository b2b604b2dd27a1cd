"""Writing past the loop: order, what a slow or vanished client leaves, and the descriptor's life."""

from __future__ import annotations

import os
import random
import socket
import threading

import pytest

from filterd.servers import direct
from filterd.servers.direct import DirectSink

pytestmark = pytest.mark.e2e


def pieces(count: int) -> list[bytes]:
    pick = random.Random(1)
    return [pick.randbytes(pick.choice([0, 1, 20, 5000, 300_000])) for _ in range(count)]


def test_all_of_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "PATIENCE", 5.0)
    near, far = socket.socketpair()
    near.setblocking(False)
    sent = pieces(1500)
    got = bytearray()

    def read() -> None:
        while data := far.recv(100_000):
            got.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    sink = DirectSink(near.fileno())
    assert sink.write(sent) == []
    sink.close()
    near.close()
    reader.join()
    assert bytes(got) == b"".join(sent)
    far.close()


def test_what_a_slow_client_leaves_comes_back() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    sent = pieces(300)
    sink = DirectSink(near.fileno())
    rest = b"".join(sink.write(sent))
    assert rest
    got = bytearray()
    far.setblocking(False)
    while len(got) < sum(map(len, sent)) - len(rest):
        got.extend(far.recv(1 << 20))
    assert bytes(got) + rest == b"".join(sent)
    sink.close()
    near.close()
    far.close()


def test_a_client_that_is_gone() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    sink = DirectSink(near.fileno())
    far.close()
    assert sink.write([b"a", b"b"]) == [b"a", b"b"]
    sink.close()
    sink.close()
    os.fstat(near.fileno())  # the duplicate was closed, not the connection's own
    near.close()
