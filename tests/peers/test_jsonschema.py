"""`filterd config schema` in the eyes of a real validator (Debian's python3-jsonschema), not only of our own few lines."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from filterd.config import describe
from filterd.config.jsonschema import document

PYTHON = "/usr/bin/python3"
PROGRAM = """
import json, sys
from jsonschema import Draft202012Validator
schema, documents = json.load(sys.stdin)
Draft202012Validator.check_schema(schema)
print(json.dumps([[error.json_path for error in Draft202012Validator(schema).iter_errors(one)] for one in documents]))
"""
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        not Path("/usr/lib/python3/dist-packages/jsonschema").exists(),
        reason="jsonschema is not installed (Debian: python3-jsonschema)",
    ),
]
SMALL = {"server": {"hostname": "mail.example.org"}, "domain": [{"name": "example.org"}]}


def test_a_real_validator_thinks_the_same() -> None:
    documents = [
        tomllib.loads(describe.sample()),
        SMALL,
        {**SMALL, "stage": {"milters": [{"name": "x", "socket": "unix:/x"}]}, "queue": {"max_age": "3d"}},
        {**SMALL, "limits": {"recipients": -1, "recipent": 3}},
        {**SMALL, "domain": []},
    ]
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM], input=json.dumps([document(), documents]), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [sorted(one) for one in json.loads(done.stdout)]
    assert found == [[], [], [], ["$.limits", "$.limits.recipients"], ["$.domain"]]
