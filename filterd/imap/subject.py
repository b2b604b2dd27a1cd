"""The base subject. Specification: RFC 5256 2.1. Complete. Bounded: each round removes something."""

from __future__ import annotations

import re

_BLANKS = re.compile(r"\s+")
_TRAILER = re.compile(r"\(fwd\)\s*\Z", re.I)
_BLOB = re.compile(r"\[[^\[\]]*\]\s*")
_BLOBS = re.compile(r"(?:\[[^\[\]]*+\]\s*+)*+")
_REFWD = re.compile(r"(?:re|fwd?)\s*(?:\[[^\[\]]*\]\s*)?:\s*", re.I)
_FWD = re.compile(r"\[fwd:(.*)\]\Z", re.I | re.S)
_MAX = 2_000  # characters looked at


def base(text: str) -> tuple[str, bool]:
    """The subject without Re:, Fwd:, [list] and (fwd); and whether there was a sign of reply or forward."""
    text = _BLANKS.sub(" ", text[:_MAX]).strip()
    answer = False
    while True:
        while (found := _TRAILER.search(text)) is not None:
            text = text[: found.start()].rstrip()
            answer = True
        text, changed = _leaders(text)
        answer |= changed
        wrapped = _FWD.match(text)
        if wrapped is None:
            return text, answer
        text = wrapped[1].strip()
        answer = True


def _leaders(text: str) -> tuple[str, bool]:
    answer = False
    while True:
        blobs = _BLOBS.match(text)
        found = _REFWD.match(text, blobs.end() if blobs else 0)
        if found is not None:
            text = text[found.end() :]
            answer = True
            continue
        blob = _BLOB.match(text)
        if blob is None or blob.end() == len(text):
            return text.strip(), answer
        text = text[blob.end() :]
