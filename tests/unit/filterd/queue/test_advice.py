"""Remote answers decoded."""

from __future__ import annotations

import pytest

from filterd.queue.advice import advice


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("450 4.2.0 <a@b>: Recipient address rejected: Greylisted, see http://x", "greylists"),
        (
            "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
            "block list",
        ),
        ("550-5.7.26 Unauthenticated email from x is not accepted due to domain's DMARC policy", "DMARC"),
        ("550 5.7.23 SPF validation failed", "SPF"),
        ("550 5.7.25 The IP address does not have a PTR record", "PTR"),
        ("554 5.7.1 <a@b>: Relay access denied", "MX record"),
        ("550 5.1.1 <a@b>: Recipient address rejected: User unknown", "no such address"),
        ("452 4.2.2 The email account is over quota", "full"),
        ("451 4.4.1 cannot connect to mx.x [192.0.2.1]:25: no answer in time", "port 25"),
        ("451 4.4.3 the mail hosts of x cannot be looked up: time-out", "DNS"),
        ("421 4.7.28 unusual rate of mail", "more slowly"),
        ("550 nothing known", "final"),
        ("451 nothing known", "by itself"),
    ],
)
def test_advice(reply: str, word: str) -> None:
    assert word in advice(reply)


def test_no_advice_for_success_or_nonsense() -> None:
    assert advice("250 2.0.0 ok") == advice("") == advice("hello") == ""
