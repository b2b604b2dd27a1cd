"""Copies of one mail in separate transactions: spamd is asked about the first; until something is learned."""

from __future__ import annotations

import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from tests import faultserver
from tests.e2e.server import DOMAIN, Server, mail, wait_for

pytestmark = pytest.mark.e2e

ANN = f"ann@{DOMAIN}"


def test_one_mail_many_transactions(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def behave(conn: socket.socket, stop: threading.Event) -> None:
        request = faultserver.spamd_request(conn)
        if request.startswith(b"REPORT"):
            asked.append(request)
            conn.sendall(b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; 0.1 / 5.0\r\n\r\n")

    data = mail("the news")
    lesson = tmp_path / "spam.eml"
    lesson.write_bytes(mail("pills", "buy pills"))
    with faultserver.serve(behave) as where:
        extra = f'[stage.spamassassin]\nenabled = "on"\nsocket = "{where}"\non_error = "defer"\n'
        with Server(
            people=("ann",), extra=extra, doors=("smtp", "imaps", "metrics"), server="workers = 1"
        ) as server:
            first, second = server.send(data, ANN), server.send(data, ANN)
            assert len(asked) == 1
            wait_for(
                lambda: f"(remembered from {first}, " in server.command("explain", second).stdout.decode(),
                20,
                "the trace",
            )
            kept = list(server.read("ann")["INBOX"].values())
            assert len(kept) == 2 and all(b"X-Spam-Status: No, score=0.1 required=5.0" in one for one in kept)

            def counted() -> bool:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=20
                ) as answer:
                    return b'filterd_stage_remembered_total{stage="spamassassin"} 1' in answer.read()

            wait_for(counted, 20, "the count")
            assert server.command("learn", "spam", "--account", ANN, str(lesson)).returncode == 0

            def again() -> bool:
                server.send(data, ANN)
                return len(asked) > 1

            wait_for(again, 20, "the lesson to be seen")
