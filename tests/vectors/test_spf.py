"""All 203 cases of the RFC 7208 test suite, through our stage, at their preferred result."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.adapters.pyspf import SpfResult
from pipeline.envelope import Client, Envelope, Profile
from pipeline.registry import StageContext
from pipeline.stages.spf import SpfSettings, SpfStage
from pipeline.transaction import Transaction
from pipeline.zone import Zone, ZoneResolver
from rules.mail.message import Message

ARCHIVE = "pyspf==2.0.14"
MESSAGE = Message(b"From: a@example.org\r\n\r\n\r\n")


class Fixed:
    def time(self) -> float:
        return 1e9

    def monotonic(self) -> float:
        return 0.0

    def token(self, octets: int) -> str:
        return "0" * 2 * octets


@dataclass(frozen=True)
class Case:
    name: str
    zone: Zone
    ip: str
    helo: str
    mail_from: str
    results: tuple[str, ...]
    explanation: str | None


def suite() -> str:
    """The YAML text; skips with the reason when it cannot be had."""
    named = os.environ.get("SPF_TESTS")
    if named:
        return Path(named).read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        command += ["-d", folder, ARCHIVE]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            (archive,) = Path(folder).glob("*.tar.gz")
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            pytest.skip(f"pyspf's source archive cannot be fetched: {type(error).__name__}")
        with tarfile.open(archive) as tar:
            member = next(one for one in tar if one.name.endswith("test/rfc7208-tests.yml"))
            stream = tar.extractfile(member)
            assert stream is not None
            return stream.read().decode("utf-8")


def zone_of(data: dict[str, list[object]]) -> Zone:
    """The suite's zone: SPF records stand for TXT ones unless the name has a TXT of its own."""
    zone = Zone()
    for name, records in data.items():
        own_txt = any(isinstance(record, dict) and "TXT" in record for record in records)
        for record in records:
            if isinstance(record, str):
                zone.add(name, record)
                continue
            assert isinstance(record, dict)
            for rdtype, value in record.items():
                if rdtype == "SPF" and own_txt:
                    continue
                rdtype = "TXT" if rdtype == "SPF" else rdtype
                if value == "NONE":
                    zone.add(name, "HINFO", "exists without the type")
                elif rdtype == "MX":
                    zone.add(name, "MX", f"{value[0]} {value[1] or '.'}")
                elif rdtype == "TXT" and value != "TIMEOUT":
                    text = value if isinstance(value, str) else "".join(value)
                    octets = text.encode("utf-8").decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
                    zone.add(name, "TXT", f'"{octets}"')
                else:
                    zone.add(name, rdtype, str(value))
    return zone


def cases(text: str) -> Iterator[Case]:
    for scenario in yaml.safe_load_all(text):
        zone = zone_of(scenario["zonedata"])
        for name, test in scenario["tests"].items():
            wanted = test["result"]
            results = (wanted,) if isinstance(wanted, str) else tuple(wanted)
            explanation = test.get("explanation")
            yield Case(name, zone, test["host"], test["helo"], test["mailfrom"] or "", results, explanation)


def run(case: Case) -> tuple[SpfResult, str]:
    """Our stage's verdict, first with a cold cache and then again with a warm one."""
    resolver = ZoneResolver(case.zone)
    stage = SpfStage(
        SpfSettings(helo=False, reverse=False), StageContext(Fixed(), Fixed(), resolver, "receiver.example")
    )
    envelope = Envelope(case.mail_from, (), Client(ip=case.ip, helo=case.helo), Profile.MX)
    transaction = Transaction(MESSAGE, envelope, "trace", 0.0)
    verdict = asyncio.run(stage.check(transaction))
    result = transaction.state["spf"]
    assert isinstance(result, SpfResult)
    again = stage.quick(transaction)
    assert again is not None
    assert again.result == verdict.result
    return result, verdict.result


@pytest.mark.slow
def test_rfc7208_suite() -> None:
    all_cases = list(cases(suite()))
    assert len(all_cases) == 203
    wrong = []
    for case in all_cases:
        result, verdict = run(case)
        assert verdict == result.result
        explained = result.explanation or "DEFAULT"
        if result.result != case.results[0] or (case.explanation or explained) != explained:
            wrong.append((case.name, case.results, case.explanation, result))
    assert wrong == []
