"""A disk that is full: 452 for what does not fit, everything that was accepted is there, and life goes on when there is room."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import capabilities
from tests.e2e.server import DOMAIN, Server, wait_for

SIZE, ROOM = "6m", "64m"
OCTETS = 60_000
MOST = 400  # tries until the disk is full
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not capabilities.has(capabilities.SYS_ADMIN),
        reason="no CAP_SYS_ADMIN: a small tmpfs cannot be mounted",
    ),
]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the next Server's folder will be."""
    made = tempfile.mkdtemp
    place = Path(made(prefix="filterd-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: made(dir=place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


def test_a_full_disk_is_said_and_nothing_is_lost(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(people=("ann",), server="workers = 1", extra='[queue]\nrelay = "smtp://127.0.0.1:1"\n')
    monkeypatch.undo()
    body = b"x" * OCTETS
    codes: Counter[tuple[str, int, bytes]] = Counter()

    def local(number: int) -> None:
        with server.smtp() as smtp:
            smtp.mail("far@shop.example")
            smtp.rcpt(f"ann@{DOMAIN}")
            code, text = smtp.data(b"Subject: L%d\r\n\r\n%b\r\n" % (number, body))
            codes["in", code, text.split(b" ")[0]] += 1

    def leaving(number: int) -> None:
        with server.submission() as smtp:
            smtp.mail(f"ann@{DOMAIN}")
            smtp.rcpt("x@far.example")
            code, text = smtp.data(b"Subject: O%d\r\n\r\n%b\r\n" % (number, body))
            codes["out", code, text.split(b" ")[0]] += 1

    full = (("in", 452, b"4.3.1"), ("out", 452, b"4.3.1"))
    with server:
        for number in range(MOST):
            local(number)
            if number % 4 == 0:
                leaving(number)
            if all(codes[one] for one in full):
                break
        assert all(codes[one] for one in full), codes
        assert {code for _, code, _ in codes} == {250, 452}, codes
        subprocess.run(["mount", "-o", f"remount,size={ROOM}", disk], check=True)
        taken, sent = codes["in", 250, b"2.0.0"], codes["out", 250, b"2.0.0"]

        def there() -> bool:
            found = [text for box in server.read("ann").values() for text in box.values()]
            return len({text.partition(b"Subject: L")[2][:5] for text in found}) == len(found) == taken

        wait_for(there, 30, f"the {taken} messages that were taken")
        assert len(json.loads(server.command("queue", "list", "--json").stdout)) == sent
        with server.smtp() as smtp:
            smtp.mail("far@shop.example")
            smtp.rcpt(f"ann@{DOMAIN}")
            assert smtp.data(b"Subject: after\r\n\r\nx\r\n")[0] == 250
