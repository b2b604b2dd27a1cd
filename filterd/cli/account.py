"""Add, list, show and remove accounts; change passwords. Works whether the server runs or not.

Examples:
  filterd account add -c filterd.toml ann@example.org             prints a password once
  echo secret | filterd account add ann@example.org --password-stdin
  filterd account show ann@example.org --json
  filterd account passwd ann@example.org
  filterd account app-password add ann@example.org telephone      a password for one program
  filterd account share ann@example.org INBOX bob@example.org lrs

See also: filterd sieve --help, filterd help configuration
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
from pathlib import Path

from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.errors import AccountExists, BadAccount
from filterd.accounts.names import account_id, fold, split
from filterd.accounts.password import Passwords, generate
from filterd.accounts.places import account_folder, database_path, scripts_of
from filterd.accounts.provision import provision
from filterd.cli import FOUND, OK, CliError, apppasswords
from filterd.cli import share as sharing
from filterd.cli.options import add_config, add_json, confirm, load_config, print_json, read_password
from filterd.cli.ownership import down_to, hand_over
from filterd.cli.storage import open_store
from filterd.config.schema import Config
from filterd.config.values import BadValue, nearest, show_size, size
from filterd.explain.traces import forget_account
from filterd.ports import SystemClock
from filterd.quarantine.database import QuarantineDatabase
from filterd.quarantine.database import database_path as database_file
from filterd.shared_mail import shares_of
from filterd.store.durable import RealDisk


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser(
        "add", help="make an account; without --password-stdin a password is made up and printed"
    )
    passwd = actions.add_parser(
        "passwd", help="change the password; without --password-stdin one is made up and printed"
    )
    for one in (add, passwd):
        one.add_argument("address", metavar="ADDRESS")
        one.add_argument(
            "--password-stdin", action="store_true", help="read the password from standard input"
        )
    add.add_argument("--name", default="", help="the person's name, for people")
    add.add_argument(
        "--quota", metavar="SIZE", help='such as "2 GiB"; 0 = no limit (default: accounts.quota)'
    )
    show = actions.add_parser("show", help="everything about one account")
    show.add_argument("address", metavar="ADDRESS")
    listing = actions.add_parser("list", help="all accounts")
    remove = actions.add_parser("remove", help="remove an account; its mail stays on disk unless --purge")
    remove.add_argument("address", metavar="ADDRESS")
    remove.add_argument("--purge", action="store_true", help="delete its mail and scripts too")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    apppasswords.configure(
        actions.add_parser("app-password", help="passwords for single programs: add, list, remove")
    )
    sharing.configure(actions.add_parser("share", help="who may use the account's mailboxes, and how"))
    for one in (add, passwd, show, listing, remove):
        add_config(one)
        add_json(one)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    database = AccountDatabase(database_path(config), SystemClock())
    actions = {
        "add": add, "passwd": passwd, "show": show, "list": listing, "remove": remove, "app-password": app_password,
        "share": share,
    }  # fmt: skip
    try:
        return actions[arguments.action](arguments, config, database)
    finally:
        database.close()


def add(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    identifier = _new_id(arguments.address, config)
    quota = _quota(arguments.quota)
    if identifier in database.records():
        raise CliError(f"{identifier} exists already; `filterd account passwd` changes its password", FOUND)
    given = read_password(arguments.password_stdin)
    password = given or generate()
    clock = SystemClock()
    hashed = Passwords(clock).hash(password)
    store = open_store(config)
    try:
        provision(store, identifier)
    finally:
        store.close()
    record = Record(identifier, arguments.name, hashed, quota, enabled=True, created=clock.time())
    try:
        database.add(record)
    except AccountExists as error:
        raise CliError(str(error), FOUND) from None
    folder = account_folder(config, identifier)
    _hand_over(config, folder)
    if arguments.json:
        generated = {} if given else {"password": password}
        print_json({"address": identifier, "maildir": folder, **generated})
        return OK
    print(f"added {identifier}   mail in {folder}")
    if not given:
        print(f"password: {password}   (shown only now)")
    return OK


def passwd(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    record = _existing(arguments.address, database)
    given = read_password(arguments.password_stdin)
    password = given or generate()
    database.update(dataclasses.replace(record, password=Passwords(SystemClock()).hash(password)))
    _hand_over(config)
    if arguments.json:
        print_json({"address": record.id, **({} if given else {"password": password})})
    else:
        print(f"changed the password of {record.id}" + ("" if given else f": {password}   (shown only now)"))
    return OK


def app_password(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    result = apppasswords.run(arguments, _existing(arguments.address, database), database)
    _hand_over(config)
    return result


def share(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    return sharing.run(arguments, _existing(arguments.address, database), config)


def _forget_shares(config: Config, account: str) -> None:
    shares = shares_of(config)
    if shares.path.exists():
        with contextlib.closing(shares):
            shares.forget(account)


def show(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    record = _existing(arguments.address, database)
    from filterd.accounts.builtin import BuiltinDirectory  # much comes with it, which --help does without

    directory = BuiltinDirectory(config, database, Passwords(SystemClock()))
    account = directory.account(record.id)
    assert account is not None
    scripts = scripts_of(config, record.id, RealDisk())
    active = scripts.active()
    facts: dict[str, object] = {
        "address": record.id,
        "name": record.name,
        "enabled": record.enabled,
        "quota": account.quota,
        "created": record.created,
        "maildir": account_folder(config, record.id),
        "addresses": list(directory.own_addresses(account)),
        "scripts": [info.name for info in scripts.list()],
        "active_script": active[0] if active else None,
    }
    from filterd.store.snapshot import rebuilt_in, told

    rebuilt = rebuilt_in(account_folder(config, record.id), SystemClock().time())
    if rebuilt:
        facts["index"] = json.loads(rebuilt) if arguments.json else told(rebuilt)
    if arguments.json:
        print_json(facts)
        return OK
    facts["quota"] = show_size(account.quota) if account.quota else "no limit"
    facts.pop("created")
    for name, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
        print(f"{name.replace('_', ' '):<14} {text}".rstrip())
    return OK


def listing(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    records = database.records().values()
    if arguments.json:
        print_json([{"address": one.id, "name": one.name, "enabled": one.enabled} for one in records])
        return OK
    for record in records:
        state = "" if record.enabled else "  (disabled)"
        print(f"{record.id}  {record.name}".rstrip() + state)
    if not records:
        print("no accounts yet; make one with: filterd account add ADDRESS")
    return OK


def _forget_held(path: Path, account: str) -> None:
    if path.exists():
        with contextlib.closing(QuarantineDatabase(path)) as held:
            held.forget(account)


def remove(arguments: argparse.Namespace, config: Config, database: AccountDatabase) -> int:
    record = _existing(arguments.address, database)
    folder = account_folder(config, record.id)
    loses = f" and all its mail in {folder}" if arguments.purge else ""
    confirm(f"Remove {record.id}{loses}?", arguments.yes)
    database.remove(record.id)
    _forget_shares(config, record.id)  # who has the name next must not find what was shared with this one
    with contextlib.suppress(sqlite3.Error):  # busy or damaged: they end by their age
        forget_account(Path(config.server.data_dir) / "traces.db", record.id)
    if arguments.purge:
        _forget_held(database_file(Path(config.server.data_dir)), record.id)
        from filterd.learning.learner import forget_learned

        forget_learned(config, record.id)
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.exists(folder):
            raise CliError(f"removed {record.id}, but {folder} could not be deleted completely", FOUND)
    if arguments.json:
        print_json({"address": record.id, "removed": True, "purged": bool(arguments.purge)})
    else:
        print(
            f"removed {record.id}"
            + (loses.replace(" in ", " from ") if loses else f"; its mail stays in {folder}")
        )
    return OK


def _new_id(address: str, config: Config) -> str:
    try:
        identifier = account_id(address, config.accounts.subaddress)
    except BadAccount as error:
        raise CliError(str(error)) from None
    user, domain = split(identifier)
    found = next((entry for entry in config.domain if entry.name == domain), None)
    if found is None:
        ours = ", ".join(entry.name for entry in config.domain)
        raise CliError(f"{domain} is not a [[domain]] of {config.path}; there are: {ours}")
    targets = [fold(target) for target in found.aliases.get(user, ())]
    if targets and identifier not in targets:
        raise CliError(f"{identifier} is an alias in {config.path}; its mail would not reach the account")
    return identifier


def _quota(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return size(text)
    except BadValue as error:
        raise CliError(f"--quota: {error}") from None


def _existing(address: str, database: AccountDatabase) -> Record:
    records = database.records()
    record = records.get(fold(address))
    if record is None:
        same_name = [identifier for identifier in records if split(identifier)[0] == split(fold(address))[0]]
        hint = f'did you mean "{same_name[0]}"?' if same_name else nearest(fold(address), list(records))
        hint = hint or "`filterd account list` shows all"
        raise CliError(f"there is no account {address}; {hint}", FOUND)
    return record


def _hand_over(config: Config, folder: str = "") -> None:
    """What root made belongs to the server's user."""
    database = database_path(config)
    hand_over(config, database, f"{database}-wal", f"{database}-shm")
    if folder:
        hand_over(config, *down_to(config.server.data_dir, folder))
