"""A start as root leaves folders that the server can use as somebody else, and gives away nothing that it did not make."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from filterd.config.load import parse
from filterd.config.schema import Config
from filterd.handover import make_folders, server_user

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="not root: files cannot be given away (CAP_CHOWN)")
NOBODY = pwd.getpwnam("nobody")


def config(folder: Path, user: str = "nobody") -> Config:
    text = f'[server]\nhostname = "mail.example.org"\nuser = "{user}"\ndata_dir = "data"\n[[domain]]\nname = "example.org"\n'
    return parse(text, str(folder / "filterd.toml"))


def owners(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_uid for path in sorted(folder.rglob("*"))}


@root_only
def test_what_was_made_is_the_servers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_folders(config(tmp_path), data / "run", data / "a" / "b")
    assert owners(tmp_path) == dict.fromkeys(("data", "data/run", "data/a", "data/a/b"), NOBODY.pw_uid)
    assert (data / "run").stat().st_mode & 0o777 == 0o700


@root_only
def test_an_empty_folder_of_roots_is_given_a_full_one_is_not(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    make_folders(config(tmp_path))
    assert data.stat().st_uid == NOBODY.pw_uid
    other = tmp_path / "other"
    (other / "data" / "old").mkdir(parents=True)
    make_folders(config(other), other / "data" / "run")
    assert owners(other) == {"data": 0, "data/old": 0, "data/run": NOBODY.pw_uid}


@root_only
def test_an_unknown_user_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='no user "no-such-user"'):
        server_user(config(tmp_path, "no-such-user"))


def test_without_a_user_everything_stays_ours(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert server_user(config(tmp_path, "")) is None
    make_folders(config(tmp_path, ""), data / "run")
    assert set(owners(tmp_path).values()) == {os.geteuid()}
