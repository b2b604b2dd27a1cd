"""``filterd store convert``: an account from Maildir to mbox files or back, with UIDs, flags and dates."""

from __future__ import annotations

import argparse
import sys

from filterd.accounts.places import account_folder
from filterd.cli import FOUND, OK, CliError
from filterd.cli.options import add_config, add_json, print_json
from filterd.cli.ownership import down_to, hand_over
from filterd.cli.storage import open_store
from filterd.config.schema import Config
from filterd.store.choice import FORMATS
from filterd.store.convert import convert


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", metavar="ACCOUNT", help="as ann@example.org")
    parser.add_argument("--to", required=True, choices=FORMATS, help="what it is to be kept as")
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace, config: Config, account: str) -> int:
    """``account`` exists. The server may run: the account is locked meanwhile."""
    store = open_store(config)
    try:
        done = convert(store, account, arguments.to)
    except ValueError as error:
        raise CliError(str(error), FOUND) from None
    finally:
        store.close()
        hand_over(config, *down_to(config.server.data_dir, account_folder(config, account)))
    if arguments.json:
        print_json(
            {
                "account": account,
                "format": arguments.to,
                "mailboxes": done.mailboxes,
                "messages": done.messages,
                "old": done.old,
                "notes": done.notes,
            }
        )
        return OK
    print(
        f"{account}: {done.messages} messages in {done.mailboxes} mailboxes are kept as {arguments.to} now."
    )
    print(f"The files of before are in {done.old}; remove them when you are content.")
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    return OK
