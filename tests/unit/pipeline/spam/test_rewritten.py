"""What spamd gave back, as edits; and what reading it costs on the loop."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from pipeline.spam import rewritten
from pipeline.verdict import HeaderEdit
from rules.mail.message import Message

BARE = re.compile(rb"(?<!\r)\n")
SENT = Message(b"From: a@b\r\nSubject: hello\r\nX-Spam-Level: old\r\n\r\nbody\r\n")


def test_fields_of_spamd_and_a_rewritten_subject() -> None:
    text = (
        b"X-Envelope-From: <x>\nFrom: a@b\nSubject: [SPAM] hello\nX-Spam-Flag: YES\n"
        b"X-Spam-Status: Yes, score=9.1 tests=BAYES_99,URI_X,\n\tNONE,AWL autolearn=no\n\nbody\n"
    )
    block = rewritten.told(text)
    assert rewritten.rules(block) == ["BAYES_99", "URI_X", "AWL"]
    edits = rewritten.header_edits(SENT, text, whole=True)
    assert [(one.kind, one.name) for one in edits] == [
        ("add", "X-Spam-Status"),
        ("remove", "subject"),
        ("add", "Subject"),
    ]
    assert edits[2] == HeaderEdit("add", "Subject", raw=b"Subject: [SPAM] hello\r\n")
    assert rewritten.new_body(SENT, text) is None
    assert rewritten.new_body(SENT, text + b"more") == b"body\r\nmore"
    assert rewritten.header_edits(SENT, b"", whole=False) == []


def test_a_report_around_the_message() -> None:
    text = b"From: a@b\nSubject: hello\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nspam\n--x--\n"
    edits = rewritten.header_edits(SENT, text, whole=True)
    assert [(one.kind, one.name) for one in edits] == [("add", "MIME-Version"), ("add", "Content-Type")]
    assert rewritten.new_body(SENT, text) == b"--x\r\n\r\nspam\r\n--x--\r\n"


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b":"]), max_size=30))
def test_line_ends_are_those_of_the_pattern(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    assert rewritten.told(text).data == BARE.sub(b"\r\n", text)


def test_line_ends_cost_a_fraction_of_the_pattern() -> None:
    text = b"a: b\n\n" + b"\n" * 1_000_000

    def cpu(pattern: bool) -> float:
        best = 9.0
        for _ in range(3):
            began = time.process_time()
            if pattern:
                BARE.sub(b"\r\n", text)
            else:
                rewritten.told(text)
            best = min(best, time.process_time() - began)
        return best

    assert cpu(False) < cpu(True) / 2
