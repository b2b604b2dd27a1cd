"""Aggregate reports from the observation to the mail, and back: filterd/reports/{data,aggregate,daily,incoming}.py."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.cli.dmarc import describe
from filterd.queue.base import Outgoing
from filterd.reports import aggregate, data, days, incoming
from filterd.reports.aggregate import Reporter, Target, target
from filterd.reports.daily import Reporting
from filterd.reports.incoming import DmarcReport, TlsReport, recognise
from pipeline.dmarc import Authenticated, Observation, Outcome, Record
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message
from tests.house import ListSpool, TestClock

DAY = 1_700_000_000.0 // 86_400 * 86_400
WHO = Reporter("Us & Co", "postmaster@here.example", "mx.here.example")
RECORD = Record(
    "shop.example", policy="reject", strict_spf=True, percent=50, rua=("mailto:dmarc@shop.example",)
)


def observation(
    at: float = DAY + 5, ip: str = "192.0.2.1", result: str = "fail", **more: object
) -> Observation:
    outcome = Outcome("shop.example", result, policy="reject", dkim_aligned=result == "pass", record=RECORD)
    seen = Observation(
        at=at,
        ip=ip,
        envelope_from="bounce.example",
        outcome=outcome,
        disposition="none" if result == "pass" else "reject",
        override="",
        identifiers=(
            Authenticated("dkim", result, "shop.example", "s1"),
            Authenticated("spf", "softfail", "bounce.example", "mailfrom"),
        ),
    )
    return replace(seen, **more)  # type: ignore[arg-type]


def filled(path: Path) -> None:
    db = data.connect(path)
    data.count(db, [observation(), observation(), observation(result="pass")])
    data.count(db, [observation(), observation(ip="2001:db8::1", override="mailing_list")])
    data.count(db, [observation(at=DAY + 86_400)])
    db.close()


def test_counting(tmp_path: Path) -> None:
    path = tmp_path / "reports.db"
    filled(path)
    db = data.connect(path)
    day = days.day_of(DAY)
    assert days.due(db, days.day_of(DAY + 86_400)) == [(day, "shop.example")]
    ((policy, rows),) = data.rows(db, day, "shop.example").items()
    assert (policy.p, policy.sp, policy.aspf, policy.pct) == ("reject", "reject", "s", 50)
    assert sorted(count for _, count in rows) == [1, 1, 3]
    days.mark(db, day, "shop.example", DAY + 90_000, "done")
    assert days.due(db, days.day_of(DAY + 86_400)) == []
    db.close()


def test_the_log_writes_what_it_gets_and_only_what_is_asked_for(tmp_path: Path) -> None:
    log = data.ObservationLog(tmp_path / "reports.db")
    silent = replace(observation().outcome, record=replace(RECORD, rua=()))
    log.put(observation(outcome=silent))
    assert not (tmp_path / "reports.db").exists()
    log.put(observation())
    log.close()
    db = data.connect(tmp_path / "reports.db")
    assert db.execute("select sum(count) from seen").fetchone() == (1,)
    db.close()


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("mailto:a@b.example", Target("a@b.example")),
        ("MAILTO:a%2Bx@b.example!10m", Target("a+x@b.example", 10 << 20)),
        ("mailto:a@b.example!500", Target("a@b.example", 500)),
        ("mailto:a@b.example!x", None),
        ("https://b.example/", None),
        ("mailto:a@b.example%0d%0aBcc: c@d", None),
        ("mailto:", None),
    ],
)
def test_targets(uri: str, wanted: Target | None) -> None:
    assert target(uri) == wanted


async def report(path: Path, zone: str, rua: str = "") -> tuple[list[str], list[Outgoing]]:
    clock, spool = TestClock(), ListSpool()
    clock.now = DAY + 90_000
    if rua:
        db = data.connect(path)
        db.execute("update seen set policy = replace(policy, 'mailto:dmarc@shop.example', ?)", (rua,))
        db.close()
    sending = Reporting(
        path, WHO, ZoneResolver(Zone.parse(zone)), spool, lambda message, domain: b"X-Signed: 1\r\n", clock
    )
    told = await sending.send_due()
    again = await sending.send_due()
    assert again == [] or not told
    return [one.result for one in told], spool.outgoing


def test_a_report_is_built_queued_and_readable_by_ourselves(tmp_path: Path) -> None:
    filled(tmp_path / "r.db")
    results, (sent,) = asyncio.run(report(tmp_path / "r.db", ""))
    assert results == ["queued for dmarc@shop.example"]
    assert (sent.recipient, sent.reverse_path, sent.kind) == (
        "dmarc@shop.example",
        "postmaster@here.example",
        "report",
    )
    assert sent.data.startswith(b"X-Signed: 1\r\n")
    message = Message(sent.data)
    assert message.subject().startswith("Report Domain: shop.example Submitter: mx.here.example Report-ID: <")
    parts = message.root.children
    assert parts[1].filename() == f"mx.here.example!shop.example!{int(DAY)}!{int(DAY) + 86399}.xml.gz"
    found = recognise(sent.data)
    assert isinstance(found, DmarcReport)
    assert (found.org, found.domain, found.policy) == ("Us & Co", "shop.example", "reject")
    assert (found.messages, found.failed) == (5, 4)
    assert {line.reasons for line in found.lines} == {(), ("mailing_list",)}
    assert "dkim shop.example pass" in {result for line in found.lines for result in line.results}
    assert (found.begin, found.end) == (int(DAY), int(DAY) + 86399)


def test_foreign_targets_must_agree(tmp_path: Path) -> None:
    agreed = "shop.example._report._dmarc.collector.test TXT v=DMARC1"
    redirected = agreed + "; rua=mailto:other@collector.test"
    for number, (zone, wanted) in enumerate(
        [
            ("", []),
            (agreed, ["x@collector.test"]),
            (redirected, ["other@collector.test"]),
            ("shop.example._report._dmarc.collector.test TIMEOUT", []),
        ]
    ):
        filled(tmp_path / f"{number}.db")
        results, sent = asyncio.run(report(tmp_path / f"{number}.db", zone, "mailto:x@collector.test"))
        assert [one.recipient for one in sent] == wanted
        assert (results == []) == ("TIMEOUT" in zone)  # unsure: tried again next time


def test_a_report_that_is_too_large_is_not_sent(tmp_path: Path) -> None:
    filled(tmp_path / "r.db")
    results, sent = asyncio.run(report(tmp_path / "r.db", "", "mailto:dmarc@shop.example!100"))
    assert sent == []
    assert results == ["not sent (1 larger than the recipient takes)"]


def test_strangers_cannot_break_the_xml() -> None:
    policy = data.policy_of(observation())
    assert policy is not None
    row = replace(data.row_of(observation()), header_from="<&>\x00\x0b]]>\ud800", envelope_from='"')
    text = aggregate.xml(WHO, days.day_of(DAY), policy, [(row, 1)])
    found = recognise(text)
    assert isinstance(found, DmarcReport)
    assert found.lines[0].header_from == "<&>??]]>?"


# RFC 7489 appendix C: the children of each element in order, with how often they may stand; leaves with their words.
SCHEMA = {
    "feedback": "version report_metadata policy_published record+",
    "report_metadata": "org_name email extra_contact_info? report_id date_range error*",
    "date_range": "begin end",
    "policy_published": "domain adkim? aspf? p sp pct fo",
    "record": "row identifiers auth_results",
    "row": "source_ip count policy_evaluated",
    "policy_evaluated": "disposition dkim spf reason*",
    "reason": "type comment?",
    "identifiers": "envelope_to? envelope_from header_from",
    "auth_results": "dkim* spf+",
    "dkim": "domain selector? result human_result?",
    "spf": "domain scope result",
}
WORDS = {
    "adkim": "r|s",
    "aspf": "r|s",
    "p": "none|quarantine|reject",
    "sp": "none|quarantine|reject",
    "disposition": "none|quarantine|reject",
    "dkim": "pass|fail",
    "spf": "pass|fail",
    "type": "forwarded|sampled_out|trusted_forwarder|mailing_list|local_policy|other",
    "scope": "helo|mfrom",
    "result": "none|neutral|pass|fail|softfail|policy|temperror|permerror",
    "begin": "[0-9]+",
    "end": "[0-9]+",
    "pct": "[0-9]+",
    "count": "[1-9][0-9]*",
    "version": r"[0-9.]+",
    "source_ip": r"([0-9]{1,3}\.){3}[0-9]{1,3}|([A-Fa-f0-9]{1,4}:){7}[A-Fa-f0-9]{1,4}",
    "fo": "[01ds](:[01ds])*",
}


def conforms(element: Element) -> None:
    if len(element) == 0:
        assert re.fullmatch(WORDS.get(element.tag, "(?s).*"), element.text or ""), (element.tag, element.text)
        return
    shape = re.sub(r"([a-z_]+)", r"(?:\1#)", SCHEMA[element.tag]).replace(" ", "")
    assert re.fullmatch(shape, "".join(f"{child.tag}#" for child in element)), (element.tag, shape)
    for child in element:
        conforms(child)


def test_reports_follow_the_schema() -> None:
    many = tuple(Authenticated("dkim", "permerror", f"d{at}.example", "") for at in range(10))
    helo = Authenticated("spf", "none", "mx.example", "helo")
    rows = [
        observation(),
        observation(identifiers=()),
        observation(override="policy_test_mode", identifiers=(*many, helo)),
        observation(override="sampled_out", envelope_from=""),
        observation(ip="2001:db8::7"),
    ]
    policy = data.policy_of(rows[0])
    assert policy is not None
    text = aggregate.xml(WHO, days.day_of(DAY), policy, [(data.row_of(one), 2) for one in rows])
    feedback = ElementTree.fromstring(text)
    conforms(feedback)
    assert [one.text for one in feedback.iter("scope")] == ["mfrom", "mfrom", "helo", "mfrom", "mfrom"]
    assert [one.text for one in feedback.iter("source_ip")][-1] == "2001:db8:0:0:0:0:0:7"
    assert len(feedback.findall("record")[2].findall("auth_results/dkim")) == 7


# -- what others send ----------------------------------------------------------------------------------------------------

TLS = {
    "organization-name": "Big Mail",
    "date-range": {"start-datetime": "2024-01-01T00:00:00Z", "end-datetime": "2024-01-01T23:59:59Z"},
    "contact-info": "tls@big.example",
    "report-id": "1",
    "policies": [
        {
            "policy": {"policy-type": "sts", "policy-domain": "here.example"},
            "summary": {"total-successful-session-count": 5, "total-failure-session-count": 2},
            "failure-details": [
                {
                    "result-type": "certificate-expired",
                    "failed-session-count": 2,
                    "receiving-mx-hostname": "mx",
                }
            ],
        }
    ],
}


def mailed(content: bytes, kind: str, name: str) -> bytes:
    import base64

    return (
        b'Content-Type: multipart/report; boundary="b"\r\n\r\n--b\r\n\r\nhello\r\n--b\r\nContent-Type: '
        + kind.encode()
        + f'\r\nContent-Disposition: attachment; filename="{name}"'.encode()
        + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(content).replace(b"\n", b"\r\n")
        + b"--b--\r\n"
    )


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("report.xml", content)
    return out.getvalue()


XML = (
    b"<feedback><report_metadata><org_name>x</org_name></report_metadata>"
    b"<policy_published><domain>D.example</domain></policy_published></feedback>"
)


def test_tls_reports() -> None:
    text = json.dumps(TLS).encode()
    for form in (text, gzip.compress(text)):
        found = recognise(mailed(form, "application/tlsrpt+gzip", "r.json.gz"))
        assert isinstance(found, TlsReport)
        (policy,) = found.policies
        assert (policy.domain, policy.succeeded, policy.failed) == ("here.example", 5, 2)
        assert policy.failures == ("certificate-expired 2 at mx",)


@pytest.mark.parametrize(
    ("content", "kind", "name"),
    [
        (XML, "text/xml", "r.xml"),
        (gzip.compress(XML), "application/octet-stream", "r.xml.gz"),
        (zipped(XML), "application/zip", "r.zip"),
        (XML.decode().encode("utf-16"), "application/xml", "r.xml"),
    ],
    ids=["plain", "gzip", "zip", "utf-16"],
)
def test_every_packing(content: bytes, kind: str, name: str) -> None:
    found = recognise(mailed(content, kind, name))
    assert isinstance(found, DmarcReport)
    assert found.domain == "d.example"


def test_the_report_behind_other_files_of_an_archive() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("reports")
        archive.writestr("__MACOSX/._report.xml", b"\0\5\x16\7")
        archive.writestr("zeros.xml", b" " * (incoming.UNPACKED // 2))
        archive.writestr("reports/report.xml", b"\xef\xbb\xbf" + XML)
    found = recognise(mailed(out.getvalue(), "application/zip", "r.zip"))
    assert isinstance(found, DmarcReport) and found.domain == "d.example"


def test_an_archive_is_unpacked_up_to_the_limit_in_all() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"zeros{number}.xml", b" " * (incoming.UNPACKED // 2 - 1000))
        archive.writestr("report.xml", XML + b" " * 3000)
    assert recognise(out.getvalue()) is None


@pytest.mark.parametrize(
    "content",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + XML,
        gzip.compress(b" " * (incoming.UNPACKED + 10)),
        gzip.compress(XML)[:30],
        zipped(XML)[:40],
        zipped(XML, zipfile.ZIP_LZMA),
        zipped(XML, zipfile.ZIP_LZMA).replace(b"feedback", b"feedbakk"),
        gzip.compress(
            b"<feedback><policy_published/><x>"
            + b"<y></y>" * 900
            + (b"</x><x>" + b"<y></y>" * 900) * 300
            + b"</x></feedback>"
        ),
        b"<a>" * 1000,
        b"[" * 100_000,
        b'{"policies": 1}',
        b"{" * 5000,
        b"<feedback><a/></feedback>",
        b"",
    ],
    ids=[f"case {at}" for at in range(13)],  # not from the octets: archives carry the time
)
def test_hostile_ones_are_none(content: bytes) -> None:
    assert recognise(mailed(content, "application/gzip", "r.gz")) is None
    assert recognise(content) is None


@pytest.mark.parametrize("begin", ["999999999999", "253402300800", "1e9", "-5", "9" * 40])
def test_a_report_of_no_time_can_be_shown(begin: str) -> None:
    head = f"<report_metadata><org_name>x&#x9b;31m</org_name><date_range><begin>{begin}</begin></date_range>".encode()
    found = recognise(XML.replace(b"<report_metadata><org_name>x</org_name>", head))
    assert isinstance(found, DmarcReport)
    assert describe(found, lines=True)[0].startswith(
        "1970-01-01  DMARC  d.example (p=) seen by x?31m: 0 messages"
    )


def test_a_large_report_is_read_whole() -> None:
    row = b"<row><source_ip>192.0.2.1</source_ip><count>2</count></row><auth_results><spf/><dkim/></auth_results>"
    found = recognise(
        gzip.compress(XML.replace(b"</feedback>", (b"<record>" + row + b"</record>") * 5000 + b"</feedback>"))
    )
    assert isinstance(found, DmarcReport)
    assert found.messages == 10_000


@given(st.binary(max_size=300), st.sampled_from([b"<", b"{", b"\x1f\x8b", b"PK\x03\x04", b""]))
def test_it_never_raises(rest: bytes, start: bytes) -> None:
    recognise(start + rest)
