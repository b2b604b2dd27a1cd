"""TLS reports: what is counted, what the report says (also to our own reader of reports), and that each is sent once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from filterd.queue.tlsdemand import Policy, Session, TlsResult
from filterd.reports import incoming, tlsrpt, tlsrpt_data
from filterd.reports.aggregate import Reporter
from filterd.reports.tlsrpt import TlsReporting, wanted
from filterd.reports.tlsrpt_data import SessionLog
from pipeline.zone import Zone, ZoneResolver
from tests.queuelab import HandClock, KeptSpool

DAY = 86_400.0
STS = Policy(
    "sts", "x.example", ("version: STSv1", "mode: enforce", "mx: *.x.example", "max_age: 1"), ("*.x.example",)
)
DANE = Policy("tlsa", "x.example", ("3 1 1 abcd",), ("mx.x.example",), "mx.x.example")
WHO = Reporter("Us & Co", "postmaster@us.example", "mail.us.example")


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (("v=TLSRPTv1; rua=mailto:tls@x.example",), ["tls@x.example"]),
        (("v=TLSRPTv1;rua=mailto:a@x.example,https://x.example/t,mailto:b@y.example;",), ["a@x.example", "b@y.example"]),
        (("v=TLSRPTv1 ; ext=1; rua = mailto:a@x.example!10m",), ["a@x.example"]),
        (("v=spf1", "v=TLSRPTv1;rua=mailto:a@x.example"), ["a@x.example"]),
        (("v=TLSRPTv1;rua=mailto:a@x.example", "v=TLSRPTv1;rua=mailto:b@x.example"), []),
        (("v=TLSRPTv11;rua=mailto:a@x.example",), []),
        (("v=TLSRPTv1;rua=https://x.example/",), []),
        (("v=TLSRPTv1",), []),
        ((), []),
    ],
)  # fmt: skip
def test_who_wants_reports(records: tuple[str, ...], found: list[str]) -> None:
    assert wanted(records) == found


@dataclass
class Lab:
    path: Path
    clock: HandClock = field(default_factory=HandClock)
    zone: Zone = field(default_factory=Zone)
    spool: KeptSpool = field(default_factory=KeptSpool)

    def see(self, *sessions: Session) -> None:
        log = SessionLog(self.path, self.clock)
        for one in sessions:
            log.put(one)
        log.close()

    def send(self) -> list[str]:
        def sign(message: bytes, domain: str) -> bytes:
            return f"DKIM-Signature: d={domain}\r\n".encode()

        reporting = TlsReporting(self.path, WHO, ZoneResolver(self.zone), self.spool, sign, self.clock)
        return [told.result for told in asyncio.run(reporting.send_due())]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    found = Lab(tmp_path / "tls.db")
    found.zone.add("_smtp._tls.x.example", "TXT", '"v=TLSRPTv1; rua=mailto:tls@x.example"')
    return found


def session(policy: Policy = STS, result: TlsResult = TlsResult.OK, detail: str = "") -> Session:
    return Session(policy, result, "mx.x.example", "192.0.2.1", detail)


@pytest.mark.slow
def test_a_day_is_told_once(lab: Lab) -> None:
    expired = session(result=TlsResult.EXPIRED, detail="certificate has expired")
    lab.see(*[session()] * 3, expired, expired, session(DANE), session(DANE, TlsResult.DNSSEC_INVALID))
    lab.see(session())
    assert lab.send() == []  # the day is not over
    lab.clock.now += DAY
    assert lab.send() == ["queued for tls@x.example"]
    assert lab.send() == [] and lab.spool.calls == 1
    (one,) = lab.spool.taken.values()
    assert (one.recipient, one.reverse_path, one.kind) == ("tls@x.example", "postmaster@us.example", "report")
    assert one.data.startswith(b"DKIM-Signature: d=us.example\r\n")
    assert one.data.count(b"\n") == one.data.count(b"\r\n")
    message = message_from_bytes(one.data, policy=default)
    assert isinstance(message, EmailMessage)
    assert message.get_content_type() == "multipart/report" and message.get_param("report-type") == "tlsrpt"
    assert (message["TLS-Report-Domain"], message["TLS-Report-Submitter"]) == ("x.example", "mail.us.example")
    _, carried = message.iter_parts()
    assert carried.get_content_type() == "application/tlsrpt+gzip"
    told = json.loads(gzip.decompress(carried.get_content()))
    assert told["date-range"] == {
        "start-datetime": "2026-09-21T00:00:00Z",
        "end-datetime": "2026-09-21T23:59:59Z",
    }
    sts, dane = sorted(told["policies"], key=lambda policy: policy["policy"]["policy-type"])
    assert sts["summary"] == {"total-successful-session-count": 4, "total-failure-session-count": 2}
    assert (
        sts["policy"]["mx-host"] == ["*.x.example"] and sts["policy"]["policy-string"][1] == "mode: enforce"
    )
    assert sts["failure-details"] == [
        {
            "result-type": "certificate-expired",
            "receiving-mx-hostname": "mx.x.example",
            "failed-session-count": 2,
            "receiving-ip": "192.0.2.1",
            "failure-reason-code": "certificate has expired",
        }
    ]
    assert dane["policy"]["policy-domain"] == "mx.x.example" and dane["policy"]["policy-string"] == [
        "3 1 1 abcd"
    ]


def test_our_own_reader_of_reports_reads_it(lab: Lab) -> None:
    lab.see(session(), session(result=TlsResult.MISMATCH))
    lab.clock.now += DAY
    lab.send()
    (one,) = lab.spool.taken.values()
    found = incoming.recognise(one.data)
    assert isinstance(found, incoming.TlsReport) and found.org == "Us & Co"
    (policy,) = found.policies
    assert (policy.domain, policy.kind, policy.succeeded, policy.failed) == ("x.example", "sts", 1, 1)
    assert policy.failures == ("certificate-host-mismatch 1 at mx.x.example",)


def test_nobody_asks(lab: Lab) -> None:
    lab.see(session(Policy("no-policy-found", "y.example"), TlsResult.NO_STARTTLS))
    lab.clock.now += DAY
    assert lab.send() == ["nobody to report to"] and not lab.spool.taken
    assert lab.send() == []


def test_without_an_answer_the_report_waits(lab: Lab) -> None:
    lab.zone.remove("_smtp._tls.x.example", "TXT")
    lab.zone.add("_smtp._tls.x.example", "TXT", "SERVFAIL")
    lab.see(session())
    lab.clock.now += DAY
    assert lab.send() == []


def test_a_second_try_makes_the_same_keys(lab: Lab) -> None:
    """Killed between the queue and the mark: the queue knows the key."""
    lab.see(session())
    lab.clock.now += DAY
    lab.send()
    with contextlib.closing(tlsrpt_data.connect(lab.path)) as db:
        db.execute("delete from sent")
    lab.send()
    assert (lab.spool.calls, len(lab.spool.taken)) == (2, 1)


def test_a_hostile_domain_fills_no_disk(lab: Lab) -> None:
    with contextlib.closing(tlsrpt_data.connect(lab.path)) as db:
        many = [
            ("2026-01-01", session(result=TlsResult.FAILURE, detail=f"{at} " + "x" * 9_999))
            for at in range(1_500)
        ]
        tlsrpt_data.count(db, many)
        found = tlsrpt_data.rows(db, "2026-01-01", "x.example")
    rows = found[STS]
    assert len(rows) == tlsrpt_data.ROWS_A_DOMAIN
    assert max(len(row.detail) for row in rows) == tlsrpt_data.DETAIL_CHARACTERS


def test_header_fields_hold_no_line_ends() -> None:
    told = tlsrpt.report(WHO, "2026-01-01", "x.example", {})
    data = tlsrpt.mail(WHO, "tls@x.example", "2026-01-01", "x.example", told, 0.0)
    assert data.count(b"\n") == data.count(b"\r\n") and b"Auto-Submitted: auto-generated\r\n" in data
