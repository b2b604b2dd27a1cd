"""The arithmetic of the classifier: bounded, symmetric, careful with little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spam import bayes
from pipeline.spam.bayes import SPAM_AT, Counts, combine, judge, score

TOKENS = list(range(40))
SPAMMY = Counts(20, 20, {one: (15, 1) for one in TOKENS})
HAMMY = Counts(20, 20, {one: (1, 15) for one in TOKENS})


def test_what_was_seen_in_spam_is_spam_and_the_other_way_round() -> None:
    spam = judge(TOKENS, SPAMMY, Counts(), 10).probability
    ham = judge(TOKENS, HAMMY, Counts(), 10).probability
    assert spam is not None and ham is not None
    assert spam > 0.999 and ham < 0.001


@pytest.mark.parametrize(("spam", "ham"), [(0, 0), (9, 100), (100, 9), (9, 9)])
def test_too_little_training_gives_no_opinion(spam: int, ham: int) -> None:
    opinion = judge(TOKENS, Counts(spam, ham, {1: (5, 0)}), Counts(), 10)
    assert opinion.probability is None and (opinion.spam, opinion.ham) == (spam, ham)


def test_unknown_tokens_say_nothing() -> None:
    assert judge([99, 98], SPAMMY, Counts(), 10).probability == 0.5


def test_the_shared_table_judges_first_and_the_own_one_overrules() -> None:
    assert (judge(TOKENS, Counts(), SPAMMY, 10).probability or 0) > 0.99
    assert (judge(TOKENS, HAMMY, SPAMMY, 10).probability or 1) < 0.5


@given(st.lists(st.floats(0, 1), max_size=400))
def test_combine_is_a_probability_and_symmetric(values: list[float]) -> None:
    found = combine(values)
    assert 0 <= found <= 1
    assert found == pytest.approx(1 - combine([1 - one for one in values]), abs=1e-6)


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=10),
)
def test_odd_counts_do_no_harm(spam: int, ham: int, tokens: dict[int, tuple[int, int]]) -> None:
    table = Counts(spam, ham, tokens)
    for own, shared in ((table, Counts()), (Counts(), table), (table, table)):
        found = judge(range(10), own, shared, 1).probability
        assert found is None or 0 <= found <= 1


def test_the_score_meets_the_threshold_exactly_at_spam_at() -> None:
    assert score(SPAM_AT, 5.0) == pytest.approx(5.0)
    assert score(SPAM_AT - 1e-6, 5.0) < 5.0
    assert score(0.0, 5.0) == bayes.HAM_SCORE and score(1.0, 5.0) == pytest.approx(10.0)
