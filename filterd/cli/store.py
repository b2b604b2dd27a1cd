"""Bring a Maildir of another mail server here, and take one back; keep an account as mbox or as Maildir.

`adopt` keeps what clients remember: UIDVALIDITY, UIDs, flags, keywords, dates, POP3 unique ids, subscriptions. They download
nothing again. Stop the other server first; try --dry-run before. A run that was cut short is finished by the same command.

Examples:
  filterd store adopt dovecot ann@example.org /home/ann/Maildir --dry-run
  filterd store adopt dovecot ann@example.org /home/ann/Maildir
  filterd store adopt courier ann@example.org /home/ann/Maildir --move
  filterd store export dovecot ann@example.org /srv/back/ann
  filterd store convert ann@example.org --to mbox

See also: filterd help store
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from filterd.accounts.database import AccountDatabase
from filterd.accounts.names import fold
from filterd.accounts.places import account_folder, database_path
from filterd.cli import FOUND, OK, TRY_AGAIN, CliError, storeconvert
from filterd.cli.options import add_config, add_json, load_config, print_json
from filterd.cli.ownership import down_to, hand_over
from filterd.cli.storage import open_store
from filterd.config.schema import Config
from filterd.config.values import nearest
from filterd.ports import SystemClock
from filterd.store import adopt_courier, adopt_dovecot, adopt_guard, export
from filterd.store.adopt import (
    COPY,
    IN_PLACE,
    MODES,
    MOVE,
    Outcome,
    adopt,
    conflicts,
    finished,
    other_begun,
    plan,
)
from filterd.store.adopt_plan import AdoptError, Source
from filterd.store.base import StoreError
from filterd.store.choice import MBOX, format_of
from filterd.store.durable import RealDisk
from filterd.store.maildir import MaildirStore
from filterd.store.uidl import BadFormat

PROGRESS_SECONDS = 10.0  # between two lines when nobody looks


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_adopt(
        actions.add_parser("adopt", help="take over the Maildir of another server, UIDs and all")
    )
    _configure_export(actions.add_parser("export", help="write a Maildir that another server goes on with"))
    storeconvert.configure(
        actions.add_parser("convert", help="keep an account as mbox files, or as Maildir again")
    )


def _configure_adopt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("dovecot", "courier"), help="whose Maildir it is")
    parser.add_argument("account", metavar="ACCOUNT", help="the account here; `filterd account add` makes it")
    parser.add_argument("path", metavar="PATH", help="the Maildir: the folder with cur and new in it")
    ways = parser.add_mutually_exclusive_group()
    texts = {
        COPY: "leave PATH as it is (default, unless PATH is the account's own folder)",
        MOVE: "rename the files, so that nothing is stored twice",
        IN_PLACE: "PATH is the account's own folder (store.path)",
    }
    for mode in MODES:
        ways.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=texts[mode])
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would happen and what cannot be kept"
    )
    parser.add_argument(
        "--force", action="store_true", help="lock files that lie there are left over from a crash"
    )
    parser.add_argument(
        "--pop3-uidl", metavar="FORMAT", default=adopt_dovecot.DEFAULT_FORMAT,
        help="Dovecot's pop3_uidl_format, if it was set (default: %%08Xu%%08Xv)",
    )  # fmt: skip
    parser.add_argument(
        "--layout",
        choices=adopt_dovecot.LAYOUTS,
        default="auto",
        help="Dovecot's LAYOUT= (default: seen from PATH)",
    )
    parser.add_argument(
        "--control", metavar="DIR", default="", help="Dovecot's CONTROL= directory, if it was set"
    )
    parser.add_argument(
        "--utf8", action="store_true", help="folder names are UTF-8 (Dovecot's :UTF-8, Courier 5)"
    )
    add_config(parser)
    add_json(parser)


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("dovecot",), help="for whom")
    parser.add_argument("account", metavar="ACCOUNT")
    parser.add_argument("path", metavar="DEST", nargs="?", default="", help="a new folder; its parent exists")
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="write Dovecot's control files beside the mail in the account's folder",
    )
    parser.add_argument("--layout", choices=export.LAYOUTS, default=export.MAILDIR, help="Dovecot's LAYOUT=")
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    actions: dict[str, Callable[[argparse.Namespace, Config], int]] = {
        "adopt": run_adopt,
        "export": run_export,
        "convert": lambda said, config: storeconvert.run(said, config, known_account(said.account, config)),
    }
    try:
        return actions[arguments.action](arguments, config)
    except (AdoptError, BadFormat) as error:
        raise CliError(str(error), FOUND) from None
    except StoreError as error:
        raise CliError(str(error), TRY_AGAIN) from None
    except OSError as error:
        raise CliError(f"{error.filename or 'store'}: {error.strerror or error}", TRY_AGAIN) from None


# -- adopt --------------------------------------------------------------------------------------------------------------------


def run_adopt(arguments: argparse.Namespace, config: Config) -> int:
    account = known_account(arguments.account, config)
    path = os.path.abspath(arguments.path)
    if not os.path.isdir(path):
        raise CliError(f"{path} is no directory", FOUND)
    folder = account_folder(config, account)
    mode = _mode(arguments.mode, path, folder)
    source = _read(arguments, path)
    _refuse(arguments, source, folder, mode, path)
    if finished(source, folder):
        return _tell(arguments, Outcome(source, again=True), mode, account)
    plan(source, folder, mode)
    if arguments.dry_run:
        return _tell(arguments, Outcome(source), mode, account)
    store = maildir_store(config, folder)
    if mode == IN_PLACE:
        export.bring_index_back(RealDisk(), folder)
    core = store.core(account)
    try:
        outcome = adopt(core, source, mode, _progress(arguments.json))
    finally:
        core.close()
        store.close()
        hand_over(config, *down_to(config.server.data_dir, folder))
    return _tell(arguments, outcome, mode, account)


def known_account(address: str, config: Config) -> str:
    """The id of an account that exists. Raises CliError."""
    database = AccountDatabase(database_path(config), SystemClock())
    try:
        records = database.records()
    finally:
        database.close()
    if fold(address) in records:
        return fold(address)
    near = nearest(fold(address), list(records))
    hint = f"{near} " if near else ""
    raise CliError(f"there is no account {address}; {hint}`filterd account add {address}` makes it", FOUND)


def maildir_store(config: Config, folder: str) -> MaildirStore:
    """For an account that is kept as Maildir, or not at all yet. Raises CliError."""
    if format_of(folder) == MBOX:
        raise CliError(
            f"{folder} holds mbox files; turn them into a Maildir first: filterd store convert", FOUND
        )
    return open_store(config).maildir


def _mode(chosen: str | None, path: str, folder: str) -> str:
    here = os.path.realpath(path) == os.path.realpath(folder)
    if here and chosen in (COPY, MOVE):
        raise CliError(f"{path} is the account's own folder: say --in-place")
    if chosen == IN_PLACE and not here:
        raise CliError(
            f"the account's own folder is {folder}, not {path}: say --move to rename the files into it, "
            "or let store.path lead there"
        )
    return chosen or (IN_PLACE if here else COPY)


def _read(arguments: argparse.Namespace, path: str) -> Source:
    if arguments.kind == "courier":
        return adopt_courier.read(path, arguments.utf8)
    control = os.path.abspath(arguments.control) if arguments.control else ""
    return adopt_dovecot.read(
        path, adopt_dovecot.Options(arguments.layout, control, arguments.utf8, arguments.pop3_uidl)
    )


def _refuse(arguments: argparse.Namespace, source: Source, folder: str, mode: str, path: str) -> None:
    """Raises CliError for what stands in the way."""
    server = arguments.kind.capitalize()
    use = adopt_guard.look(path, arguments.control)
    reason = adopt_guard.refusal(use, arguments.force, server)
    if reason:
        raise CliError(reason, TRY_AGAIN)
    if use.hidden:
        source.notes.append(
            f"{use.hidden} processes of other users could not be looked at: make sure that {server} is stopped, or run as root"
        )
    if source.blocked:
        raise CliError(f"{path} cannot be adopted:\n  " + "\n  ".join(source.blocked), FOUND)
    begun = other_begun(source, folder, mode)
    if begun is not None:
        raise CliError(
            f"another adoption is not finished; run it again first:\n"
            f"  filterd store adopt {begun.kind} {arguments.account} {begun.source} --{begun.mode}",
            FOUND,
        )
    if not finished(source, folder) and (found := conflicts(source, folder, mode)):
        raise CliError(
            f"{arguments.account} has mail of its own where the adopted mail is to go:\n  "
            + "\n  ".join(found)
            + "\nMove it to another mailbox first (by IMAP), or adopt into a new account.",
            FOUND,
        )


def _progress(quiet: bool) -> Callable[[str, int, int], None]:
    """One line that changes on a terminal, a line now and then elsewhere."""
    live = sys.stderr.isatty()
    last = [time.monotonic()]

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not quiet and now - last[0] > (0.2 if live else PROGRESS_SECONDS):
            last[0] = now
            print(f"{what}: {done} of {total}", end="\r" if live else "\n", file=sys.stderr, flush=True)

    return show


def _tell(arguments: argparse.Namespace, outcome: Outcome, mode: str, account: str) -> int:
    source, dry = outcome.source, arguments.dry_run
    notes = [*source.notes, *(f"{box.name}: {note}" for box in source.mailboxes for note in box.notes)]
    if arguments.json:
        print_json(
            {
                "account": account, "kind": source.kind, "source": source.path, "mode": mode, "dry_run": dry,
                "done": not dry and not outcome.problems, "already_done": outcome.again,
                "mailboxes": [
                    {
                        "name": box.name, "uidvalidity": box.uidvalidity or None, "uidnext": box.nextuid,
                        "messages": len(box.messages), "new_uids": box.count(False) if not outcome.again else 0,
                        "keywords": list(box.keywords),
                    }
                    for box in source.mailboxes
                ],
                "subscriptions": list(source.subscriptions), "not_kept": notes, "problems": outcome.problems,
            }
        )  # fmt: skip
        return FOUND if outcome.problems else OK
    if outcome.again:
        print(f"{source.path} was adopted before; nothing was done")
        return OK
    total = sum(len(box.messages) for box in source.mailboxes)
    verb = "would bring" if dry else "brought"
    print(f"{verb} {total} messages in {len(source.mailboxes)} mailboxes to {account} ({mode})")
    for box in source.mailboxes:
        fresh = box.count(False)
        value = f"UIDVALIDITY {box.uidvalidity}" if box.uidvalidity else "a new UIDVALIDITY"
        more = f", {fresh} with new UIDs" if fresh else ""
        print(f"  {box.name}: {len(box.messages)} messages{more}, {value}, UIDNEXT {box.nextuid}")
    for note in notes:
        print(f"not kept, or changed: {note}")
    for problem in outcome.problems:
        print(f"PROBLEM {problem}")
    if not dry and not outcome.problems:
        print("verified: numbers, flags, dates and texts are the same")
    return FOUND if outcome.problems else OK


# -- export -------------------------------------------------------------------------------------------------------------------


def run_export(arguments: argparse.Namespace, config: Config) -> int:
    account = known_account(arguments.account, config)
    if bool(arguments.path) == arguments.in_place:
        raise CliError("name a DEST, or say --in-place")
    if arguments.in_place and arguments.layout != export.MAILDIR:
        raise CliError("in place there is one layout: maildir++")
    target = os.path.abspath(arguments.path) if arguments.path else ""
    if target and not os.path.isdir(os.path.dirname(target)):
        raise CliError(f"there is no {os.path.dirname(target)}", FOUND)
    folder = account_folder(config, account)
    reason = adopt_guard.refusal(adopt_guard.look(target or folder), True, "another program")
    if reason:
        raise CliError(reason, TRY_AGAIN)
    store = maildir_store(config, folder)
    core = store.core(account)
    try:
        done = export.export_dovecot(core, target, arguments.layout, _progress(arguments.json))
    finally:
        core.close()
        store.close()
        hand_over(config, *down_to(config.server.data_dir, folder))
    if arguments.in_place:
        export.put_index_aside(RealDisk(), folder)
    if arguments.json:
        keys = ("name", "directory", "messages", "uidvalidity", "uidnext")
        print_json(
            {
                "account": account,
                "path": target or folder,
                "mailboxes": [dict(zip(keys, one, strict=True)) for one in done.mailboxes],
                "not_kept": done.notes,
            }
        )
        return OK
    total = sum(count for _, _, count, _, _ in done.mailboxes)
    print(f"wrote {total} messages in {len(done.mailboxes)} mailboxes for Dovecot: {target or folder}")
    for note in done.notes:
        print(f"not kept, or changed: {note}")
    print("not kept: what only our index knows: METADATA, the age of changes (modseqs), who was told what")
    print("The files belong to whoever ran this; Dovecot wants them to be its mail user's (chown -R).")
    if arguments.in_place:
        print("Do not let filterd serve this account while Dovecot does.")
    return OK
