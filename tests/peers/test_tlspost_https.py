"""Sending a TLS report to web servers of every mood, over real TLS on the loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from filterd.queue.outbound import verifying
from filterd.reports import tlspost
from filterd.reports.tlspost import Answer, HttpsPoster, PostFailed, Url
from tests.tlslab import Cert

ROOT = Cert("web root", ca=True, now=time.time())
GOOD = Cert("web", ROOT, names=("r.x.example",), now=time.time())
WRONG = Cert("web", ROOT, names=("x.example",), now=time.time())
OLD = Cert("web", ROOT, names=("r.x.example",), start=-20, days=-1, now=time.time())
OWN = Cert("web", names=("r.x.example",), now=time.time())
OK = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
DATA = bytes(range(256)) * 400


@dataclass
class Web:
    """Takes requests and answers each with the parts. ``pause`` between parts; the test ends all waiting."""

    context: ssl.SSLContext
    parts: tuple[bytes, ...]
    pause: float = 0.0
    asked: list[bytes] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=self._serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            self.stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(30)

    def _serve(self, listener: socket.socket) -> None:
        while not self.stop.is_set():
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                plain.settimeout(20)
                with self.context.wrap_socket(plain, server_side=True) as conn:
                    self._answer(conn)

    def _answer(self, conn: ssl.SSLSocket) -> None:
        asked = b""
        while not asked.endswith(DATA):
            chunk = conn.recv(65_536)
            if not chunk:
                return
            asked += chunk
        self.asked.append(asked)
        for part in self.parts:
            conn.sendall(part)
            if self.pause and self.stop.wait(self.pause):
                return


def send(tmp_path: Path, cert: Cert, *parts: bytes, pause: float = 0.0) -> tuple[Answer, list[bytes]]:
    web = Web(cert.context(tmp_path), parts, pause)
    ca = str(ROOT.files(tmp_path)[0])
    with web.serving() as port:
        poster = HttpsPoster(partial(verifying, ca), time.monotonic)
        return poster.request(Url("r.x.example", port, "/v1?a=b"), ["127.0.0.1"], DATA), web.asked


def test_what_is_sent(tmp_path: Path) -> None:
    answer, (asked,) = send(tmp_path, GOOD, OK)
    assert answer == Answer(201)
    head, _, body = asked.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1?a=b HTTP/1.1" and body == DATA
    assert b"Content-Type: application/tlsrpt+gzip" in lines and b"Content-Length: %d" % len(DATA) in lines
    assert any(line.startswith(b"Host: r.x.example") for line in lines)


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        (b"HTTP/1.1 307 There\r\nLocation: /v2\r\nContent-Length: 0\r\n\r\n", Answer(307, "/v2")),
        (b"HTTP/1.1 500 No\r\n\r\nsorry", Answer(500)),
        (b"HTTP/1.1 200 Ok\r\n\r\n" + b"x" * 300_000, Answer(200)),  # more than anybody reads
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Answer(201)),
    ],
)
def test_answers(tmp_path: Path, part: bytes, answer: Answer) -> None:
    assert send(tmp_path, GOOD, part)[0] == answer


@pytest.mark.parametrize(
    ("cert", "why"), [(WRONG, "certificate"), (OLD, "certificate"), (OWN, "certificate")]
)
def test_certificates(tmp_path: Path, cert: Cert, why: str) -> None:
    with pytest.raises(PostFailed, match=why):
        send(tmp_path, cert, OK)


@pytest.mark.parametrize("part", [b"", b"nonsense\r\n", b"HTTP/1.1 200 Ok\r\n" + b"X: y\r\n" * 500])
def test_no_answer(tmp_path: Path, part: bytes) -> None:
    with pytest.raises(PostFailed, match=r"r\.x\.example"):
        send(tmp_path, GOOD, part)


@pytest.mark.slow
def test_one_that_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlspost, "SECONDS", 2.0)
    with pytest.raises(PostFailed, match="too slow"):
        send(tmp_path, GOOD, *(b"HTTP/1.1 200 Ok\r\n" + b"X: y\r\n" * 50)[:400].split(b"y"), pause=0.2)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    poster = HttpsPoster(partial(verifying, str(ROOT.files(tmp_path)[0])), time.monotonic)
    with pytest.raises(PostFailed, match="refused"):
        poster.request(Url("r.x.example", port, "/"), ["127.0.0.1"], DATA)
