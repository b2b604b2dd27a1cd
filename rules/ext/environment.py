"""environment: facts about where the script runs.

Specification: RFC 5183. Complete: yes; which items have values is the host's matter. An unknown item makes
the test false. The host's settings (``vnd.filterd.setting.*``) are not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.context import SETTING_PREFIX
from rules.match import link_match
from rules.registry import Extension, Kind, Param, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run

_DEFAULTS = {"name": "filterd", "location": "MDA", "phase": "during", "vnd.dovecot.default-mailbox": "INBOX"}

_EVENT = ("imap.user", "imap.email", "imap.cause", "imap.mailbox", "imap.changedflags")


def environment_item(run: Run, name: str) -> str | None:
    """The value of an item, None when it is not known."""
    name = name.lower()
    if name.startswith(SETTING_PREFIX):
        return None
    value = run.host.environment(name)
    if value is None and name == "vnd.dovecot.username":
        return run.envelope.rcpt_to.strip("<>")
    if value is None and name in _EVENT and run.script is not None and "imapsieve" in run.script.uses:
        return ""  # RFC 6785 4: there was no event
    return _DEFAULTS.get(name) if value is None else value


def _environment(bound: Bound) -> TestFn:
    match = link_match(bound)
    name = bound.text(0)

    def test(run: Run) -> bool:
        value = environment_item(run, run.expand(name))
        if value is None:
            run.seen, run.key = "", run.expand(name)
            return False
        return match(run, [value])

    return test


EXTENSION = Extension(
    "environment",
    ("environment",),
    dialect="RFC 5183",
    tests=(
        TestSpec(
            "environment",
            ("environment",),
            (Param("item", Kind.STRING), Param("keys", Kind.STRINGS)),
            link=_environment,
            matches=True,
        ),
    ),
)
