"""RFC 6134."""

from __future__ import annotations

from collections.abc import Callable

from rules.actions import FileInto, Redirect, RunResult
from rules.simplehost import SimpleHost

HOST = SimpleHost(
    lists={"urn:ietf:params:sieve:addrbook:default": {"joe@example.com"}, "tag:x,2026:l": set()}
)
MAIL = b"From: Joe@Example.com\r\n\r\n"


def test_list(holds: Callable[..., bool]) -> None:
    assert holds('address :list "from" ":addrbook:default"', "extlists", MAIL, HOST)
    assert holds('address :list "from" ["tag:x,2026:l", ":addrbook:default"]', "extlists", MAIL, HOST)
    assert not holds('address :list "from" "tag:x,2026:l"', "extlists", MAIL, HOST)
    assert not holds('address :list "from" "tag:x,2026:none"', "extlists", MAIL, HOST)
    assert holds('valid_ext_list ["tag:x,2026:l", ":addrbook:default"]', "extlists", MAIL, HOST)
    assert not holds('valid_ext_list ["tag:x,2026:l", "tag:x,2026:none"]', "extlists", MAIL, HOST)


def test_match_variable(go: Callable[..., RunResult]) -> None:
    text = 'require ["extlists", "variables", "fileinto"]; if address :list "from" ":addrbook:default" { fileinto "${0}"; }'
    (action,) = go(text, MAIL, HOST).actions
    assert isinstance(action, FileInto) and action.mailbox == "Joe@Example.com"


def test_redirect(go: Callable[..., RunResult]) -> None:
    (action,) = go('require "extlists"; redirect :list "tag:x,2026:l";', MAIL, HOST).actions
    assert isinstance(action, Redirect) and action.list_name == "tag:x,2026:l"
    assert go('require "extlists"; redirect :list "tag:none";', MAIL, HOST).error is not None
