"""ARC verification against chains with one defect each (arc_cases.py), and against the public test suite when it is at hand.

`ARC_TESTS=/path/to/arc_test_suite/tests` names the folder of a checkout of the public suite (ValiMail, MIT licence): 171
cases. It is in no package index, so without that the cases of our own stand for it; they cover the same groups.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from pipeline.dkim.arc import ArcResult, ArcVerification
from pipeline.zone import Zone
from rules.mail.header import scan
from tests.vectors.arc_cases import DOMAIN, SELECTOR, Case, Maker, cases

FOLDER = os.environ.get("ARC_TESTS")
WANTED = {"None": "none", "Pass": "pass", "Fail": "fail", "": "fail"}  # "" = the chain was given up earlier


def verify(message: bytes, zone: Zone) -> ArcResult:
    block = scan(message)
    chain = ArcVerification(block, 1.7e9)
    for key in chain.wanted():
        chain.give(key, zone.lookup(key, "TXT"))
    if chain.needs_body():
        chain.feed(message[block.body_start :])
    return chain.result()


def test_chains_with_one_defect() -> None:
    maker = Maker()
    zone = Zone()
    zone.add(f"{SELECTOR}._domainkey.{DOMAIN}", "TXT", maker.key.record())
    wrong: list[tuple[Case, ArcResult]] = []
    count = 0
    for case in cases(maker):
        count += 1
        result = verify(f"{case.header}\r\n{case.body}".encode(), zone)
        if result.result != case.result:
            wrong.append((case, result))
    assert [(case.name, case.result, result.result, result.reason) for case, result in wrong] == []
    assert count > 150


@pytest.mark.slow
@pytest.mark.skipif(FOLDER is None, reason="ARC_TESTS does not name the public ARC test suite's folder")
def test_public_suite() -> None:
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
            result = verify(message, zone)
            if result.result != WANTED[str(test["cv"])]:
                wrong.append((name, test["cv"], result))
    assert count == 171
    assert wrong == []
