"""HTTP/1.1 of the pages: whole, octet by octet, and what hostile clients send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.proto.http import BODY, HEAD, LINE, Close, HttpCore, Request

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
HOST = b"Host: mail.example.org\r\n"


def run(data: bytes, step: int = 0) -> tuple[Request | None, str, bytes]:
    """The request (answered 200 with "hello"), the first line of what was said, all of it."""
    core, request, out, closed = HttpCore(lambda: DATE), None, b"", False
    for at in range(0, len(data), step or len(data) or 1):
        core.receive_data(data[at : at + (step or len(data))])
        while (event := core.next_event()) is not None:
            assert not closed
            if isinstance(event, Request):
                assert request is None
                request = event
                core.respond(200, b"hello", {"Content-Type": "text/plain"})
            else:
                assert isinstance(event, Close)
                closed = True
        out += core.data_to_send()
    return request, out.partition(b"\r\n")[0].decode(), out


GOOD = [
    (b"GET /q/x HTTP/1.1\r\n" + HOST + b"\r\n", "GET", "/q/x", b""),
    (b"\r\n\r\nHEAD / HTTP/1.0\r\n\r\n", "HEAD", "/", b""),
    (b"GET http://mail.example.org/a?b=c HTTP/1.1\r\nHOST:  x \r\n\r\n", "GET", "/a?b=c", b""),
    (b"POST /q HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", "POST", "/q", b"abc"),
    (
        b"POST /q HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        "POST",
        "/q",
        b"abc",
    ),
]
BAD = [
    (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
    (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: \0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (BODY + 1), 413),
    (b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    (b"GET /" + b"x" * LINE + b" HTTP/1.1\r\n", 414),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD, 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # a TLS greeting
]


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize(("data", "method", "path", "body"), GOOD)
def test_requests(data: bytes, method: str, path: str, body: bytes, step: int) -> None:
    request, said, out = run(data, step)
    assert request is not None and (request.method, request.path, request.body) == (method, path, body)
    assert (
        said == "HTTP/1.1 200 OK" and f"Date: {DATE}\r\n".encode() in out and b"Connection: close\r\n" in out
    )
    assert (
        out.endswith(b"\r\n\r\n" if method == "HEAD" else b"\r\n\r\nhello")
        and b"Content-Length: 5\r\n" in out
    )


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(("data", "code"), BAD)
def test_what_is_not_a_request_is_told_so_and_closed(data: bytes, code: int, step: int) -> None:
    request, said, _ = run(data, step)
    assert request is None and said.startswith(f"HTTP/1.1 {code} ")


def test_a_client_that_asks_first_may_send_its_body() -> None:
    core = HttpCore(lambda: DATE)
    core.receive_data(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert core.next_event() is None and core.data_to_send() == b"HTTP/1.1 100 Continue\r\n\r\n"
    core.receive_data(b"a")
    assert isinstance(core.next_event(), Request)


def test_ends() -> None:
    silent, slow, gone = HttpCore(lambda: DATE), HttpCore(lambda: DATE), HttpCore(lambda: DATE)
    silent.timed_out()
    assert isinstance(silent.next_event(), Close) and silent.data_to_send() == b""
    slow.receive_data(b"GET")
    slow.timed_out()
    assert slow.data_to_send().startswith(b"HTTP/1.1 408 ") and isinstance(slow.next_event(), Close)
    gone.receive_data(b"GET / HT")
    gone.receive_eof()
    assert isinstance(gone.next_event(), Close)
    broken = HttpCore(lambda: DATE)
    broken.receive_data(b"GET / HTTP/1.0\r\n\r\n")
    assert isinstance(broken.next_event(), Request)
    broken.internal_error()
    assert broken.data_to_send().startswith(b"HTTP/1.1 500 ") and isinstance(broken.next_event(), Close)


@pytest.mark.fuzz
@given(
    st.lists(st.sampled_from([GOOD[0][0], GOOD[3][0], HOST, b"\r\n", b"\n", b" ", b"POST /", b": "]) | st.binary(max_size=20)),
    st.integers(1, 9),
)  # fmt: skip
def test_octet_by_octet_is_the_same_as_whole(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    whole, cut = run(data), run(data, step)
    assert whole == cut
