"""`filterd account app-password add|list|remove`: one password for each program, revoked one by one."""

from __future__ import annotations

import argparse

from filterd.accounts import apppasswords
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.errors import AccountExists, BadAccount, NoSuchAccount
from filterd.cli import FOUND, OK, CliError
from filterd.cli.options import add_config, add_json, print_json
from filterd.ports import SystemClock


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="app_action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make one and print it, once")
    listing = actions.add_parser("list", help="their names")
    remove = actions.add_parser("remove", help="take one away; who uses it is not logged in again")
    for one in (add, listing, remove):
        one.add_argument("address", metavar="ADDRESS")
        if one is not listing:
            one.add_argument("name", metavar="NAME", help='such as "telephone"')
        add_config(one)
        add_json(one)


def run(arguments: argparse.Namespace, record: Record, database: AccountDatabase) -> int:
    """``record``: the account that is meant."""
    match arguments.app_action:
        case "add":
            return _add(arguments, record, database)
        case "remove":
            return _remove(arguments, record, database)
    if arguments.json:
        print_json([{"name": one.name, "created": one.created} for one in record.apps])
        return OK
    for one in record.apps:
        print(one.name)
    if not record.apps:
        print(f"{record.id} has no app passwords")
    return OK


def _add(arguments: argparse.Namespace, record: Record, database: AccountDatabase) -> int:
    try:
        made, password = apppasswords.make(arguments.name, SystemClock().time())
        database.add_app(record.id, made)
    except BadAccount as error:
        raise CliError(str(error)) from None
    except AccountExists as error:
        raise CliError(str(error), FOUND) from None
    if arguments.json:
        print_json({"address": record.id, "name": made.name, "password": password})
    else:
        print(f'app password "{made.name}" of {record.id}: {password}   (shown only now)')
    return OK


def _remove(arguments: argparse.Namespace, record: Record, database: AccountDatabase) -> int:
    try:
        database.remove_app(record.id, arguments.name)
    except NoSuchAccount as error:
        raise CliError(
            f"{error}; `filterd account app-password list {record.id}` shows them", FOUND
        ) from None
    if arguments.json:
        print_json({"address": record.id, "name": arguments.name, "removed": True})
    else:
        print(f'removed the app password "{arguments.name}" of {record.id}')
    return OK
