"""`filterd account share`: who may use somebody's mailboxes; what mail programs do by IMAP ACL, for the administrator."""

from __future__ import annotations

import argparse

from filterd.accounts.database import Record
from filterd.accounts.places import account_folder
from filterd.cli import FOUND, OK, CliError
from filterd.cli.options import add_config, add_json, print_json
from filterd.cli.ownership import hand_over
from filterd.cli.storage import open_store
from filterd.config.schema import Config
from filterd.shared_mail import NOBODY, shares_of
from filterd.store.acl import (
    ENTRY,
    MAX_IDENTIFIERS,
    NEGATIVE,
    RIGHTS,
    Acl,
    BadRights,
    identifier,
    parse_rights,
)
from filterd.store.acl_shares import Shares, change, note
from filterd.store.base import AccountStore, NoSuchMailbox

NONE = "none"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="whose mailboxes")
    parser.add_argument("mailbox", metavar="MAILBOX", nargs="?", help='such as INBOX or "Work/2026"')
    parser.add_argument(
        "identifier",
        metavar="IDENTIFIER",
        nargs="?",
        help='an account, or "anyone"; "-" before it takes away',
    )
    parser.add_argument(
        "rights", metavar="RIGHTS", nargs="?", help=f'some of {RIGHTS}; "+r" adds, "-r" takes away, "{NONE}" removes the entry'
    )  # fmt: skip
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace, record: Record, config: Config) -> int:
    if (arguments.identifier is None) != (arguments.rights is None):
        raise CliError("share with whom, and with which rights? For example: bob@example.org lrs")
    store = open_store(config)
    shares = shares_of(config)
    try:
        account = store.account(record.id)
        if arguments.rights is not None:
            _change(account, record.id, arguments, shares)
        note(shares, record.id, account)
        lists = _lists(account, arguments.mailbox)
    except NoSuchMailbox:
        raise CliError(f"{record.id} has no mailbox {arguments.mailbox}", FOUND) from None
    finally:
        shares.close()
        store.close()
    path = str(shares.path)
    hand_over(config, path, f"{path}-wal", f"{path}-shm", account_folder(config, record.id))
    if arguments.json:
        print_json({"address": record.id, "mailboxes": lists})
        return OK
    for mailbox, entries in lists.items():
        for name, rights in entries.items():
            print(f"{mailbox}  {name}  {rights}")
    if not any(lists.values()):
        print(f"{record.id} shares nothing" + (f" of {arguments.mailbox}" if arguments.mailbox else ""))
    elif config.sharing.scope == NOBODY:
        print('note: sharing.scope is "nobody": none of this has any effect')
    return OK


def _change(account: AccountStore, owner: str, arguments: argparse.Namespace, shares: Shares) -> None:
    mode = arguments.rights[:1] if arguments.rights[:1] in ("+", "-") else ""
    letters = "" if arguments.rights == NONE else arguments.rights.removeprefix(mode)
    try:
        name, rights = identifier(arguments.identifier, owner), parse_rights(letters)
    except BadRights as error:
        raise CliError(f"{error}; rights are some of {RIGHTS}") from None
    if name.removeprefix(NEGATIVE) == owner:
        raise CliError("the owner has all rights, always")
    if not change(shares, owner, account, arguments.mailbox, (name, mode, rights), MAX_IDENTIFIERS):
        raise CliError(f"{arguments.mailbox} is shared with {MAX_IDENTIFIERS} identifiers already", FOUND)


def _lists(account: AccountStore, mailbox: str | None) -> dict[str, dict[str, str]]:
    names = [info.name for info in account.mailboxes()] if mailbox is None else [account.info(mailbox).name]
    found: dict[str, dict[str, str]] = {}
    for name in names:
        entries = Acl.parse(account.get_metadata(name, ENTRY)).entries
        if entries or mailbox is not None:
            found[name] = {
                who: "".join(right for right in RIGHTS if right in held)
                for who, held in sorted(entries.items())
            }
    return found
