"""Send one message from standard input, as sendmail does (filterd-sendmail; also as mailq and newaliases).

Examples:
  filterd-sendmail -t -i < message.eml               recipients from To, Cc and Bcc
  filterd-sendmail -f ann@example.org bob@example.net < message.eml

Flags: -t -i -oi -f ADDR -r ADDR -F NAME -C FILE (our configuration) -bm -bs -bp -bi -bv; accepted without effect: -v -n -m
-G -U -B -N -R -V -L -h -O -q -o...; exit codes as in sysexits.h, 75 for anything unexpected.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate, make_msgid

from filterd.accounts.directory import Account, Foreign, TryLater, Unknown
from filterd.cli.localmail import (
    EX_NOUSER,
    EX_OK,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    ExitWith,
    configuration,
    exit_code,
    guarded,
    hand_in,
    read_message,
    with_domain,
)
from filterd.config.schema import Config
from filterd.ports import SystemClock
from rules.mail import address, header, words

PROGRAM = "filterd-sendmail"
WITH_VALUE = frozenset("BCFfhLNOpRrVXAc")  # the value is attached or the next word
ATTACHED = frozenset("bqdoM")  # what follows belongs to the flag
PLAIN = frozenset("tivnmGUsE")
TO_FIELDS = (b"to", b"cc", b"bcc")
RESENT_FIELDS = (b"resent-to", b"resent-cc", b"resent-bcc")
DROPPED = frozenset({b"bcc", b"resent-bcc", b"return-path"})
MODES_BY_NAME = {"mailq": "p", "newaliases": "i"}
_DOT_LINE = re.compile(rb"(?:^|(?<=\n))\.\r?\n")


@dataclass(slots=True)
class Flags:
    """What the command line says. ``mode`` is the letter after -b."""

    mode: str = "m"
    from_header: bool = False
    dots: bool = True  # a line with a single dot ends the message
    sender: str | None = None
    full_name: str = ""
    config: str | None = None
    recipients: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(PROGRAM, _main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    if list(argv) in (["--help"], ["-h"]):
        print((__doc__ or "").strip())
        return EX_OK
    flags = parse(argv, os.path.basename(sys.argv[0]))
    if flags.mode == "m":
        return send(flags, configuration(flags.config))
    if flags.mode == "p":
        return mailq(configuration(flags.config))
    if flags.mode == "i":  # aliases live in the configuration: reading it is the check
        configuration(flags.config)
        return EX_OK
    if flags.mode == "v":
        return verify(flags, configuration(flags.config))
    if flags.mode == "s":
        from filterd.cli.smtpstdio import converse

        config = configuration(flags.config)
        return converse(config, Account(with_domain(_login_name(), config)))
    if flags.mode == "q":
        return EX_OK  # the server runs its queue by itself
    raise ExitWith(EX_UNAVAILABLE, f"-b{flags.mode} is not available here; `filterd serve` runs the server")


def parse(argv: Sequence[str], program: str = "") -> Flags:
    """The flags as sendmail's getopt reads them. Raises ExitWith 64."""
    flags = Flags(mode=MODES_BY_NAME.get(program, "m"))
    waiting = list(argv)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            flags.recipients += waiting
            break
        if not word.startswith("-") or word == "-":
            flags.recipients.append(word)
            continue
        rest = word[1:]
        while rest:
            letter, rest = rest[0], rest[1:]
            if letter in WITH_VALUE:
                if not rest and not waiting:
                    raise ExitWith(EX_USAGE, f"-{letter} needs a value")
                _set(flags, letter, rest or waiting.pop(0))
                break
            if letter in ATTACHED:
                if letter == "o" and not rest and waiting:
                    rest = waiting.pop(0)
                _set(flags, letter, rest)
                break
            if letter not in PLAIN:
                raise ExitWith(EX_USAGE, f"unknown flag -{letter}")
            _set(flags, letter, "")
    return flags


def _set(flags: Flags, letter: str, value: str) -> None:
    match letter:
        case "t":
            flags.from_header = True
        case "i":
            flags.dots = False
        case "o" if value in ("i", "ignoredots"):
            flags.dots = False
        case "f" | "r":
            flags.sender = value
        case "F":
            flags.full_name = value
        case "C" | "c":
            flags.config = value
        case "b":
            flags.mode = value[:1] or "m"
        case "q":
            flags.mode = "q"
        case _:
            return


