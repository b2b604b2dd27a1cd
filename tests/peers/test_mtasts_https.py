"""Fetching an MTA-STS policy from web servers of every mood, over real TLS on the loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from filterd.queue import mtasts
from filterd.queue.mtasts import HttpsFetcher, PolicyError, parse_policy
from filterd.queue.outbound import verifying
from filterd.queue.tlsdemand import TlsResult
from tests.tlslab import Cert

pytestmark = pytest.mark.slow

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.x.example\nmax_age: 1000\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
ROOT = Cert("web root", ca=True, now=time.time())
GOOD = Cert("web", ROOT, names=("mta-sts.x.example",), now=time.time())
WRONG = Cert("web", ROOT, names=("x.example",), now=time.time())
OLD = Cert("web", ROOT, names=("mta-sts.x.example",), start=-20, days=-1, now=time.time())
OWN = Cert("web", names=("mta-sts.x.example",), now=time.time())


@contextlib.contextmanager
def web(context: ssl.SSLContext, *parts: bytes, pause: float = 0.0) -> Iterator[int]:
    """Answers each request with the parts, then hangs up. ``pause`` between parts; the test ends all waiting."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not stop.is_set():
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                plain.settimeout(10)
                with context.wrap_socket(plain, server_side=True) as conn:
                    asked = b""
                    while b"\r\n\r\n" not in asked:
                        asked += conn.recv(4096) or b"\r\n\r\n"
                    assert asked.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), asked
                    assert b"\r\nHost: mta-sts.x.example" in asked
                    for part in parts:
                        conn.sendall(part)
                        if pause and stop.wait(pause):
                            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(15)


def fetch(tmp_path: Path, cert: Cert, *parts: bytes, pause: float = 0.0) -> str:
    ca = str(ROOT.files(tmp_path)[0])
    with web(cert.context(tmp_path), *parts, pause=pause) as port:
        fetcher = HttpsFetcher(partial(verifying, ca), time.monotonic, port)
        return fetcher.fetch("x.example", ["127.0.0.1"])


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(POLICY) + POLICY,),
        (HEAD + b"\r\n" + POLICY,),
        (HEAD + b"\r\n", POLICY[:10], POLICY[10:]),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(POLICY) + POLICY + b"\r\n0\r\n\r\n",),
        (HEAD.replace(b"text/plain; charset=utf-8", b"TEXT/Plain") + b"\r\n" + POLICY,),
    ],
)
def test_a_policy_is_fetched(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    assert parse_policy(fetch(tmp_path, GOOD, *parts)).mx == ("mx.x.example",)


REDIRECT = b"HTTP/1.1 301 Moved\r\nLocation: https://x.example/\r\nContent-Type: text/plain\r\n\r\n" + POLICY


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n" + POLICY, "404"),
        (REDIRECT, "301"),
        (HEAD.replace(b"200 OK", b"204 No Content") + b"\r\n", "204"),
        (HEAD.replace(b"text/plain", b"text/html") + b"\r\n" + POLICY, "text/html"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + POLICY, "no type"),
        (HEAD + b"\r\n" + b"x: y\n" * 20_000, "64 KiB"),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n" + b"x: y\n" * 20_000, "64 KiB"),
        (HEAD + b"Content-Length: 500\r\n\r\n" + POLICY, "mta-sts"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "mta-sts"),
        (HEAD + b"X: y\r\n" * 500 + b"\r\n" + POLICY, "mta-sts"),
        (b"", "mta-sts"),
    ],
)
def test_what_is_not_taken(tmp_path: Path, answer: bytes, says: str) -> None:
    with pytest.raises(PolicyError, match=says) as caught:
        fetch(tmp_path, GOOD, answer)
    assert caught.value.result is TlsResult.STS_FETCH


@pytest.mark.parametrize("cert", [WRONG, OLD, OWN])
def test_whose_certificate_is_not_good(tmp_path: Path, cert: Cert) -> None:
    with pytest.raises(PolicyError) as caught:
        fetch(tmp_path, cert, HEAD + b"\r\n" + POLICY)
    assert caught.value.result is TlsResult.STS_WEBPKI


@pytest.mark.parametrize("slow_head", [True, False])
def test_a_dripping_server_does_not_hold_us_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_head: bool
) -> None:
    """Every octet comes in time for the time limit of a single read."""
    monkeypatch.setattr(mtasts, "FETCH_SECONDS", 0.5)
    drip = [bytes([octet]) for octet in HEAD + b"\r\n" + POLICY * 5]
    parts = drip if slow_head else [HEAD + b"\r\n", *drip]
    with pytest.raises(PolicyError) as caught:
        fetch(tmp_path, GOOD, *parts, pause=0.2)
    assert caught.value.result is TlsResult.STS_FETCH


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    fetcher = HttpsFetcher(partial(verifying, ""), time.monotonic, port)
    with pytest.raises(PolicyError) as caught:
        fetcher.fetch("x.example", ["127.0.0.1"])
    assert caught.value.result is TlsResult.STS_FETCH
