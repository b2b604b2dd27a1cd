"""spamd's answers (the fault server's table in tests/peers/test_spamd.py has the rest)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageFault
from pipeline.wire.spamd import Judgement, judge, wanted

GOOD = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 5\r\nSpam: True ; 6.2 / 5.0\r\n\r\nA,B_1"


def test_symbols() -> None:
    assert judge(GOOD) == Judgement(6.2, 5.0, (("A", None), ("B_1", None)))
    assert judge(GOOD.replace(b"True", b"no").replace(b"A,B_1", b"     ")).rules == ()


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_grown_octet_by_octet_nothing_but_the_whole_is_an_answer(at: int) -> None:
    with pytest.raises(StageFault):
        judge(GOOD[:at])
    whole = wanted(GOOD[:at])
    assert whole is None or whole == len(GOOD)


def test_with_octets_behind_it() -> None:
    with pytest.raises(StageFault):
        judge(GOOD + b"x")


@pytest.mark.parametrize(
    ("code", "kind"), [(75, "unavailable"), (69, "unavailable"), (76, "unavailable"), (1, "protocol")]
)
def test_sysexits(code: int, kind: str) -> None:
    with pytest.raises(StageFault) as caught:
        judge(f"SPAMD/1.0 {code} WORD\r\n\r\n".encode())
    assert caught.value.kind == kind


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_never_anything_but_a_fault_or_a_number(raw: bytes) -> None:
    for text in (raw, b"SPAMD/1.1 0 EX_OK\r\n" + raw, GOOD[:-5] + raw, GOOD.replace(b"6.2", raw)):
        try:
            wanted(text)
            assert abs(judge(text).score) <= 1e6
        except StageFault:
            pass