# -- sending -------------------------------------------------------------------------------------------------------------


def send(flags: Flags, config: Config) -> int:
    data = read_message(config.limits.message_size)
    if flags.dots:
        end = _DOT_LINE.search(data)
        data = data[: end.start()] if end else data
    block = header.scan(data)
    if not block.fields and data and not data.startswith((b"\n", b"\r\n")):
        data = b"\n" + data  # a body without a header
        block = header.scan(data)
    recipients = [with_domain(one, config) for one in flags.recipients]
    if flags.from_header:
        recipients += [with_domain(one, config) for one in header_recipients(block)]
    recipients = list(dict.fromkeys(one for one in recipients if one))
    if not recipients:
        raise ExitWith(EX_USAGE, "no recipients" + ("" if flags.from_header else "; name them, or use -t"))
    login = with_domain(_login_name(), config)
    sender = with_domain(flags.sender, config) if flags.sender is not None else login
    text = completed(data, block, sender or login, flags.full_name, config.server.hostname)
    replies = hand_in(config, sender, recipients, text, Account(login))
    worst = EX_OK
    for one, reply in zip(recipients, replies, strict=True):
        code = exit_code(reply)
        if code != EX_OK:
            print(f"{PROGRAM}: <{one}>: {reply.text}", file=sys.stderr)
            worst = code if worst != EX_TEMPFAIL else worst
    return worst


def header_recipients(block: header.HeaderBlock) -> list[str]:
    """-t: To, Cc and Bcc; of a resent message only the Resent- ones (RFC 5322 3.6.6)."""
    resent = any(block.get_all(name) for name in RESENT_FIELDS)
    return [
        mailbox.address
        for name in (RESENT_FIELDS if resent else TO_FIELDS)
        for value in block.get_all(name)
        for mailbox in address.parse_list(value).mailboxes
    ]


def completed(data: bytes, block: header.HeaderBlock, sender: str, full_name: str, hostname: str) -> bytes:
    """Bcc and Return-Path out, From, Date and Message-ID in when they are missing; everything else stays octet for octet."""
    newline = b"\r\n" if b"\r\n" in data[: block.body_start] else b"\n"
    added: list[bytes] = []
    if not block.get_all(b"from"):
        name = words.encode_phrase(full_name) + b" " if full_name else b""
        added.append(b"From: " + name + b"<" + sender.encode() + b">")
    if not block.get_all(b"date"):
        added.append(b"Date: " + formatdate(SystemClock().time(), localtime=True).encode())
    if not block.get_all(b"message-id"):
        added.append(b"Message-ID: " + make_msgid(domain=hostname).encode())
    kept: list[bytes] = []
    position = 0
    for one in block.fields:
        if one.lname in DROPPED:
            kept.append(data[position : one.start])
            position = one.end
    kept.append(data[position:])
    return b"".join(line + newline for line in added) + b"".join(kept)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


# -- questions -----------------------------------------------------------------------------------------------------------


def verify(flags: Flags, config: Config) -> int:
    """-bv: where would it go? 0 when every address can be delivered."""
    from filterd.accounts.builtin import BuiltinDirectory
    from filterd.accounts.database import AccountDatabase
    from filterd.accounts.password import Passwords
    from filterd.accounts.places import database_path

    clock = SystemClock()
    database = AccountDatabase(database_path(config), clock)
    directory = BuiltinDirectory(config, database, Passwords(clock))
    code = EX_OK
    for one in flags.recipients:
        found = directory.lookup(with_domain(one, config))
        if isinstance(found, Unknown):
            print(f"{one}... {found.reason}")
            code = EX_NOUSER
        elif isinstance(found, TryLater):
            print(f"{one}... {found.reason}; try again later")
            code = EX_TEMPFAIL
        else:
            print(f"{one}... deliverable" + (" (elsewhere)" if isinstance(found, Foreign) else ""))
    database.close()
    return code


def mailq(config: Config) -> int:
    """-bp: what waits."""
    from filterd.cli.queuelist import print_queue

    return print_queue(config)
