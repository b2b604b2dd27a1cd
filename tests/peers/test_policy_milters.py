"""We ask OpenDMARC and rspamd's own milter (rspamd_proxy): negotiation, changes, refusals of the real programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.demo.lab import free_ports
from pipeline.edits import apply
from pipeline.verdict import Disposition
from rules.mail.header import scan
from tests import faultserver
from tests.e2e.server import wait_for
from tests.peers.test_milter import MAIL, answers, stage_says

pytestmark = [pytest.mark.peer, pytest.mark.slow]

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-" + b"ANTI-UBE-TEST-EMAIL*C.34X"
SECONDS = 90.0
RSPAMD = """.include "/etc/rspamd/common.conf"
options {{ pidfile = "{dir}/pid"; control_socket = "{dir}/control.sock"; hs_cache_dir = "{dir}"; rrd = "{dir}/rrd";
  history_file = "{dir}/history"; dns {{ nameserver = ["127.0.0.1:{dns}:1"]; timeout = 0.1s; retransmits = 1; }} }}
logging {{ type = "file"; filename = "{dir}/log"; level = "info"; }}
worker "normal" {{ enabled = false; }}
worker "controller" {{ enabled = false; }}
worker "rspamd_proxy" {{ bind_socket = "127.0.0.1:{port}"; milter = yes; timeout = 60s; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }} }}
"""


def started(command: list[str], port: int, log: Path) -> Iterator[str]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"{command[0]} did not start: {log.read_text()[-2000:]}")
        try:
            return answers(socket.AF_INET, ("127.0.0.1", port))
        except OSError:
            return False

    try:
        wait_for(ready, SECONDS, command[0])
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.fixture(scope="module")
def opendmarc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("opendmarc", path=SBIN)
    if program is None:
        pytest.skip("OpenDMARC is not installed (Debian: opendmarc)")
    folder = tmp_path_factory.mktemp("opendmarc")
    (port,) = free_ports(1)
    (folder / "ignored").write_text("203.0.113.77\n")  # without a list it passes what comes from 127.0.0.1
    conf = folder / "opendmarc.conf"
    conf.write_text(
        f"Socket inet:{port}@127.0.0.1\nAuthservID mx.home.example\nTrustedAuthservIDs mx.home.example\n"
        f"RejectFailures true\nSoftwareHeader true\nPidFile {folder}/pid\nIgnoreHosts {folder}/ignored\n"
    )
    yield from started([program, "-f", "-l", "-c", str(conf)], port, folder / "out")


@pytest.fixture(scope="module")
def rspamd_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("rspamd", path=SBIN)
    if program is None:
        pytest.skip("rspamd is not installed (Debian: rspamd)")
    folder = tmp_path_factory.mktemp("rspamd")
    port, dns = free_ports(1)[0], int(faultserver.refused().rpartition(":")[2])
    conf = folder / "rspamd.conf"
    conf.write_text(RSPAMD.format(dir=folder, port=port, dns=dns))
    owner = [] if os.geteuid() else ["-i"]  # it refuses to work for root unless told so
    yield from started([program, "-f", *owner, "-c", str(conf)], port, folder / "out")


def test_opendmarc_writes_its_results(opendmarc: str) -> None:
    verdict = stage_says(opendmarc, MAIL % 1, timeout=SECONDS)
    assert verdict.disposition in (Disposition.CONTINUE, Disposition.TEMPFAIL), verdict
    if (
        verdict.disposition is Disposition.TEMPFAIL
    ):  # it waited for a name server in vain, and that is its word
        assert verdict.result == "tempfail"
        return
    block = scan(apply(MAIL % 1, verdict.edits))
    (found,) = [value for value in block.get_all(b"authentication-results") if b"dmarc=" in value]
    assert found.startswith(b"mx.home.example;") and b"header.from=shop.example" in found
    assert b"OpenDMARC" in (block.first(b"dmarc-filter") or b"")


def test_opendmarc_does_not_believe_what_a_stranger_wrote_in_our_name(opendmarc: str) -> None:
    """It believes a field of AuthservID: this one never reaches it."""
    forged = b"Authentication-Results: mx.home.example; spf=pass smtp.mailfrom=x@shop.example; dkim=pass header.d=shop.example\r\n"
    plain = stage_says(opendmarc, MAIL % 2, timeout=SECONDS)
    verdict = stage_says(opendmarc, forged + MAIL % 2, timeout=SECONDS)
    assert (verdict.disposition, verdict.result) == (plain.disposition, plain.result)
    assert len(verdict.edits) == len(plain.edits)


def test_rspamd_as_a_milter(rspamd_proxy: str) -> None:
    verdict = stage_says(rspamd_proxy, MAIL % 3, timeout=SECONDS)
    assert verdict.disposition is Disposition.CONTINUE and verdict.result in ("accept", "continue"), verdict
    refused = stage_says(rspamd_proxy, MAIL % 4 + GTUBE + b"\r\n", timeout=SECONDS)
    assert refused.disposition is Disposition.REJECT and refused.reply is not None, refused
    assert (refused.reply.code, refused.reply.enhanced_code) == (554, "5.7.1")
    assert "Gtube" in refused.reply.text


def test_rspamd_signs_nothing_and_scans_nothing_of_our_people(rspamd_proxy: str) -> None:
    verdict = stage_says(rspamd_proxy, MAIL % 5, login="ann", timeout=SECONDS)
    assert verdict.disposition is Disposition.CONTINUE, verdict
