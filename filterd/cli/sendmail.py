"""Send one message from standard input, as sendmail does (filterd-sendmail; also as mailq and newaliases).

Examples:
  filterd-sendmail -t -i < message.eml               recipients from To, Cc and Bcc
  filterd-sendmail -f ann@example.org bob@example.net < message.eml

Flags: -t -i -oi -f ADDR -r ADDR -F NAME -C FILE (our configuration) -N never|success,failure,delay -R full|hdrs -V ENVID
-B 7BIT|8BITMIME -XV[xy] (each recipient sees a sender of his own: list+ann=example.net@example.org) -bm -bs -bp -bv
-bi (checks the alias files; -oAFILE: that one) -q (try everything now; -qIID -qRDOMAIN -qSSENDER: some of it);
accepted without effect: -v -n -m -G -U -L -X -h -O -o... -q30m -bh; exit codes as in sysexits.h, 75 for anything unexpected.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate, make_msgid

from filterd import local_text, maildrop
from filterd.accounts.directory import Account, Foreign, TryLater, Unknown
from filterd.cli.localmail import (
    EX_CONFIG,
    EX_NOPERM,
    EX_NOUSER,
    EX_OK,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
    ExitWith,
    configuration,
    exit_code,
    guarded,
    hand_in_all,
    read_message,
    with_domain,
)
from filterd.config.schema import Config
from filterd.local_text import is_path
from filterd.ports import SystemClock
from rules.mail import header

PROGRAM = "filterd-sendmail"
LIMIT = 50 << 20  # octets, when the configuration cannot be read; the server knows its own
WITH_VALUE = frozenset("BCFfhLNOpRrVXAce")  # the value is attached or the next word
ATTACHED = frozenset("bqdoM")  # what follows belongs to the flag
PLAIN = frozenset("tivnmGUsEIx")
TO_FIELDS = (b"to", b"cc", b"bcc")
RESENT_TO_FIELDS = (b"resent-to", b"resent-cc", b"resent-bcc")
MAX_ENVID = 100  # characters, RFC 3461 4.4
EVENTS = frozenset({"SUCCESS", "FAILURE", "DELAY"})
MODES_BY_NAME = {"mailq": "p", "newaliases": "i"}
VERP_SIGNS = "-=+"  # Postfix's verp_delimiter_filter
_INTERVAL = re.compile(r"(?:\d+[smhdw]?)*", re.I)
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
    params: dict[str, str] = field(default_factory=dict)  # of SMTP: NOTIFY, RET, ENVID, BODY
    verp: str = ""  # what stands before the recipient, and in the place of its @
    aliases: str = ""  # the file of -oA
    which: str = ""  # after -q


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(PROGRAM, _main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    if list(argv) in (["--help"], ["-h"]):
        print((__doc__ or "").strip())
        return EX_OK
    flags = parse(argv, os.path.basename(sys.argv[0]))
    if flags.mode == "m":
        return submit(flags)
    if flags.mode == "p":
        return mailq(configuration(flags.config))
    if flags.mode == "i":
        return check_aliases(configuration(flags.config), flags.aliases)
    if flags.mode == "v":
        return verify(flags, configuration(flags.config))
    if flags.mode == "s":
        from filterd.cli.smtpstdio import converse

        config = configuration(flags.config)
        return converse(config, Account(with_domain(_login_name(), config)))
    if flags.mode == "q":
        return run_queue(flags.which, flags.config)
    if flags.mode in ("h", "H"):
        return EX_OK  # the host status of Sendmail: the queue keeps its own
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
        case "o" if value.startswith("A"):
            flags.aliases = value[1:]
        case "X" if value[:1] == "V" and len(value) in (1, 3):
            flags.verp = value[1:] or "+="
            if any(sign not in VERP_SIGNS for sign in flags.verp):
                raise ExitWith(EX_USAGE, f"-X{value}: the two signs may be {' '.join(VERP_SIGNS)}")
        case "f" | "r":
            flags.sender = value
        case "F":
            flags.full_name = value
        case "C" | "c":
            flags.config = value
        case "N":
            flags.params["NOTIFY"] = _notify(value)
        case "R":
            if value.upper() not in ("FULL", "HDRS"):
                raise ExitWith(EX_USAGE, f"-R {value}: write full or hdrs")
            flags.params["RET"] = value.upper()
        case "V":
            flags.params["ENVID"] = _xtext(value)
        case "B":
            if value.upper() not in ("7BIT", "8BITMIME"):
                raise ExitWith(EX_USAGE, f"-B {value}: write 7BIT or 8BITMIME")
            flags.params["BODY"] = value.upper()
        case "b":
            flags.mode = value[:1] or "m"
        case "q":
            flags.mode, flags.which = "q", value
        case "I":  # Postfix's and sendmail's other way to say -bi
            flags.mode = "i"
        case _:
            return


def _notify(value: str) -> str:
    """RFC 3461 4.1: never, or some of the events."""
    words = [word.strip().upper() for word in value.split(",")]
    if words == ["NEVER"] or (set(words) <= EVENTS and words):
        return ",".join(dict.fromkeys(words))
    raise ExitWith(EX_USAGE, f"-N {value}: write never, or some of success,failure,delay")


def _xtext(value: str) -> str:
    """RFC 3461 4: what may stand in ENVID."""
    if not value or len(value) > MAX_ENVID or not value.isascii() or not value.isprintable():
        raise ExitWith(EX_USAGE, f"-V: write 1 to {MAX_ENVID} plain characters")
    return local_text.xtext(value)


# -- sending -------------------------------------------------------------------------------------------------------------


def submit(flags: Flags) -> int:
    """By ourselves when we may write where the server's mail is; else the message is left in the maildrop."""
    try:
        config = configuration(flags.config)
    except ExitWith:  # an ordinary user may not be allowed to read it: it names secrets
        folder = maildrop.folder_for("")
        if flags.config is not None or not folder:
            raise
        return leave(flags, folder, LIMIT)
    if config.server.maildrop and not _may_write(config.server.data_dir):
        return leave(flags, config.server.maildrop, config.limits.message_size)
    return send(flags, config)


