"""duplicate: was a message with this id seen before?

Specification: RFC 7352. Complete: yes. All tests with the same arguments give the same answer in one run,
because the host answers from what was remembered before it; keys are remembered with the delivery (action
Remember). With :last a duplicate is remembered anew.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from rules.actions import Remember
from rules.context import StateKey
from rules.registry import Extension, Kind, TagSpec, TestFn, TestSpec
from rules.sources import field_name

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.context import Run

_DEFAULT_SECONDS = 7 * 86_400
_FIELD_NAME = re.compile(r"[!-9;-~]+")
_ANSWERS: StateKey[dict[bytes, bool]] = StateKey("duplicate", dict)


def duplicate_key(handle: str | None, unique_id: str) -> bytes:
    """What is remembered; RFC 7352 3.2: separate for each handle, and for none."""
    pieces = (
        b"" if handle is None else b"h" + handle.encode("utf-8", "surrogatepass"),
        unique_id.encode("utf-8", "surrogatepass"),
    )
    digest = hashlib.sha256(b"duplicate")
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.digest()


def _unique_id(run: Run, bound: Bound) -> str | None:
    given = bound.tag_text("uniqueid")
    if given is not None:
        return run.expand(given)
    name = run.expand(bound.tag_text("header") or "message-id")
    if not _FIELD_NAME.fullmatch(name):
        return None
    values = run.view.values(field_name(name))
    return values[0] if values and values[0] else None


def _duplicate(bound: Bound) -> TestFn:
    handle = bound.tag_text("handle")
    asked = bound.tag_number("seconds")
    last = bound.has("last")

    def test(run: Run) -> bool:
        unique_id = _unique_id(run, bound)
        run.seen, run.key = unique_id or "", "" if handle is None else run.expand(handle)
        seconds = min(_DEFAULT_SECONDS if asked is None else asked, run.limits.duplicate_seconds)
        if unique_id is None or seconds == 0:
            return False
        key = duplicate_key(None if handle is None else run.expand(handle), unique_id)
        answers = run.get(_ANSWERS)
        if key not in answers:
            answers[key] = run.host.seen(key)
            if not answers[key] or last:
                run.result.add(Remember(key, seconds))
        return answers[key]

    return test


_ON = ("duplicate",)

EXTENSION = Extension(
    "duplicate",
    _ON,
    dialect="RFC 7352",
    tests=(TestSpec("duplicate", _ON, link=_duplicate, reads=("header", "state")),),
    tags=(
        TagSpec("handle", _ON, kind=Kind.STRING),
        TagSpec("header", _ON, kind=Kind.STRING, group="id"),
        TagSpec("uniqueid", _ON, kind=Kind.STRING, group="id"),
        TagSpec("seconds", _ON, kind=Kind.NUMBER),
        TagSpec("last", _ON),
    ),
)
