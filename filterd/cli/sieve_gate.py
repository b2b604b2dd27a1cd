"""``filterd sieve tests ACCOUNT``: the rule tests that a script must pass before it is made active.

They are files beside the account's scripts (``sieve/tests/``, the form of ``filterd sieve test``); a failing one refuses
SETACTIVE, PUTSCRIPT of the active script and ``filterd sieve activate``. The folder is replaced as a whole.
"""

from __future__ import annotations

import argparse
import os
import shutil

from filterd.accounts.scripts_base import ScriptStore, ScriptStoreError
from filterd.cli import FOUND, OK, CliError
from filterd.cli.options import print_json
from filterd.scripts import ScriptService
from filterd.store.durable import RealDisk, opened
from rules.testkit.cases import EXPECT, ExpectError, read_folder


def configure(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--put", metavar="DIR", help="put this folder (expect.toml, *.eml) in place of the tests"
    )
    choice.add_argument("--rm", action="store_true", help="remove the tests")


def act(arguments: argparse.Namespace, folder: str, account: str, service: ScriptService) -> int:
    """Without an option: list the tests and try the active script against them."""
    if arguments.put:
        return put(arguments.put, folder, account, service)
    if arguments.rm:
        shutil.rmtree(folder, ignore_errors=True)
        print("the tests are removed")
        return OK
    return show(arguments, folder, account, service)


def put(source: str, folder: str, account: str, service: ScriptService) -> int:
    """Refused when the folder cannot be used; that the active script fails them is said, and nothing is deactivated."""
    try:
        found = read_folder(source)
    except ExpectError as error:
        raise CliError(str(error), FOUND) from None
    if not found.cases:
        raise CliError(f"{os.path.join(source, EXPECT)} has no cases", FOUND)
    fresh = f"{folder}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    os.makedirs(fresh, mode=0o700)
    for name in sorted(os.listdir(source)):
        path = os.path.join(source, name)
        if (name == EXPECT or name.endswith((".eml", ".sieve"))) and os.path.isfile(path):
            shutil.copyfile(path, os.path.join(fresh, name))
    try:
        for case in read_folder(fresh).cases:
            if not os.path.isfile(case.path):
                raise CliError(f"{case.name}: its mail must lie beside {EXPECT}", FOUND)
    except CliError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _replace(folder, fresh)
    print(f"{len(found.cases)} tests are in place")
    for line in _against_active(account, service):
        print(f"the active script fails: {line}")
    return OK


def _replace(folder: str, fresh: str) -> None:
    """``fresh`` takes the place of ``folder``, beside which it lies."""
    disk, old = RealDisk(), f"{folder}.old"
    shutil.rmtree(old, ignore_errors=True)
    with opened(disk, os.path.dirname(folder)) as at:
        if os.path.isdir(folder):
            disk.rename(at, os.path.basename(folder), at, os.path.basename(old))
        disk.rename(at, os.path.basename(fresh), at, os.path.basename(folder))
        disk.sync_dir(at)
    shutil.rmtree(old, ignore_errors=True)


def show(arguments: argparse.Namespace, folder: str, account: str, service: ScriptService) -> int:
    """1 when the active script fails one."""
    if not os.path.isdir(folder):
        print_json({"tests": [], "failures": []}) if arguments.json else print("no tests")
        return OK
    try:
        names = [case.name for case in read_folder(folder).cases]
    except ExpectError as error:
        raise CliError(str(error), FOUND) from None
    wrong = _against_active(account, service)
    if arguments.json:
        print_json({"tests": names, "failures": wrong})
        return FOUND if wrong else OK
    for name in names:
        print(name)
    for line in wrong:
        print(f"the active script fails: {line}")
    return FOUND if wrong else OK


def _against_active(account: str, service: ScriptService) -> list[str]:
    store: ScriptStore = service.of(account)
    try:
        active = store.active()
    except ScriptStoreError:
        return []
    return service.failed_tests(account, active[1]) if active is not None else []