def _may_write(data_dir: str) -> bool:
    return os.geteuid() == 0 or os.access(data_dir, os.W_OK | os.X_OK)


def leave(flags: Flags, folder: str, limit: int) -> int:
    """Into the maildrop: the server completes bare names and the header, and knows who we are by the file's owner."""
    data, _, recipients = _message(flags, limit)
    sender = sender_of(flags)
    name = flags.full_name or own_name()
    for path, to in envelopes(flags.verp, _login_name() if sender is None else sender, recipients):
        own = None if sender is None and not flags.verp else path
        maildrop.put(folder, maildrop.Drop(tuple(to), own, name, flags.params), data)
    return EX_OK


def sender_of(flags: Flags) -> str | None:
    """What -f says, "" for the null path; None: who we are. As lenient with the spelling as Postfix."""
    if flags.sender is None or flags.sender.strip() in ("", "<>"):
        return None if flags.sender is None else ""
    first = written(flags.sender)[0]
    if is_path(_whole(first)):
        return first
    print(f"{PROGRAM}: -f {flags.sender}: not an address; your own is taken", file=sys.stderr)
    return None


def written(text: str) -> list[str]:
    """The addresses of an argument: one as it stands, or a list as it could stand in To. What is none stays for its refusal."""
    bare = text.strip().removeprefix("<").removesuffix(">")
    if is_path(_whole(bare)) or not local_text.is_text(text):
        return [bare]
    names = local_text.listed(text.encode())
    return names if names and all(is_path(_whole(one)) for one in names) else [bare]


def _whole(written: str) -> str:
    """With some domain: is it an address?"""
    return written if "@" in written else f"{written}@localhost"


