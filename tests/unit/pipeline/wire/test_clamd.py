"""clamd's answers: one is good, a few are understood, all others are faults."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageFault
from pipeline.wire.clamd import Scan, Version, judge, version


def test_clean_and_found() -> None:
    assert judge(b"stream: OK\n") == Scan()
    assert judge(b"stream: Win.Test.EICAR_HDB-1 FOUND\n") == Scan("Win.Test.EICAR_HDB-1")
    assert judge(b"stream: Heuristics.Phishing (x) FOUND FOUND\n") == Scan("Heuristics.Phishing (x) FOUND")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"INSTREAM size limit exceeded. ERROR\n", "resource"),
        (b"stream: Can't open file ERROR\n", "unavailable"),
        (b"COMMAND READ TIMED OUT ERROR\n", "unavailable"),
        (b"", "protocol"),
        (b"stream:  FOUND\n", "protocol"),
        (b"stream: FOUND\n", "protocol"),
        (b"x" * 5000 + b"\n", "protocol"),
        (b"stream: OK", "protocol"),
        (b"1: stream: OK\n", "protocol"),
        (b"stream: OK\n\n", "protocol"),
    ],
)
def test_faults(raw: bytes, kind: str) -> None:
    with pytest.raises(StageFault) as caught:
        judge(raw)
    assert caught.value.kind == kind


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_only_the_exact_answer_is_clean(raw: bytes) -> None:
    for text in (
        raw,
        b"stream: " + raw,
        b"stream: OK" + raw,
        raw + b"stream: OK\n",
        b"stream: " + raw + b"\n",
    ):
        try:
            result = judge(text)
        except StageFault:
            continue
        assert result.virus or text == b"stream: OK\n"


def test_version() -> None:
    assert version(b"ClamAV 1.4.6/27800/Mon Nov 23 08:25:57 2026\n") == Version(
        "1.4.6", "27800", datetime(2026, 11, 23, 8, 25, 57, tzinfo=UTC)
    )
    assert version(b"ClamAV 1.4.6\n") == Version("1.4.6")
    assert version(b"ClamAV 1.4.6/1/no date\n").signatures is None
    for odd in (b"", b"Sophos 1\n", b"ClamAV <b>\n", b"ClamAV 1.4.6"):
        with pytest.raises(StageFault):
            version(odd)
