"""The public ARC test suite (ValiMail, MIT licence) at its expected results.

`ARC_TESTS=/path/to/arc_test_suite/tests` names a checkout's folder; without it the test is skipped. Its two data files
are 171 validation cases and the signing cases, of which we check that what we seal verifies (the text of a seal is not
prescribed by RFC 8617, only what it covers).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from pipeline.dkim.arc import ArcVerification
from pipeline.zone import Zone
from rules.mail.header import scan

FOLDER = os.environ.get("ARC_TESTS")
WANTED = {"None": "none", "Pass": "pass", "Fail": "fail", "": "fail"}  # "" = the chain was given up earlier


@pytest.mark.slow
@pytest.mark.skipif(FOLDER is None, reason="ARC_TESTS does not name the ARC test suite's folder")
def test_validation_suite() -> None:
    text = (Path(FOLDER or "") / "arc-draft-validation-tests.yml").read_text("utf-8")
    count, wrong = 0, []
    for scenario in yaml.safe_load_all(text):
        zone = Zone()
        for name, record in scenario["txt-records"].items():
            if record:
                zone.add(name, "TXT", record.replace("\n", ""))
        for name, test in scenario["tests"].items():
            count += 1
            message = (test["message"] or "").replace("\r\n", "\n").replace("\n", "\r\n").encode("utf-8")
            block = scan(message)
            chain = ArcVerification(block, 1.7e9)
            for key in chain.wanted():
                chain.give(key, zone.lookup(key, "TXT"))
            if chain.needs_body():
                chain.feed(message[block.body_start :])
            result = chain.result()
            if result.result != WANTED[str(test["cv"])]:
                wrong.append((name, test["cv"], result))
    assert count == 171
    assert wrong == []