def envelopes(verp: str, sender: str, recipients: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(reverse-path, for whom): one for all, or with ``verp`` one for each whose domain is known (Postfix's VERP_README)."""
    local, at, domain = sender.rpartition("@")
    if not verp or not sender:
        return [(sender, list(recipients))]
    local, domain = (local, at + domain) if at else (sender, "")
    plain = [one for one in recipients if "@" not in one]
    personal = [
        (f"{local}{verp[0]}{to.rpartition('@')[0]}{verp[1]}{to.rpartition('@')[2]}{domain}", [to])
        for to in recipients
        if "@" in to
    ]
    return personal + ([(sender, plain)] if plain else [])


def _message(flags: Flags, limit: int) -> tuple[bytes, header.HeaderBlock, list[str]]:
    """(text, its header, recipients as they are written). Raises ExitWith."""
    data = read_message(limit)
    if flags.dots:
        end = _DOT_LINE.search(data)
        data = data[: end.start()] if end else data
    data = local_text.headed(data)
    block = header.scan(data)
    named = [one for text in flags.recipients for one in written(text)]
    found = [*named, *(header_recipients(block) if flags.from_header else ())]
    recipients = list({_folded(one): one for one in reversed(found) if one.strip("<> ")}.values())[::-1]
    if not recipients:
        raise ExitWith(EX_USAGE, "no recipients" + ("" if flags.from_header else "; name them, or use -t"))
    return data, block, recipients


def _folded(address: str) -> str:
    """The domain without case: one host, one copy."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}" if at else address


def send(flags: Flags, config: Config) -> int:
    data, block, found = _message(flags, config.limits.message_size)
    recipients = list(dict.fromkeys(with_domain(one, config) for one in found))
    login = with_domain(_login_name(), config)
    given = sender_of(flags)
    sender = login if given is None else with_domain(given, config)
    ours = config.domain[0].name
    text = completed(
        data, block, sender or login, flags.full_name or own_name(), config.server.hostname, ours
    )
    work = envelopes(flags.verp, sender, recipients)
    answers = hand_in_all(config, work, text, Account(login), flags.params)
    worst = EX_OK
    for (_, to), replies in zip(work, answers, strict=True):
        for one, reply in zip(to, replies, strict=True):
            code = exit_code(reply)
            if code != EX_OK:
                print(f"{PROGRAM}: <{one}>: {reply.text}", file=sys.stderr)
                worst = code if worst != EX_TEMPFAIL else worst
    return worst


def header_recipients(block: header.HeaderBlock) -> list[str]:
    """-t: To, Cc and Bcc; of a resent message only the Resent- ones (RFC 5322 3.6.6)."""
    resent = any(block.get_all(name) for name in RESENT_TO_FIELDS)
    return [
        one
        for name in (RESENT_TO_FIELDS if resent else TO_FIELDS)
        for value in block.get_all(name)
        for one in local_text.listed(value)
    ]


def completed(
    data: bytes, block: header.HeaderBlock, sender: str, full_name: str, hostname: str, domain: str = ""
) -> bytes:
    """As ``local_text.completed``, with today's date and a new Message-ID."""
    today = formatdate(SystemClock().time(), localtime=True)
    return local_text.completed(data, block, sender, full_name, today, make_msgid(domain=hostname), domain)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def own_name() -> str:
    """The full name of who is sending, for a From that is missing: $NAME, else as the system knows it ("&" is the login)."""
    try:
        name = os.environ.get("NAME", "") or pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
    except KeyError:
        return ""
    return name.replace("&", _login_name().capitalize()).strip()


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


def check_aliases(config: Config, named: str = "") -> int:
    """-bi: nothing needs to be built; what does not hold in the alias files is said. 78 when a line is not understood.
    ``named``: only this file, a path with or without a type before it (hash:/etc/aliases), which is text to us."""
    from filterd.accounts.aliases import faults
    from filterd.accounts.outlets import Permits

    code = EX_OK
    one = (f"aliases:{os.path.abspath(named.rpartition(':')[2])}",) if named else ()
    for domain in config.domain[:1] if named else config.domain:
        for file in one or domain.alias_files:
            try:
                found = faults(file, domain.name, config.accounts.alias_includes, Permits.of(config))
            except OSError as error:
                raise ExitWith(EX_CONFIG, f"{file}: {error}") from None
            for fault in found:
                print(f"{file.partition(':')[2]}:{fault.place}: {fault.text}", file=sys.stderr)
                code = EX_CONFIG if fault.lost else code
    return code


def run_queue(which: str, named: str | None) -> int:
    """-q: everything that waits is tried now; -qI, -qR, -qS: one message, a domain, a sender. An interval says how often to do
    that: the server knows."""
    from filterd.cli.queue import retry_now
    from filterd.queue.steering import Choice

    kind, value = which[:1], which[1:]
    if which and _INTERVAL.fullmatch(which.removeprefix("p")):
        return EX_OK
    if which not in ("", "f", "ff") and (kind not in "IRS" or not value):
        raise ExitWith(EX_USAGE, f"-q{which}: write -q, -qIID, -qRDOMAIN or -qSSENDER")
    choice = Choice(
        name=value if kind == "I" else "",
        domain=value.removeprefix("@") if kind == "R" else "",
        sender=value if kind == "S" else "",
    )
    config = configuration(named)
    if not _may_write(config.server.data_dir):
        raise ExitWith(EX_NOPERM, "you may not steer the queue")
    retry_now(config, choice)
    return EX_OK


def mailq(config: Config) -> int:
    """-bp: what waits."""
    from filterd.cli import CliError
    from filterd.cli.queuelist import print_queue

    try:
        return print_queue(config)
    except CliError as error:
        raise ExitWith(EX_NOPERM, error.text) from None
