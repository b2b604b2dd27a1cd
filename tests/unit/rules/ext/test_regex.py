"""The regex draft on google-re2."""

from __future__ import annotations

import time
from collections.abc import Callable

from rules.actions import FileInto, RunResult

MAIL = b"Subject: [bug 12] \xc3\xa9t\xc3\xa9\r\n\r\n"
HEAD = 'require ["regex", "variables", "fileinto"]; '


def test_matching(holds: Callable[..., bool]) -> None:
    assert holds('header :regex "subject" "^\\\\[BUG ([0-9]+)\\\\]"', "regex", MAIL)
    assert not holds('header :regex :comparator "i;octet" "subject" "^\\\\[BUG"', "regex", MAIL)
    assert holds('header :regex "subject" ["x", "[[:digit:]]{2}"]', "regex", MAIL)
    assert holds('header :regex "subject" " .t.$"', "regex", MAIL)
    assert not holds('header :regex "x-none" ".*"', "regex", MAIL)


def test_groups(go: Callable[..., RunResult]) -> None:
    text = HEAD + 'if header :regex "subject" "([a-z]+) ([0-9]+)(x)?" { fileinto "${1}.${2}.${3}.${0}"; }'
    (action,) = go(text, MAIL).actions
    assert isinstance(action, FileInto) and action.mailbox == "bug.12..bug 12"


def test_quoteregex(holds: Callable[..., bool], go: Callable[..., RunResult]) -> None:
    text = HEAD + 'set :quoteregex "q" "[bug 12]"; if header :regex "subject" "^${q}" { fileinto "yes"; }'
    (action,) = go(text, MAIL).actions
    assert isinstance(action, FileInto)


def test_a_wrong_pattern_out_of_a_variable_matches_nothing(go: Callable[..., RunResult]) -> None:
    result = go(HEAD + 'set "r" "["; if header :regex "subject" "${r}" { fileinto "x"; }', MAIL)
    assert result.error is None and len(result.debug) == 1


def test_hostile_patterns(go: Callable[..., RunResult]) -> None:
    start = time.process_time()
    result = go(
        HEAD + 'if header :regex "subject" "^(a+)+$" { fileinto "x"; }',
        b"Subject: " + b"a" * 100_000 + b"!\r\n\r\n",
    )
    assert result.error is None and time.process_time() - start < 2
    many = go(HEAD + 'set "r" "a"; ' + 'if header :regex "subject" "${r}" { } ' * 300, MAIL)
    assert many.error is not None
