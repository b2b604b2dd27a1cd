"""``filterd COMMAND ...`` and ``python -m filterd``: finds the command, runs it, turns failures into exit codes.

0 done, 1 something was found, 2 used wrongly, 75 try again later (the disk, the database or a server is not there),
130 stopped by Ctrl-C. Whatever else a command raises is a bug and shows its traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from filterd import __version__
from filterd.cli import COMMANDS, OK, TRY_AGAIN, USAGE, CliError, Command

EXAMPLES = """\
Examples:
  filterd demo                              see everything at work, without root or network
  filterd account add -c filterd.toml ann@example.org
  filterd serve -c filterd.toml

See also: filterd COMMAND --help, filterd help"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code. ``argv`` without the program's name; None = that of the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    before: list[str] = []  # -c FILE may stand before the command, too
    while arguments and arguments[0] in ("-c", "--config") and len(arguments) > 2:
        before, arguments = arguments[:2], arguments[2:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return OK if arguments else USAGE
    if arguments[0] in ("-V", "--version", "version"):
        print(f"filterd {__version__}")
        return OK
    command = next((entry for entry in COMMANDS if entry.name == arguments[0]), None)
    if command is None:
        print(f"filterd: {unknown(arguments[0])}", file=sys.stderr)
        return USAGE
    if command.name in ("deliver", "sendmail"):  # their flags are their own, and their exit codes sysexits'
        return mail_command(command.module, [*before, *arguments[1:]])
    rest = arguments[1:]
    if len(rest) > 2 and rest[0] in (
        "-c",
        "--config",
    ):  # or between the command and its action: filterd queue -c F list
        before, rest = rest[:2], rest[2:]
    return run(command, rest, before)


def deliver() -> int:
    """The program ``filterd-deliver``."""
    return mail_command("filterd.cli.deliver", sys.argv[1:])


def sendmail() -> int:
    """The program ``filterd-sendmail``."""
    return mail_command("filterd.cli.sendmail", sys.argv[1:])


def mail_command(module: str, arguments: Sequence[str]) -> int:
    """A program that other mail servers hand mail to. Even half of an upgrade must not end it with 1: they would bounce."""
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}; try again later", file=sys.stderr)
        return TRY_AGAIN
    return int(loaded.main(arguments))


def run(command: Command, arguments: Sequence[str], before: Sequence[str] = ()) -> int:
    """Parse and run one command."""
    import argparse

    from filterd.cli.parser import Parser

    module = importlib.import_module(command.module)
    parser = Parser(
        prog=f"filterd {command.name}",
        description=(module.__doc__ or command.help).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    try:
        parsed = parser.parse_args(arguments)  # exits by itself: 0 after --help, 2 when used wrongly
        if before and getattr(parsed, "config", "") is None:
            parsed.config = before[1]
        return int(module.run(parsed))
    except CliError as error:
        print(f"filterd {command.name}: {error.text}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that the last flush has somewhere to go
        return OK
    except Exception as error:
        if not isinstance(error, OSError) and not _temporary(error):
            raise
        print(f"filterd {command.name}: {_told(error)}", file=sys.stderr)
        return TRY_AGAIN


def _told(error: BaseException) -> str:
    """What failed, and what to do about it where that is known."""
    named = isinstance(error, OSError) and error.filename is not None
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and named else str(error)
    cause: BaseException | None = error
    while cause is not None:
        words = str(cause)
        if isinstance(cause, PermissionError) or "readonly database" in words:
            return f"{text}; run this as root, or as the user that the server runs as (server.user)"
        if getattr(cause, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in words:
            return f"{text}; make room on that disk, then do it again"
        cause = cause.__cause__ or cause.__context__
    return text


def _temporary(error: Exception) -> bool:
    """The errors that mean "try again"; looked at only now, so that starting stays fast."""
    from filterd.accounts.errors import AccountsUnavailable
    from filterd.store.base import StoreUnavailable

    return isinstance(error, (AccountsUnavailable, StoreUnavailable))


def overview() -> str:
    width = max(len(command.name) for command in COMMANDS)
    lines = [
        f"filterd {__version__}: a mail server that filters, and explains every decision.",
        "",
        "Usage: filterd COMMAND [ARGUMENTS]     filterd COMMAND --help",
        "",
        "Commands:",
        *(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS),
        "",
        EXAMPLES,
    ]
    return "\n".join(lines)


def unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [command.name for command in COMMANDS], n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"?' if close else "`filterd --help` lists the commands"
    return f'there is no command "{name}"; {hint}'


if __name__ == "__main__":
    sys.exit(main())
