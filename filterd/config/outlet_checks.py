"""What only the whole configuration shows about programs and files that aliases may lead to (``accounts.allow``)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from filterd.config import schema
from filterd.config.positions import Path

Finding = tuple[Path, str, str, str]  # path, kind, about, text
ALLOW: Path = ("accounts", "allow")
USER = "%{user}"
OTHERS = 0o022


def problems(config: schema.Config) -> Iterator[Finding]:
    allow = config.accounts.allow
    if allow.mail_to_commands:
        for name, value in (("socket", config.exec.socket), ("directory", config.exec.directory)):
            if not value:
                text = "accounts.allow.mail_to_commands needs it: programs are run by filterd-exec"
                yield (*ALLOW, "mail_to_commands"), "missing key", f"exec.{name}", text
    for folder in allow.mail_to_files_in:
        about = f'accounts.allow.mail_to_files_in has "{folder}"'
        path = (*ALLOW, "mail_to_files_in")
        if (
            not folder.startswith("/")
            or os.path.normpath(folder) != folder.rstrip("/")
            or not folder.strip("/")
        ):
            yield path, "bad value", about, "write the whole path of a folder, as it is"
        elif folder.count("%") != folder.count(USER) or (USER not in folder.split("/") and USER in folder):
            yield (
                path,
                "bad value",
                about,
                f"{USER} may stand for a whole part of the path, and nothing else may",
            )
        elif _inside(folder, config.server.data_dir):
            yield path, "bad value", about, "is below server.data_dir, which is ours alone"


def warnings(config: schema.Config) -> Iterator[Finding]:
    allow = config.accounts.allow
    path = (*ALLOW, "mail_to_files_in")
    if allow.mail_to_files and not allow.mail_to_files_in:
        text = "is empty: accounts.allow.mail_to_files allows nothing but /dev/null"
        yield (*ALLOW, "mail_to_files"), "warning", "accounts.allow.mail_to_files_in", text
    if "forward" in allow.mail_to_files and not any(USER in one for one in allow.mail_to_files_in):
        text = f"no folder has {USER} in it, and a .forward may write below such a one only"
        yield path, "warning", "accounts.allow.mail_to_files_in", text
    if "forward" in (*allow.mail_to_commands, *allow.mail_to_files) and not config.accounts.forward.enabled:
        yield ALLOW, "warning", "accounts.allow", 'has "forward", and accounts.forward.enabled is off'
    for folder in allow.mail_to_files_in:
        about = f'accounts.allow.mail_to_files_in has "{folder}"'
        try:
            facts = None if USER in folder else os.stat(folder)
        except OSError as error:
            yield path, "warning", about, f"mail for it waits: {error.strerror}"
            continue
        if facts is not None and facts.st_mode & OTHERS:
            yield path, "warning", about, "mail for it waits: others may write there"


def _inside(folder: str, other: str) -> bool:
    return bool(other) and f"{folder.rstrip('/')}/".startswith(f"{os.path.abspath(other)}/")
