"""Where an alias or a ``.forward`` may lead besides addresses: a program (``|program arguments``) and a file (``/path``).

Pure: what the configuration allows (``accounts.allow``), text in, ``Outlet`` out, or the words why it is not followed. The file
system is looked at when mail is delivered (``filterd.store.mailfile``), programs are run by ``filterd-exec`` alone.

Rules: there is no shell, so what only a shell understands is refused; a program is a file of ``exec.directory``, written by its
name or by its whole path; a file is below a folder of ``accounts.allow.mail_to_files_in``, written without ``..`` and the like. A
folder with %{user} in it is for the .forward of that user and for nobody else, one without it is for alias files. ``/path/`` is
a Maildir, ``/path`` an mbox, ``/dev/null`` nothing.
"""

from __future__ import annotations

import json
import os.path
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from filterd.config.schema import Config
from rules.programs import ARGUMENT_OCTETS, ARGUMENTS, name_fault

ALIAS, FORWARD, INCLUDE = "alias", "forward", "include"  # where it is written
PROGRAM_MARK, FILE_MARK = "|", "/"
NOTHING = "/dev/null"
USER = "%{user}"
_SHELL = set(";&|<>()$`*?[]{}")
_SHELL_QUOTED = set("$`")  # of these a shell takes notice between double quotes
SWITCH = {True: "accounts.allow.mail_to_commands", False: "accounts.allow.mail_to_files"}


@dataclass(frozen=True, slots=True)
class Outlet:
    """``program``, a file of exec.directory, with ``arguments``; else ``path``. ``owner``: the user whose .forward says so."""

    program: str = ""
    arguments: tuple[str, ...] = ()
    path: str = ""
    owner: str = ""

    def __str__(self) -> str:
        return f"|{shlex.join((self.program, *self.arguments))}" if self.program else self.path

    @property
    def lane(self) -> str:
        """What waits for the same program or file; no domain begins so."""
        return f"{PROGRAM_MARK}{self.program}" if self.program else self.path

    def encode(self) -> str:
        """For a row of the queue."""
        told = {"program": self.program, "arguments": self.arguments, "path": self.path, "owner": self.owner}
        return json.dumps({name: value for name, value in told.items() if value})


def decoded(text: str) -> Outlet | None:
    """What ``encode`` made; None when it is none."""
    try:
        told = json.loads(text)
    except ValueError:
        return None
    if not isinstance(told, Mapping):
        return None
    words = [str(one) for one in told.get("arguments", ())]
    out = Outlet(
        str(told.get("program", "")), tuple(words), str(told.get("path", "")), str(told.get("owner", ""))
    )
    return out if out.program or out.path else None


@dataclass(frozen=True, slots=True)
class Permits:
    """What the configuration allows. ``commands``, ``files``: from where (ALIAS, FORWARD, INCLUDE); nothing by default."""

    commands: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()
    directory: str = ""

    @classmethod
    def of(cls, config: Config) -> Permits:
        allow = config.accounts.allow
        return cls(
            frozenset(allow.mail_to_commands),
            frozenset(allow.mail_to_files),
            allow.mail_to_files_in,
            config.exec.directory,
        )

    def outlet(self, text: str, kind: str, owner: str = "") -> Outlet:
        """``text`` begins with "|" or "/". Raises ValueError with the words why it is not followed."""
        command = text.startswith(PROGRAM_MARK)
        if kind not in (self.commands if command else self.files):
            does = "runs a program" if command else "writes to a file"
            raise ValueError(f'{does}, which {SWITCH[command]} does not allow here ("{kind}")')
        return self._program(text[1:].strip(), owner) if command else self._file(text, owner)

    def holds(self, outlet: Outlet) -> str:
        """Is it allowed as things are now? Asked once more before it is done; "" or why not."""
        allowed = self.commands if outlet.program else self.files
        kinds = {FORWARD, INCLUDE} if outlet.owner else {ALIAS, INCLUDE}
        if not kinds & allowed:
            return f"{SWITCH[bool(outlet.program)]} does not allow it any more"
        if outlet.program:
            return name_fault(outlet.program) or ""
        return "" if self.folder(outlet) or outlet.path == NOTHING else "its folder is not allowed any more"

    def folder(self, outlet: Outlet) -> str:
        """The folder of the configuration that a file is below; "" for none."""
        owner = outlet.owner
        if owner and (owner.startswith(".") or FILE_MARK in owner):
            return ""
        mine = [one.replace(USER, owner) for one in self.folders if (USER in one) == bool(owner)]
        return next((one for one in mine if outlet.path.rstrip("/").startswith(one.rstrip("/") + "/")), "")

    def _program(self, text: str, owner: str) -> Outlet:
        odd = _only_for_a_shell(text)
        if odd:
            raise ValueError(
                f"needs a shell ({odd}), and there is none: put it into a script in exec.directory"
            )
        try:
            words = shlex.split(text)
        except ValueError:
            raise ValueError("has a quote that is not closed") from None
        if not words:
            raise ValueError("names no program")
        folder, name = os.path.split(words[0])
        if folder and (not self.directory or os.path.normpath(folder) != os.path.normpath(self.directory)):
            raise ValueError(f"{words[0]} is not in exec.directory")
        fault = name_fault(name)
        if fault:
            raise ValueError(fault)
        if len(words) - 1 > ARGUMENTS or any(
            len(one.encode("utf-8", "replace")) > ARGUMENT_OCTETS for one in words
        ):
            raise ValueError(
                f"has more than {ARGUMENTS} arguments, or a longer one than {ARGUMENT_OCTETS} octets"
            )
        return Outlet(name, tuple(words[1:]), owner=owner)

    def _file(self, text: str, owner: str) -> Outlet:
        path = text.removesuffix("/")
        if not path or os.path.normpath(path) != path or path.startswith("//") or not text.isprintable():
            raise ValueError(f"{text}: write the whole path, as it is")
        outlet = Outlet(path=text, owner=owner)
        if text != NOTHING and not self.folder(outlet):
            raise ValueError(
                f"{text} is not below a folder of accounts.allow.mail_to_files_in that is for it"
            )
        return outlet


def _only_for_a_shell(text: str) -> str:
    """The first character that means something to a shell and is not quoted, or ""."""
    quote, at = "", 0
    while at < len(text):
        ch = text[at]
        if ch == "\\" and quote != "'":
            at += 2
            continue
        if quote:
            if ch == quote:
                quote = ""
            elif quote == '"' and ch in _SHELL_QUOTED:
                return ch
        elif ch in "'\"":
            quote = ch
        elif ch in _SHELL:
            return ch
        at += 1
    return ""
