"""vnd.dovecot.environment: environment items as variables, and items of the mail server.

Specification: spec-bosch-sieve-dovecot-environment. Complete: yes. The namespace "env" holds every item of the
environment test, with _ for -. The items vnd.dovecot.username, vnd.dovecot.default-mailbox and
vnd.dovecot.config.* come from the host; a host that does not know gives the recipient's address, INBOX, nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.ext.environment import environment_item
from rules.registry import Extension, Namespace

if TYPE_CHECKING:
    from rules.context import Run


def _read(run: Run, name: str) -> str:
    value = environment_item(run, name)
    if value is None and "_" in name:
        value = environment_item(run, name.replace("_", "-"))
    return value or ""


_NEEDS = ("vnd.dovecot.environment",)

EXTENSION = Extension(
    "vnd_environment",
    _NEEDS,
    dialect="spec-bosch-sieve-dovecot-environment",
    implies=(("vnd.dovecot.environment", "environment"),),
    namespaces=(Namespace("env", _read, _NEEDS),),
)
