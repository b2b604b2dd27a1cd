"""Our SRS addresses beside those of Mail::SRS (Perl) and PostSRSd: the same text, and each reads the others'."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from filterd.ports import SystemClock
from pipeline.srs import NotSrs, Original, Rewritten, Srs
from tests import unpacked
from tests.faultserver import refused

pytestmark = pytest.mark.peer

SECRET = "s3cret/with+odd=characters"
SENDERS = (
    "ann@example.net",
    "Ann.Lee@Example.NET",
    "bounces+123-4567=x.y@list.example.org",
    "SRS0=4nDt=TT=example.com=someone@first.example",
    "SRS0+4nDt=TT=example.com=someone@first.example",
    "SRS1=abcd=first.example==4nDt=TT=example.com=someone@second.example",
    "SRS1=abcd=first.example=+4nDt=TT=example.com=someone@second.example",
)


def ours(separator: str = "=", length: int = 4, secret: str = SECRET) -> Srs:
    return Srs("fwd.example", [secret.encode()], SystemClock(), hash_length=length, separator=separator)


def perl(code: str, *arguments: str) -> str:
    program = shutil.which("perl")
    if program is None or subprocess.run([program, "-MMail::SRS", "-e", "1"], capture_output=True).returncode:
        pytest.skip("Mail::SRS is not installed (Debian: libmail-srs-perl)")
    return subprocess.run(
        [program, "-MMail::SRS", "-e", code, *arguments], capture_output=True, text=True, check=True
    ).stdout


NEW = "my $s = new Mail::SRS(Secret => shift, Separator => shift, HashLength => shift, HashMin => 4);"
FORWARD = NEW + 'print $s->forward($_, "fwd.example"), "\n" for @ARGV;'
REVERSE = NEW + 'print eval { $s->reverse($_) } // "ERROR", "\n" for @ARGV;'


@pytest.mark.parametrize("separator", ["=", "+", "-"])
@pytest.mark.parametrize("length", [4, 12])
def test_perl_writes_what_we_write_and_reads_it(separator: str, length: int) -> None:
    one = ours(separator, length)
    made = []
    for sender in SENDERS:
        result = one.forward(sender)
        assert isinstance(result, Rewritten)
        made.append(result.address)
    assert perl(FORWARD, SECRET, separator, str(length), *SENDERS).split("\n")[:-1] == made
    back = perl(REVERSE, SECRET, separator, str(length), *made).split("\n")[:-1]
    for address, theirs in zip(made, back, strict=True):
        result_back = one.reverse(address)
        assert isinstance(result_back, Original)
        assert theirs == result_back.address


def test_both_refuse_what_was_tampered_with() -> None:
    made = ours().forward("ann@example.net")
    assert isinstance(made, Rewritten)
    for broken in (
        made.address.replace("ann", "bob"),
        made.address.replace("SRS0=", "SRS0=x"),
        "SRS0=a=b=c=d@fwd.example",
    ):
        assert perl(REVERSE, SECRET, "=", "4", broken) == "ERROR\n"
        assert not isinstance(ours().reverse(broken), Original | NotSrs)


@contextlib.contextmanager
def postsrsd(home: Path) -> Iterator[tuple[int, int]]:
    program = unpacked.program("postsrsd", "usr/sbin/postsrsd")
    if not program:
        pytest.skip("postsrsd is not here (unpacked by `make test`)")
    (home / "secret").write_text(SECRET + "\n")
    (home / "secret").chmod(0o600)
    forward_port, reverse_port = (int(refused().rpartition(":")[2]) for _ in range(2))
    process = subprocess.Popen(
        [
            program,
            "-4",
            f"-s{home}/secret",
            "-dfwd.example",
            f"-f{forward_port}",
            f"-r{reverse_port}",
            "-l127.0.0.1",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", reverse_port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(
                        "postsrsd did not start: " + (process.stderr.read() if process.stderr else "")
                    )
            time.sleep(0.05)
        yield forward_port, reverse_port
    finally:
        process.terminate()
        process.wait(10)


def look_up(port: int, address: str) -> str:
    """One question by Postfix's tcp_table(5)."""
    with socket.create_connection(("127.0.0.1", port), 5) as conn, conn.makefile("rwb") as stream:
        stream.write(f"get {quote(address, safe='@=+-._')}\n".encode())
        stream.flush()
        code, _, text = stream.readline().decode().strip().partition(" ")
    return unquote(text) if code == "200" else f"ERROR {code}"


def test_postsrsd(tmp_path: Path) -> None:
    with postsrsd(tmp_path) as (forward_port, reverse_port):
        for sender in SENDERS:
            made = ours().forward(sender)
            assert isinstance(made, Rewritten)
            assert look_up(forward_port, sender) == made.address
            back = ours().reverse(made.address)
            assert isinstance(back, Original)
            assert look_up(reverse_port, made.address) == back.address
