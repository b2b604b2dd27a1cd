"""We ask the scanners' own milters: Debian's clamav-milter before a real clamd, spamass-milter before a real spamd."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.demo.lab import free_ports
from pipeline.edits import apply
from pipeline.verdict import Disposition
from rules.mail.header import scan
from tests import programs
from tests.peers.test_milter import stage_says

pytestmark = [pytest.mark.peer, pytest.mark.slow]

MARK = b"a-virus-of-these-tests-only"
MAIL = (
    b"From: Shop <billing@shop.example>\r\nTo: ann@home.example\r\nSubject: Your order\r\n"
    b"X-Virus-Status: Clean, trust me\r\nX-Spam-Flag: YES\r\n"
    b"Message-ID: <1@shop.example>\r\nDate: Mon, 23 Nov 2026 08:00:00 +0000\r\n\r\nThank you.\r\n"
)
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
SECONDS = 60.0


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with programs.clamd(tmp_path_factory.mktemp("clamd"), f"Own.Mark:0:*:{MARK.hex()}\n") as where:
        yield where


@pytest.fixture(scope="module")
def clamav_milter(clamd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with programs.clamav_milter(tmp_path_factory.mktemp("clamav-milter"), clamd) as where:
        yield where


@pytest.fixture(scope="module")
def spamass_milter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        programs.spamd(tmp_path_factory.mktemp("spamd")) as spamd,
        programs.spamass_milter(tmp_path_factory.mktemp("spamass"), spamd, "-r", "100") as where,
    ):
        yield where


def test_clamav_milter_passes_and_marks_what_is_clean(clamav_milter: str) -> None:
    verdict = stage_says(clamav_milter, MAIL, timeout=SECONDS)
    assert verdict.disposition is Disposition.CONTINUE, verdict
    block = scan(apply(MAIL, verdict.edits))
    assert block.get_all(b"x-virus-status") == [b"Clean"]
    (by,) = block.get_all(b"x-virus-scanned")
    assert b"clamav-milter" in by


def test_clamav_milter_refuses_a_virus_in_an_attachment(clamav_milter: str) -> None:
    body = base64.encodebytes(MARK).replace(b"\n", b"\r\n")
    head = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n'
    part = (
        b"--b\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + body
        + b"--b--\r\n"
    )
    verdict = stage_says(clamav_milter, head + MAIL[: MAIL.index(b"\r\n\r\n") + 4] + part, timeout=SECONDS)
    assert verdict.disposition is Disposition.REJECT and verdict.reply is not None
    assert verdict.reply.code == 550 and "Own.Mark" in verdict.reply.text


def test_clamav_milter_without_its_clamd_defers(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with programs.clamav_milter(tmp_path, f"tcp:127.0.0.1:{port}") as where:
        verdict = stage_says(where, MAIL, timeout=SECONDS)
    assert verdict.disposition is Disposition.TEMPFAIL, verdict


def test_clamav_milter_that_quarantines(clamd: str, tmp_path: Path) -> None:
    with programs.clamav_milter(tmp_path, clamd, "Quarantine") as where:
        verdict = stage_says(where, MAIL + MARK, timeout=SECONDS)
    assert verdict.disposition is Disposition.QUARANTINE, verdict


def test_spamass_milter_marks(spamass_milter: str) -> None:
    verdict = stage_says(spamass_milter, MAIL, timeout=SECONDS)
    assert verdict.disposition is Disposition.CONTINUE, verdict
    block = scan(apply(MAIL, verdict.edits))
    assert block.get_all(b"x-spam-checker-version")
    assert block.get_all(b"x-spam-flag") != [b"YES"]
    (status,) = block.get_all(b"x-spam-status")
    assert status.startswith(b"No")


def test_spamass_milter_refuses(spamass_milter: str) -> None:
    verdict = stage_says(spamass_milter, MAIL + GTUBE + b"\r\n", timeout=SECONDS)
    assert verdict.disposition is Disposition.REJECT and verdict.reply is not None
    assert verdict.reply.code == 550
