"""Settings by Pigeonhole's names, in both spellings."""

from __future__ import annotations

import pytest

from rules.testkit.settings import engine_settings, limits_of, octets, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("2s", 2),
        ("2 secs", 2),
        ("500 ms", 0.5),
        ("3 hours", 10800),
        ("1d", 86400),
        ("x", None),
        ("3 y", None),
    ],
)
def test_times(text: str, value: float | None) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("4000", 4000), ("2k", 2048), ("1 MB", 1 << 20), ("k", None)])
def test_sizes(text: str, value: int | None) -> None:
    assert octets(text) == value


def test_limits() -> None:
    limits = limits_of(
        {
            "sieve_max_redirects": "9",
            "sieve_variables_max_value_size": "8k",
            "sieve_max_cpu_time": "2 s",
            "sieve_max_actions": "many",
        }
    )
    assert (limits.redirects, limits.variable_size, limits.cpu_seconds, limits.actions) == (9, 8192, 2.0, 32)
    assert limits_of({"sieve_variables_max_variable_size": "5000"}).variable_size == 5000


def test_editheader_in_both_spellings() -> None:
    new = engine_settings(
        {
            "sieve_editheader_header": "subject x-a",
            "sieve_editheader_header/x-a/forbid_add": "yes",
            "sieve_editheader_header/x-b/forbid_add": "yes",
            "sieve_editheader_header/x-a/forbid_delete": "no",
        }
    )
    assert (new["editheader_forbid_add"], new["editheader_forbid_delete"]) == ("x-a", "")
    old = engine_settings({"sieve_editheader_forbid_delete": "X-C", "sieve_editheader_protected": "X-D"})
    assert (old["editheader_forbid_add"], old["editheader_forbid_delete"]) == ("x-d", "x-c x-d")


def test_check_recipient_in_both_spellings() -> None:
    assert engine_settings({"sieve_vacation_check_recipient": "no"})["vacation_check_recipient"] == "no"
    assert engine_settings({"sieve_vacation_dont_check_recipient": "yes"})["vacation_check_recipient"] == "no"
    assert "vacation_check_recipient" not in engine_settings({})
