"""Deliver one message from standard input to people of ours (filterd-deliver): for other mail servers.

Examples:
  filterd-deliver -c /etc/filterd/filterd.toml -f "$SENDER" -a "$RECIPIENT"      Postfix, mailbox_command
  filterd deliver -c filterd.toml ann@example.org < message.eml
  filterd-deliver -c filterd.toml -d ann -m Lists/rust < message.eml

Exit codes (sysexits.h): 0 delivered, 64 used wrongly, 65 message too large, 67 no such user, 69 mailbox cannot take it,
75 try again later (anything unexpected), 77 refused, 78 configuration. Never 1: senders read that as a bounce.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from filterd.cli.localmail import (
    EX_OK,
    EX_TEMPFAIL,
    EX_USAGE,
    ExitWith,
    configuration,
    exit_code,
    guarded,
    hand_in,
    read_message,
    with_domain,
)
from filterd.local_text import MAILBOX, xtext

PROGRAM = "filterd-deliver"
_FROM_LINE = re.compile(rb"From (\S*) [^\r\n]*\r?\n")  # the mbox line that some servers put in front
_RETURN_PATH = re.compile(rb"(?i)return-path:[ \t]*<([^<>\r\n]*)>[ \t]*\r?\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ExitWith(EX_USAGE, message)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration")
    parser.add_argument("-f", dest="sender", metavar="SENDER", help='the envelope sender; "" or <> = null')
    parser.add_argument(
        "-a", dest="original", metavar="ADDRESS", help="the address first asked for, with its detail"
    )
    parser.add_argument(
        "-d", dest="user", metavar="USER", help="the account (default: who the address leads to)"
    )
    parser.add_argument(
        "-m",
        dest="mailbox",
        metavar="FOLDER",
        help="where it is kept unless a script files it elsewhere; made when missing (default: INBOX)",
    )
    parser.add_argument("-e", dest="reason", action="store_true", help="refusals are told on standard error")
    parser.add_argument("recipients", nargs="*", metavar="ADDRESS")


def run(arguments: argparse.Namespace) -> int:
    """Used by ``filterd help deliver`` only; the command itself is ``main``."""
    return deliver(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(PROGRAM, _main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog=PROGRAM,
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configure(parser)
    return deliver(parser.parse_args(argv))


def deliver(arguments: argparse.Namespace) -> int:
    config = configuration(arguments.config)
    recipients = [with_domain(address, config) for address in arguments.recipients]
    if arguments.user or arguments.original:
        recipients.insert(
            0, _recipient(arguments.user or "", arguments.original or "", config.accounts.subaddress)
        )
        recipients[0] = with_domain(recipients[0], config)
    if not recipients or not all(recipients):
        raise ExitWith(EX_USAGE, "who is it for? name the account with -d, or an ADDRESS")
    data, named = _without_envelope(read_message(config.limits.message_size))
    sender = named if arguments.sender is None else arguments.sender
    elsewhere = (arguments.mailbox or "INBOX").upper() != "INBOX"
    params = {MAILBOX: xtext(arguments.mailbox)} if elsewhere else {}
    replies = hand_in(config, with_domain(sender, config), recipients, data, params=params)
    codes = [exit_code(reply) for reply in replies]
    for address, reply, code in zip(recipients, replies, codes, strict=True):
        if code != EX_OK and (arguments.reason or code == EX_TEMPFAIL or sys.stderr.isatty()):
            print(f"{PROGRAM}: <{address}>: {reply.text}", file=sys.stderr)
    # one code for all: "try again" when any must come again, as who has it already is not stored twice (delivery key)
    if EX_TEMPFAIL in codes:
        return EX_TEMPFAIL
    return next((code for code in codes if code != EX_OK), EX_OK)


def _recipient(user: str, original: str, separator: str) -> str:
    """``-d ann -a ann+list@example.org``: the account, with the detail that the original address had."""
    if not user or not original or not separator:
        return user or original
    local = original.rpartition("@")[0] or original
    detail = local.partition(separator)[2]
    if not detail:
        return user
    name, at, domain = user.partition("@")
    return f"{name}{separator}{detail}{at}{domain}"


def _without_envelope(data: bytes) -> tuple[bytes, str]:
    """(message, sender): a leading mbox From_ line and Return-Path field tell the sender and go away."""
    sender = b""
    match = _FROM_LINE.match(data)
    if match:
        sender, data = match[1], data[match.end() :]
    match = _RETURN_PATH.match(data)
    if match:
        sender, data = match[1], data[match.end() :]
    return data, "" if sender == b"MAILER-DAEMON" else sender.decode("utf-8", "replace")
