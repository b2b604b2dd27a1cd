"""What the administrator's scripts may do with mail that another server shows us, as a profile of the compiler.

A filter may keep, discard, reject, redirect, edit the header and have a message held (``vnd.filterd.quarantine``). Where mail
is stored, who is answered and what an account remembers is the other server's business: a script that wants such a thing is
refused with line, column and cure when the configuration is checked and before the door opens. ``ihave`` of such a capability
is false (RFC 5463), so one script can serve both kinds of doors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from filterd.config.errors import ConfigErrors, Problem
from filterd.config.schema import Config
from filterd.config.values import SocketAddress
from rules.ast import Command, Script, Strings
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptError, ScriptErrors, line_column
from rules.limits import DEFAULT, Limits
from rules.parser import parse
from rules.registry import default_registry

CODE: Final = "milter-action"
OWN: Final = "vnd.filterd.quarantine"

_STORED = (
    "mail is stored by the other server",
    "keep, discard or redirect it; or add a field that the store's own rules file by",
)
_TOLD = ("nobody is answered or told from here", "answer where the mail is stored, or reject with a reason")
_KNOWN = ("a filter keeps nothing of an account", "decide by the message and its envelope alone")
_BODY = ("only the header can be edited here", "use addheader and deleteheader, or a filter of stage.milters")
_ONE = ("a filter has no folder of scripts", "name the other script in the list as well, before this one")
_ROUTE = ("the other server sends what we redirect", "write the redirect without it")
FORBIDDEN: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("fileinto", "mailbox", "mailboxid", "special-use", "imap4flags", "imapsieve", "fcc"), _STORED
        ),
        **dict.fromkeys(("vacation", "vacation-seconds", "enotify", "vnd.dovecot.report"), _TOLD),
        **dict.fromkeys(
            ("duplicate", "extlists", "mboxmetadata", "servermetadata", "vnd.filterd.list"), _KNOWN
        ),
        **dict.fromkeys(("replace", "enclose"), _BODY),
        **dict.fromkeys(("redirect-dsn", "redirect-deliverby"), _ROUTE),
        "include": _ONE,
    }
)
_COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fileinto": "fileinto",
        "vacation": "vacation",
        "notify": "enotify",
        "report": "vnd.dovecot.report",
        "replace": "replace",
        "enclose": "enclose",
        "include": "include",
        "setflag": "imap4flags",
        "addflag": "imap4flags",
        "removeflag": "imap4flags",
    }
)


def capabilities() -> tuple[str, ...]:
    """What a script of this profile may require."""
    return (*(name for name in default_registry().announced() if name not in FORBIDDEN), OWN)


def compile_for_milter(text: str, name: str, limits: Limits = DEFAULT) -> CompiledScript:
    """Raises ScriptErrors with every error, those of the profile among them."""
    registry = default_registry()
    errors: list[ScriptError] = []
    try:
        compile_script(text, name=name, limits=limits, capabilities=(*registry.announced(), OWN))
    except ScriptErrors as failure:
        errors = failure.errors
    script, _ = parse(text, limits)
    errors = sorted({*errors, *_beyond(script)})[: limits.errors]
    if errors:
        raise ScriptErrors(errors, name=name)
    return compile_script(text, name=name, limits=limits, capabilities=capabilities())


def paths(config: Config) -> list[Path]:
    """The scripts of the milter door: its own, else those that run first at our own doors."""
    return [Path(path) for path in config.milter.scripts or config.stage.sieve.before]


def refuse(config: Config, listening: Sequence[SocketAddress], limits: Limits = DEFAULT) -> None:
    """Raises ConfigErrors when the milter door would open with scripts that it cannot run."""
    found = tuple(problems(config, listening, limits))
    if found:
        raise ConfigErrors(found)


def problems(
    config: Config, listening: Sequence[SocketAddress], limits: Limits = DEFAULT
) -> Iterator[Problem]:
    """What is wrong with the scripts of the milter door; nothing where there is none."""
    for path in paths(config) if listening else ():
        try:
            compile_for_milter(path.read_text("utf-8"), path.stem, limits)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            yield Problem(str(path), 0, 0, "no such file", "milter script", f"cannot be read: {why}")
        except ScriptErrors as failure:
            for one in failure.errors:
                text = one.message + (f"; cure: {one.cure}" if one.cure else "")
                if one.code == CODE and not config.milter.scripts:
                    text += "; or name scripts for this door alone in milter.scripts"
                yield Problem(str(path), one.line, one.column, "script", one.code, text)


def _beyond(script: Script) -> Iterator[ScriptError]:
    """The words that go beyond the profile: where they are required and, when they are, where they are used."""
    required: set[str] = set()
    for command in script.commands:
        if command.name != "require":
            continue
        for strings in command.args:
            if isinstance(strings, Strings):
                for index, name in enumerate(strings.values):
                    if name in FORBIDDEN:
                        required.add(name)
                        yield _error(script, strings.where(index), f'the capability "{name}"', name)
    for command in _every(script.commands):
        need = _COMMANDS.get(command.name)
        if need in required:
            assert need is not None
            yield _error(script, command.pos, command.name, need)


def _every(commands: Sequence[Command]) -> Iterator[Command]:
    for command in commands:
        yield command
        yield from _every(command.block or ())


def _error(script: Script, pos: int, what: str, capability: str) -> ScriptError:
    why, cure = FORBIDDEN[capability]
    line, column = line_column(script.text, pos)
    return ScriptError(line, column, CODE, f"{what} is not possible in a milter: {why}", cure)
