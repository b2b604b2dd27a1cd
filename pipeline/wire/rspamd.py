"""Questions to rspamd and its answers, judged strictly.

Format (rspamd's protocol documentation): ``POST /checkv2`` with the message as body and what is known of it in header fields;
the answer is a JSON object with ``score``, ``required_score``, ``action``, ``symbols`` and, for mail servers, ``milter``.
``POST /learnspam`` and ``/learnham`` go to the controller, with its password.
Invariant: whatever does not fit raises StageFault; a score that is no finite number is not a score.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Final

from pipeline.errors import StageFault
from pipeline.transaction import Transaction
from pipeline.wire.http import Response
from pipeline.wire.spamd import RULES, SCORE_LIMIT, Judgement

ACTIONS: Final = (
    "no action", "greylist", "add header", "rewrite subject", "soft reject", "reject", "discard", "quarantine",
)  # fmt: skip
SPAM_ACTIONS: Final = frozenset(("add header", "rewrite subject", "reject", "discard", "quarantine"))
HEADERS: Final = 20  # fields that it may have us add
TAG: Final = "filterd"

_NAME = re.compile(r"[A-Za-z0-9_]{1,80}")
_FIELD_NAME = re.compile(r"X-[A-Za-z0-9-]{1,60}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """``headers``: fields (X-...) that rspamd wants added. ``skipped``: its settings say that it is not scanned."""

    judgement: Judgement
    action: str
    headers: tuple[tuple[str, str], ...] = ()
    skipped: bool = False


def question(transaction: Transaction, hostname: str, user: str) -> list[tuple[str, str]]:
    """The header fields that tell rspamd what we know; ``user``: whose settings, "" = nobody's."""
    envelope = transaction.envelope
    client = envelope.client
    fields = [("Queue-Id", transaction.trace_id), ("MTA-Tag", TAG), ("MTA-Name", hostname)]
    if client.ip is not None and client.facts_trusted:
        fields += [("IP", client.ip), ("Helo", client.helo), ("Hostname", client.name or "unknown")]
    fields.append(("From", envelope.reverse_path))
    fields += [("Rcpt", recipient.address) for recipient in envelope.recipients[:50]]
    if user:
        fields.append(("Deliver-To", user))
    if client.auth:
        fields.append(("User", client.auth))
    return fields


def judged(response: Response) -> Answer:
    """The verdict of ``/checkv2``."""
    told = _object(response)
    if response.status != 200 or "error" in told:
        raise StageFault(
            "unavailable", f"rspamd reports an error: {response.status} {_short(told.get('error'))}"
        )
    action = told.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise StageFault("protocol", f"rspamd gave no known action: {_short(action)}")
    skipped = told.get("is_skipped") is True and action == "no action"  # GTUBE is skipped too, and rejected
    score, threshold = _number(told.get("score")), _number(told.get("required_score"))
    symbols = told.get("symbols")
    rules: list[tuple[str, float | None]] = []
    if isinstance(symbols, dict):
        for name, facts in list(symbols.items())[:RULES]:
            points = facts.get("score") if isinstance(facts, dict) else None
            if _NAME.fullmatch(name):
                rules.append((name, _number(points) if _is_number(points) else None))
    return Answer(Judgement(score, threshold, tuple(rules)), action, _headers(told.get("milter")), skipped)


def learned(response: Response) -> bool:
    """True: learned now; False: it was known already. Raises StageFault."""
    told = _object(response)
    if response.status == 200 and told.get("success") is True:
        return True
    text = _short(told.get("error"))
    if response.status == 208 or "already learned" in text or "has been already" in text:
        return False
    kind = "protocol" if response.status == 200 else "unavailable"
    raise StageFault(kind, f"rspamd did not learn: {response.status} {text}")


def _object(response: Response) -> dict[str, object]:
    def constant(word: str) -> float:
        raise ValueError(word)

    try:
        told = json.loads(response.body, parse_constant=constant)
    except (ValueError, RecursionError):
        raise StageFault("protocol", f"rspamd's answer ({response.status}) is no JSON") from None
    if not isinstance(told, dict):
        raise StageFault("protocol", "rspamd's answer is no JSON object")
    return told


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= SCORE_LIMIT and math.isfinite(value)


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or not _is_number(value):
        raise StageFault("protocol", "rspamd's score is no sensible number")
    return float(value)


def _headers(milter: object) -> tuple[tuple[str, str], ...]:
    """Only X- fields with a plain text are taken over."""
    wanted = milter.get("add_headers") if isinstance(milter, dict) else None
    out: list[tuple[str, str]] = []
    if isinstance(wanted, dict):
        for name, facts in list(wanted.items())[:HEADERS]:
            value = facts.get("value") if isinstance(facts, dict) else facts
            if isinstance(value, str) and _FIELD_NAME.fullmatch(name):
                out.append((name, _CONTROLS.sub(" ", value)[:900].strip()))
    return tuple(out)


def _short(value: object) -> str:
    return _CONTROLS.sub(" ", str(value or ""))[:120]
