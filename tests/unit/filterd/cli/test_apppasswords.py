"""`filterd account app-password`: its arguments (what it does is in test_account.py)."""

import argparse

import pytest

from filterd.cli import apppasswords


def test_arguments() -> None:
    parser = argparse.ArgumentParser()
    apppasswords.configure(parser)
    found = parser.parse_args(["add", "ann@example.org", "telephone", "--json"])
    assert (found.app_action, found.address, found.name, found.json) == (
        "add",
        "ann@example.org",
        "telephone",
        True,
    )
    with pytest.raises(SystemExit):
        parser.parse_args(["remove", "ann@example.org"])
