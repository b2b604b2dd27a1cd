"""The requirements index tests/rfc.tsv: every "yes" and "partial" names a test that exists."""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATES = {"yes", "partial", "no", "planned"}


def test_every_claim_names_a_test() -> None:
    wrong = []
    with open(ROOT / "tests" / "rfc.tsv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["state"] not in STATES or not row["rfc"].isdigit() or not row["demand"]:
                wrong.append(f"{row['rfc']}: not a row")
            if row["state"] in ("yes", "partial") and not (row["test"] and (ROOT / row["test"]).is_file()):
                wrong.append(f"{row['rfc']} {row['section']}: no test {row['test']!r}")
    assert not wrong, "\n".join(wrong)
