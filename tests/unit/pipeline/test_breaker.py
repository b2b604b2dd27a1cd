"""The breaker: closed, open, one single probe."""

from __future__ import annotations

from pipeline.breaker import Breaker


def opened(limit: int = 3) -> Breaker:
    breaker = Breaker(limit=limit, pause=10.0)
    for _ in range(limit):
        assert breaker.allow(0.0)
        breaker.fault(0.0)
    return breaker


def test_opens_after_faults_in_a_row() -> None:
    breaker = opened()
    assert breaker.is_open
    assert not breaker.allow(9.9)


def test_an_answer_between_sets_the_count_back() -> None:
    breaker = Breaker(limit=2)
    breaker.fault(0.0)
    breaker.success()
    assert not breaker.fault(0.0)
    assert breaker.fault(0.0)


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    assert breaker.allow(10.0)
    assert not breaker.allow(10.0)
    breaker.success()
    assert breaker.allow(10.0) and breaker.allow(10.0)


def test_a_failed_probe_waits_again() -> None:
    breaker = opened()
    assert breaker.allow(10.0)
    breaker.fault(11.0)
    assert not breaker.allow(20.9)
    assert breaker.allow(21.0)


def test_a_withdrawn_probe_is_given_back() -> None:
    breaker = opened()
    assert breaker.allow(10.0)
    breaker.release()
    assert breaker.allow(10.0)


def test_late_faults_of_earlier_questions_do_not_move_the_pause() -> None:
    breaker = opened()
    breaker.fault(9.0)
    assert breaker.allow(10.0)
