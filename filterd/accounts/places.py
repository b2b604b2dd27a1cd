"""Where an account's things are on disk, in one place: the database, the mail folder, the scripts."""

from __future__ import annotations

import os

from filterd.accounts.database import FILE_NAME
from filterd.accounts.names import split
from filterd.accounts.scripts import FOLDER, TESTS, FileScriptStore, ScriptLimits
from filterd.config.schema import ACCOUNT_PATTERN, Config
from filterd.store.durable import Disk


def database_path(config: Config) -> str:
    return os.path.join(config.server.data_dir, FILE_NAME)


def mail_root(config: Config) -> str:
    """The folder above all accounts: ``store.path`` without its ending ``%{domain}/%{user}`` (the checks ask for it)."""
    return os.path.join(config.server.data_dir, config.store.path.removesuffix(ACCOUNT_PATTERN).rstrip("/"))


def account_folder(config: Config, account_id: str) -> str:
    """The Maildir root of an account; ids are safe as folder names (``names.account_id`` made them)."""
    user, domain = split(account_id)
    return os.path.join(mail_root(config), domain, user)


def tests_of(config: Config, account_id: str) -> str:
    """The folder of an account's rule tests: *.eml and expect.toml; where it exists, a failing one refuses activation."""
    return os.path.join(account_folder(config, account_id), FOLDER, TESTS)


def scripts_of(config: Config, account_id: str, disk: Disk) -> FileScriptStore:
    limits = config.stage.sieve.limits
    return FileScriptStore(
        account_folder(config, account_id), disk, ScriptLimits(limits.script, limits.scripts)
    )
