"""``filterd sieve test DIR`` and ``filterd sieve svtest FILE``: rule tests of people, and test scripts.

The work is done in ``rules/testkit`` (``cases`` and ``runner``); here are only the arguments and the clock.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from filterd.ports import SystemClock
from rules.__main__ import configure_test
from rules.testkit import cases, runner


def configure(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the two actions to those of ``filterd sieve``."""
    test = actions.add_parser(
        "test", help="run a folder of mails (*.eml) against its expect.toml; exit 1 on failures"
    )
    configure_test(test)
    svtest = actions.add_parser("svtest", help="run test scripts written in Pigeonhole's test dialect")
    svtest.add_argument("files", nargs="+", metavar="FILE")


def test(arguments: argparse.Namespace) -> int:
    """0: all as expected, 1: not, 2: a folder cannot be used."""
    code = 0
    for folder in arguments.folders:
        report, found = cases.run_and_show(folder, arguments.script, write=arguments.write)
        sys.stdout.write(report)
        code = max(code, found)
    return code


def svtest(arguments: argparse.Namespace) -> int:
    """0: every file passed, 1: not, 2: a file cannot be read."""
    moment = datetime.fromtimestamp(SystemClock().time(), UTC).astimezone()
    return runner.run_files(arguments.files, moment=moment)
