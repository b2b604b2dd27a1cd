"""``listen.metrics`` of the real server, read by Prometheus' own parsers: what two workers and the sender count adds up."""

from __future__ import annotations

import imaplib
import smtplib
import urllib.error
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tests.e2e.server import DOMAIN, INSECURE, Server, wait_for

pytestmark = pytest.mark.e2e
OPEN = "application/openmetrics-text; version=1.0.0"
EXTRA = '[stage.clamav]\nenabled = true\nsocket = "unix:/nowhere/clamd"\non_error = "accept"\n[metrics]\nrule_hits = true\n'
SCRIPT = 'require "fileinto";\nif header :contains "subject" "x" {\n  fileinto "Junk";\n}\n'


def get(server: Server, path: str, accept: str = "") -> tuple[int, str, str]:
    url = f"http://127.0.0.1:{server.ports['metrics']}{path}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Accept": accept}), timeout=10
        ) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def read(server: Server, accept: str = OPEN) -> dict[str, float]:
    code, kind, text = get(server, "/metrics", accept)
    assert code == 200 and kind.startswith("application/openmetrics-text" if accept else "text/plain")
    families = (openmetrics if accept else plain)(text)
    return {
        one.name + "".join(f" {name}={value}" for name, value in sorted(one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


def send(server: Server, to: str, number: int) -> None:
    with smtplib.SMTP("127.0.0.1", server.ports["smtp"], local_hostname="localhost") as smtp:
        smtp.sendmail("a@shop.example", [to], f"Subject: x {number}\r\nFrom: a@shop.example\r\n\r\nhello\r\n")


def test_what_is_counted() -> None:
    doors = ("smtp", "imaps", "metrics")
    with Server(people=["ann"], scripts={"ann": SCRIPT}, extra=EXTRA, doors=doors) as server:
        for number in range(12):  # each connection may be another worker's
            send(server, f"ann@{DOMAIN}", number)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, f"nobody@{DOMAIN}", 99)
        imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE)
        with pytest.raises(imaplib.IMAP4.error):
            imap.login(f"ann@{DOMAIN}", "wrong")
        imap.shutdown()
        taken = "filterd_messages_total direction=mx verdict=accepted"
        wait_for(lambda: read(server).get(taken) == 12, what="the count of messages")
        for accept in (OPEN, ""):
            found = read(server, accept)
            assert found["filterd_recipients_total outcome=stored"] == 12
            errors = [value for name, value in found.items() if name.startswith("filterd_stage_errors")]
            assert errors == [12]
            assert found["filterd_stage_duration_seconds_count stage=store verdict="] == 12
            assert found["filterd_sieve_rule_hits_total line=2 script=main"] == 12
            assert found["filterd_auth_failures_total service=imap"] == 1
            assert found["filterd_smtp_sessions_total result=accepted"] >= 13
            assert found["filterd_scanner_up name=clamd"] == 0
            assert found["filterd_queue_messages state=queued"] == 0
            assert found["filterd_store_free_bytes"] > 0 and found["filterd_start_time_seconds"] > 1e9
            assert found["filterd_tls_certificate_expiry_seconds"] > found["filterd_start_time_seconds"]
        assert [get(server, path)[0] for path in ("/healthz", "/readyz", "/", "/metrics/x")] == [
            200,
            200,
            404,
            404,
        ]


def test_not_ready_when_the_queue_cannot_be_opened() -> None:
    with Server(people=["ann"], doors=("smtp", "metrics")) as server:
        assert get(server, "/readyz")[0] == 200
        queue = server.data / "queue" / "queue.db"
        wait_for(queue.with_name("queue.db-wal").exists, what="the queue, opened beside the doors")
        queue.unlink()
        queue.mkdir()  # of a file overwritten in place, what SQLite's log still holds may be read
        code, _, text = get(server, "/readyz")
        assert code == 503 and text.startswith("queue: ")
        assert get(server, "/healthz")[0] == 200 and get(server, "/metrics", OPEN)[0] == 200
