"""filterd-exec: what a program gets, what it cannot do, how it ends; the client's answers when the service is not there."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.execclient import ENDED, ExecClient, reachable
from filterd.execisolation import ProgramLimits
from filterd.execservice import ExecService, environment
from filterd.proto.exec import Answer, Pair, Request, WireError, encode_answer, encode_request, frame

LIMITS = ProgramLimits(seconds=5.0, output=1000, processes=4096)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], None]:
    (tmp_path / "programs").mkdir()

    def make(name: str, text: str) -> None:
        path = tmp_path / "programs" / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    return make


def run(tmp_path: Path, name: str, *words: str, data: bytes = b"", limits: ProgramLimits = LIMITS) -> Answer:
    service = ExecService(str(tmp_path / "programs"), limits)
    return asyncio.run(service.run(Request(name, words, data, {"USER": "ann@example.org", "HOME": "/root"})))


def test_input_output_arguments_and_surroundings(tmp_path: Path, program: Callable[[str, str], None]) -> None:
    program(
        "show",
        'cat; printf "%s|" "$@"; echo "$USER $HOME"; env | grep -c . ; ls -A; ls /proc/self/fd | wc -l',
    )
    os.environ["FILTERD_SECRET"] = "1"
    answer = run(tmp_path, "show", "a b", "$(id)", "; rm *", data=b"mail\n")
    assert answer.status == 0, answer.error
    lines = answer.output.decode().split("\n")
    assert lines[0] == "mail" and lines[1].startswith("a b|$(id)|; rm *|ann@example.org /")
    assert not lines[1].endswith("/root")
    assert b"FILTERD_SECRET" not in answer.output
    assert lines[-2].strip() == "4"  # standard input, output, error, and what ls itself opens
    assert set(environment({"LD_PRELOAD": "x", "SENDER": "a@b"}, "/x")) == {
        "PATH",
        "LANG",
        "HOME",
        "TMPDIR",
        "SENDER",
    }


@pytest.mark.parametrize(
    "name", ["../programs/show", "/bin/sh", "", ".hidden", "none", "folder", "data", "open"]
)
def test_what_is_not_run(tmp_path: Path, program: Callable[[str, str], None], name: str) -> None:
    for one in ("show", ".hidden", "open"):
        program(one, "echo ran")
    (tmp_path / "programs" / "open").chmod(0o777)
    (tmp_path / "programs" / "folder").mkdir()
    (tmp_path / "programs" / "data").write_text("no program")
    assert run(tmp_path, name).status is None


def test_ends(tmp_path: Path, program: Callable[[str, str], None]) -> None:
    program("three", "echo out; exit 3")
    program("bad", "kill -9 $$")
    program("flood", "yes")
    program("sleeper", "sleep 300 & sleep 300")
    program("deaf", "exec 0<&-; echo heard nothing")
    (tmp_path / "programs" / "broken").write_text("#!/nonexistent/interpreter\n")
    (tmp_path / "programs" / "broken").chmod(0o755)
    assert run(tmp_path, "three") == Answer(3, b"out\n")
    assert run(tmp_path, "bad").status == -9
    flood = run(tmp_path, "flood")
    assert flood.status == -9 and "octets of output" in flood.error
    for _ in range(20):  # what it wrote beyond the cap may still lie in the pipe when it is ended
        assert run(tmp_path, "flood").status == -9
    began = time.monotonic()
    late = run(tmp_path, "sleeper", limits=ProgramLimits(seconds=0.3, processes=4096))
    assert late.status == -9 and "seconds" in late.error and time.monotonic() - began < 30
    assert run(tmp_path, "deaf", data=b"x" * 1_000_000).output == b"heard nothing\n"
    assert run(tmp_path, "broken").status == 127


def test_limits_hold(tmp_path: Path, program: Callable[[str, str], None]) -> None:
    program("big", "head -c 3000000 /dev/zero > file; ls -l file | cut -d' ' -f5")
    answer = run(tmp_path, "big", limits=ProgramLimits(file=1 << 20, processes=4096))
    assert b"3000000" not in answer.output
    program("limits", "ulimit -v; ulimit -n; ulimit -c")
    assert run(tmp_path, "limits").output.split() == [b"524288", b"64", b"0"]


def test_wire() -> None:
    request = Request("name", ("a", "ä"), b"\0data", {"USER": "x"})
    octets = encode_request(request)
    whole, single = Pair(), Pair()
    whole.feed(octets)
    for at in range(len(octets)):
        assert not single.done
        single.feed(octets[at : at + 1])
    assert whole.request() == single.request() == request
    pair = Pair(body=10)
    pair.feed(encode_answer(Answer(-9, b"0123456789", "why")))
    assert pair.answer() == Answer(-9, b"0123456789", "why")
    for wrong in (
        b"\xff\xff\xff\xff",
        frame(b"{}") + b"\0\0\0\x0b",
        frame(b"[]") + frame(b""),
        frame(b"{" * 99999) + frame(b""),
        frame(b"{}") + frame(b"") + b"x",
        frame(b'{"program":1,"arguments":[],"facts":{}}') + frame(b""),
        frame(b'{"program":"a","arguments":["\\u0000"],"facts":{}}') + frame(b""),
        frame(b""),
    ):
        with pytest.raises(WireError):
            pair = Pair(body=10)
            pair.feed(wrong)
            pair.request()


def test_the_client_when_the_service_is_gone_or_mute(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert not reachable(path) and not reachable("")

    async def mute() -> tuple[object, object]:
        gone = await ExecClient(path, 1, 100).run("x", (), b"", {})
        server = await asyncio.start_unix_server(lambda reader, writer: None, path)
        client = ExecClient(path, -4.9, 100)
        answer = await client.run("x", (), b"y" * 10_000_000, {})
        server.close()
        return gone, answer

    gone, answer = asyncio.run(mute())
    assert gone is None and answer == (ENDED, b"")
