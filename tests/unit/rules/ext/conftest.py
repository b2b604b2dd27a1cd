"""What every extension's tests need: run a script over a mail and look at what it decided."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rules.actions import RunResult
from rules.compiler import compile_script
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.mail.message import Message
from rules.simplehost import SimpleHost

Go = Callable[..., RunResult]
Holds = Callable[..., bool]


def _go(
    text: str,
    mail: bytes = b"",
    host: SimpleHost | None = None,
    sender: str = "joe@example.com",
    to: str = "me@example.org",
) -> RunResult:
    script = compile_script(text)
    return run([script], Message(mail), ScriptEnvelope(sender, to), host or SimpleHost())


@pytest.fixture
def go() -> Go:
    """Runs a script: go(text, mail, host, sender, to)."""
    return _go


@pytest.fixture
def holds() -> Holds:
    """Is a test true? holds(test, capabilities, mail, host)."""

    def ask(test: str, require: str = "", mail: bytes = b"", host: SimpleHost | None = None) -> bool:
        names = ", ".join(f'"{name}"' for name in ["ihave", *require.split()])
        result = _go(f"require [{names}]; if {test} {{ discard; }}", mail, host)
        assert result.error is None, result.error
        return type(result.actions[0]).__name__ == "Discard"

    return ask
