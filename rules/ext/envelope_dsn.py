"""envelope-dsn, redirect-dsn, envelope-deliverby, redirect-deliverby: delivery status parameters.

Specification: RFC 6009 (with RFC 3461 and 2852). Complete: yes.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from rules.errors import RunError
from rules.ext.date import check_zone, date_part
from rules.registry import Extension, Kind, TagSpec

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.context import Run
    from rules.options import ActionOptions

# Envelope part -> (is it a parameter of RCPT?, keyword)
DSN_PARTS = {
    "notify": (True, "NOTIFY"),
    "orcpt": (True, "ORCPT"),
    "ret": (False, "RET"),
    "envid": (False, "ENVID"),
    "bytimeabsolute": (False, "BY"),
    "bytimerelative": (False, "BY"),
    "bymode": (False, "BY"),
    "bytrace": (False, "BY"),
}
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)", re.IGNORECASE)
DELIVER_BY = frozenset(name for name, (_, keyword) in DSN_PARTS.items() if keyword == "BY")
_NOTIFY = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}


def _xtext(value: str) -> str:
    """RFC 3461 4: +XX is an octet."""
    return _XTEXT.sub(lambda found: chr(int(found[1], 16)), value)


def dsn_values(run: Run, name: str, zone: timezone | None) -> list[str]:
    """RFC 6009 sections 4 and 5: the values of one part; ``zone`` None is the local one."""
    of_rcpt, keyword = DSN_PARTS[name]
    value = (run.envelope.rcpt_params if of_rcpt else run.envelope.mail_params).get(keyword)
    if value is None:
        return []
    if name == "notify":
        return [word.strip().upper() for word in value.split(",") if word.strip()]
    if name in ("orcpt", "envid"):
        return [_xtext(value)]
    if name == "ret":
        return [value.upper()]
    found = _BY.fullmatch(value.strip())
    if found is None:
        return []
    if name == "bytimerelative":
        return [str(int(found[1]))]
    if name == "bytimeabsolute":
        moment = (run.now() + timedelta(seconds=int(found[1]))).astimezone(zone or run.now().tzinfo)
        return [date_part(moment, "iso8601")]
    if name == "bymode":
        return ["notify" if found[2].upper() == "N" else "return"]
    return ["trace" if found[3] else ""]


def _notify_fault(value: str) -> str | None:
    words = [word.strip().upper() for word in value.split(",")]
    if not set(words) <= _NOTIFY or not words:
        return ":notify takes NEVER, or SUCCESS, FAILURE and DELAY joined by commas"
    if "NEVER" in words and len(words) > 1:
        return ":notify NEVER stands alone"
    return None


def _check_notify(checker: Checker, bound: Bound) -> None:
    value = bound.tag_text("notify")
    if isinstance(value, str) and (fault := _notify_fault(value)):
        checker.error(checker.where_tag(bound, "notify"), "dsn", fault, 'for example "NEVER"')


def _amend_notify(run: Run, bound: Bound, options: ActionOptions) -> None:
    value = run.expand(bound.tag_text("notify") or "")
    if fault := _notify_fault(value):
        raise RunError(f"redirect: {fault}")
    options.notify = ",".join(word.strip().upper() for word in value.split(","))


def _check_ret(checker: Checker, bound: Bound) -> None:
    value = bound.tag_text("ret")
    if isinstance(value, str) and value.upper() not in ("FULL", "HDRS"):
        checker.error(checker.where_tag(bound, "ret"), "dsn", ":ret takes FULL or HDRS", 'write "HDRS"')


def _amend_ret(run: Run, bound: Bound, options: ActionOptions) -> None:
    value = run.expand(bound.tag_text("ret") or "").upper()
    if value not in ("FULL", "HDRS"):
        raise RunError("redirect: :ret takes FULL or HDRS")
    options.ret = value


def _check_mode(checker: Checker, bound: Bound) -> None:
    value = bound.tag_text("bymode")
    if isinstance(value, str) and value.lower() not in ("notify", "return"):
        checker.error(checker.where_tag(bound, "bymode"), "deliverby", ":bymode takes notify or return", "")


def _amend_by(run: Run, bound: Bound, options: ActionOptions) -> None:
    mode = run.expand(bound.tag_text("bymode") or "return").lower()
    if mode not in ("notify", "return"):
        raise RunError("redirect: :bymode takes notify or return")
    options.by_mode = "N" if mode == "notify" else "R"
    options.by_trace = bound.has("bytrace")
    relative = bound.tag_number("bytimerelative")
    if relative is not None:
        options.by_time = min(relative, 999_999_999)
        return
    absolute = run.expand(bound.tag_text("bytimeabsolute") or "")
    moment = _absolute(absolute)
    if moment is None:
        raise RunError(f'redirect: "{absolute[:40]}" is not a date and time of RFC 3339')
    options.by_time = max(-999_999_999, min(999_999_999, int((moment - run.now()).total_seconds())))


def _absolute(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.strip().upper().replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _check_absolute(checker: Checker, bound: Bound) -> None:
    value = bound.tag_text("bytimeabsolute")
    if isinstance(value, str) and _absolute(value) is None:
        message = f'"{value[:40]}" is not a date and time of RFC 3339'
        checker.error(
            checker.where_tag(bound, "bytimeabsolute"), "deliverby", message, "2026-01-31T12:00:00Z"
        )


def _check_by_needs_time(checker: Checker, bound: Bound) -> None:
    if not bound.has("bytimerelative") and not bound.has("bytimeabsolute"):
        checker.error(
            bound.node.pos, "deliverby", ":bymode and :bytrace need a :bytime tag", "add :bytimerelative 3600"
        )
    _check_mode(checker, bound)


_REDIRECT = ("redirect",)
_BY_NEEDS = ("redirect-deliverby",)

EXTENSION = Extension(
    "envelope_dsn",
    ("envelope-dsn", "envelope-deliverby", "redirect-dsn", "redirect-deliverby"),
    dialect="RFC 6009",
    tags=(
        TagSpec("zone", ("envelope",), ("envelope-deliverby",), Kind.STRING, check=check_zone),
        TagSpec(
            "notify", _REDIRECT, ("redirect-dsn",), Kind.STRING, check=_check_notify, amend=_amend_notify
        ),
        TagSpec("ret", _REDIRECT, ("redirect-dsn",), Kind.STRING, check=_check_ret, amend=_amend_ret),
        TagSpec("bytimerelative", _REDIRECT, _BY_NEEDS, Kind.NUMBER, group="delivery time", amend=_amend_by),
        TagSpec(
            "bytimeabsolute",
            _REDIRECT,
            _BY_NEEDS,
            Kind.STRING,
            group="delivery time",
            check=_check_absolute,
            amend=_amend_by,
        ),
        TagSpec("bymode", _REDIRECT, _BY_NEEDS, Kind.STRING, check=_check_by_needs_time),
        TagSpec("bytrace", _REDIRECT, _BY_NEEDS, check=_check_by_needs_time),
    ),
)
