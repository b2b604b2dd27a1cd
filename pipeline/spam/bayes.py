"""Whether a message is spam, from how often its tokens were seen in spam and in wanted mail.

Each token gets a probability that leans towards a prior while little is known of it (Robinson: f = (s x + n p) / (s + n)); the
most telling ones are combined twice by Fisher's method with the chi-square distribution, once as evidence for spam and once for
ham. The result is near 0.5 when both or neither speak. A person's own counts come first; what everybody's shared table says is
the prior of tokens that are new to the person.

No I/O in here. Invariant: a finite number from 0 to 1 for any counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

SPAM_AT: Final = 0.85  # from this probability on it is spam
STRENGTH: Final = 0.45  # s: how many observations the prior is worth
SHARED_STRENGTH: Final = 2.0  # the same when the shared table knows the token
UNKNOWN: Final = 0.5  # x
NEAR: Final = 0.1  # tokens whose probability is nearer to 0.5 say nothing
TELLING: Final = 300  # tokens that are combined, the most telling first
HAM_SCORE, SPAM_SCORE = -5.0, 10.0  # the scores at probability 0 and 1; SPAM_AT is exactly the threshold


@dataclass(frozen=True, slots=True)
class Counts:
    """What a table knows: messages of both kinds, and (spam, ham) by token."""

    spam: int = 0
    ham: int = 0
    tokens: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def enough(self, least: int) -> bool:
        return self.spam >= least and self.ham >= least


@dataclass(frozen=True, slots=True)
class Opinion:
    """``probability`` None: not enough was learned yet (``spam`` and ``ham`` messages). ``telling``: (place in the list of tokens
    that was asked about, probability), the most telling first; ``names``: the first of them by name, for people."""

    probability: float | None
    spam: int
    ham: int
    telling: tuple[tuple[int, float], ...] = ()
    names: tuple[tuple[str, float], ...] = ()

    def named(self, names: Sequence[str], most: int) -> Opinion:
        told = tuple((names[at], probability) for at, probability in self.telling[:most])
        return replace(self, telling=(), names=told)


class Classifier(Protocol):
    """Tables of counts by owner; "" owns the shared one."""

    def knows(self, owner: str) -> bool:
        """Was anything learned for the owner, or for everybody? At once; may be a few seconds old."""
        ...

    async def ask(self, owners: Sequence[str], data: bytes) -> list[Opinion]:
        """One opinion an owner. Raises StageFault when a table cannot be read."""
        ...

    async def close(self) -> None: ...


def judge(tokens: Sequence[int], own: Counts, shared: Counts, least: int) -> Opinion:
    """The opinion on a message with these tokens. A table with fewer than ``least`` of a kind does not judge."""
    use_own, use_shared = own.enough(least), shared.enough(least)
    spam, ham = own.spam + shared.spam, own.ham + shared.ham
    if not use_own and not use_shared:
        return Opinion(None, spam, ham)
    telling = []
    for at, token in enumerate(tokens):
        probability, weight = UNKNOWN, STRENGTH
        if use_shared:
            known = shared.tokens.get(token)
            if known is not None:
                probability, weight = _lean(known, shared, probability, weight), SHARED_STRENGTH
        known = own.tokens.get(token) if own.spam and own.ham else None
        if known is not None:
            probability = _lean(known, own, probability, weight)
        if abs(probability - 0.5) >= NEAR:
            telling.append((at, probability))
    telling.sort(key=lambda one: -abs(one[1] - 0.5))
    del telling[TELLING:]
    return Opinion(combine([one for _, one in telling]), spam, ham, tuple(telling))


def _lean(seen: tuple[int, int], table: Counts, prior: float, strength: float) -> float:
    """Robinson's f(w); the two classes count alike, however many messages each has."""
    spam, ham = seen
    in_spam = min(1.0, spam / table.spam)
    in_ham = min(1.0, ham / table.ham)
    if not in_spam and not in_ham:
        return prior
    observed = in_spam / (in_spam + in_ham)
    number = spam + ham
    return (strength * prior + number * observed) / (strength + number)


def combine(probabilities: Iterable[float]) -> float:
    """Fisher's method both ways; 0.5 for nothing."""
    for_spam = for_ham = 0.0
    count = 0
    for one in probabilities:
        bounded = min(max(one, 1e-6), 1 - 1e-6)
        for_spam += math.log1p(-bounded)
        for_ham += math.log(bounded)
        count += 1
    if not count:
        return 0.5
    spam = 1.0 - _chi_square(-2.0 * for_spam, count)
    ham = 1.0 - _chi_square(-2.0 * for_ham, count)
    return (spam - ham + 1.0) / 2.0


def _chi_square(value: float, half_freedom: int) -> float:
    """The chance of a chi-square of 2 x ``half_freedom`` degrees of freedom being at least ``value``."""
    half = value / 2.0
    logarithm = -half
    total = math.exp(logarithm)
    for at in range(1, half_freedom):
        logarithm += math.log(half / at) if half > 0 else -math.inf
        total += math.exp(logarithm)
    return min(1.0, total)


def score(probability: float, threshold: float) -> float:
    """On the scale of the other engines: ``threshold`` at SPAM_AT, HAM_SCORE at 0, ``threshold`` + SPAM_SCORE/2 at 1."""
    if probability >= SPAM_AT:
        return threshold + (probability - SPAM_AT) / (1 - SPAM_AT) * SPAM_SCORE / 2
    return HAM_SCORE + (threshold - HAM_SCORE) * probability / SPAM_AT
