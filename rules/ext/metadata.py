"""mboxmetadata, servermetadata: annotations of mailboxes and of the server.

Specification: RFC 5490 sections 3.3, 3.4, 4. Complete: yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rules.match import expand, link_match
from rules.registry import Extension, Kind, Param, TestFn, TestSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run


def _check(checker: Checker, bound: Bound) -> None:
    index = 0 if bound.name.startswith("server") else 1
    for item, name in enumerate(bound.texts(index)):
        if isinstance(name, str) and not name.lower().startswith(("/private/", "/shared/")):
            message = (
                f'the annotation "{name[:60]}" begins neither with /private/ nor with /shared/ (RFC 5464)'
            )
            checker.warn(checker.where(bound, index, item), "annotation", message, "/private/comment")


def _value(bound: Bound) -> TestFn:
    match = link_match(bound)
    of_mailbox = not bound.name.startswith("server")

    def test(run: Run) -> bool:
        mailbox = run.expand(bound.text(0)) if of_mailbox else None
        name = run.expand(bound.text(1 if of_mailbox else 0))
        value = run.host.metadata(mailbox, name)
        if value is None:
            run.seen, run.key = "", name
            return False
        return match(run, [value])

    return test


def _exists(bound: Bound) -> TestFn:
    of_mailbox = not bound.name.startswith("server")

    def test(run: Run) -> bool:
        mailbox = run.expand(bound.text(0)) if of_mailbox else None
        for name in expand(run, bound.texts(1 if of_mailbox else 0)):
            value = run.host.metadata(mailbox, name)
            run.seen, run.key = value or "", name
            if value is None:
                return False
        return True

    return test


_BOX = Param("mailbox", Kind.STRING)
_NAME, _NAMES = Param("annotation", Kind.STRING), Param("annotations", Kind.STRINGS)
_KEYS = Param("keys", Kind.STRINGS)
_OF_BOX, _OF_SERVER = ("mboxmetadata",), ("servermetadata",)

EXTENSION = Extension(
    "metadata",
    ("mboxmetadata", "servermetadata"),
    dialect="RFC 5490",
    tests=(
        TestSpec("metadata", _OF_BOX, (_BOX, _NAME, _KEYS), check=_check, link=_value, matches=True),
        TestSpec("metadataexists", _OF_BOX, (_BOX, _NAMES), check=_check, link=_exists),
        TestSpec("servermetadata", _OF_SERVER, (_NAME, _KEYS), check=_check, link=_value, matches=True),
        TestSpec("servermetadataexists", _OF_SERVER, (_NAMES,), check=_check, link=_exists),
    ),
)
