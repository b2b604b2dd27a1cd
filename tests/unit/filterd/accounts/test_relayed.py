"""Who is there in a domain whose store is behind us, and what the directory makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filterd.accounts.builtin import BuiltinDirectory
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.directory import Account, Forward, Resolution, SrsReturn, TryLater, Unknown
from filterd.accounts.password import Passwords
from filterd.accounts.relayed import Recipients, read
from filterd.config.load import parse
from tests.house import TestClock


def directory(tmp_path: Path, domain: str, people: tuple[str, ...] = ()) -> BuiltinDirectory:
    text = f"""
version = 1
[server]
hostname = "mx.here.example"
data_dir = "{tmp_path}"
[[domain]]
name = "here.example"
[[domain]]
name = "behind.example"
relay = "lmtp://127.0.0.1:24"
{domain}
"""
    clock = TestClock()
    database = AccountDatabase(str(tmp_path / "accounts.db"), clock)
    for address in people:
        database.add(Record(address))
    return BuiltinDirectory(
        parse(text),
        database,
        Passwords(clock),
        lambda address: "far@away.example" if "good" in address else None,
    )


def relayed(found: Resolution) -> str:
    assert isinstance(found, Forward) and found.relayed, found
    return found.address


def test_everybody(tmp_path: Path) -> None:
    here = directory(tmp_path, "")
    assert relayed(here.lookup("Anybody+at.All@BEHIND.example")) == "Anybody+at.All@behind.example"
    assert isinstance(here.lookup("anybody@here.example"), Unknown)


def test_a_list(tmp_path: Path) -> None:
    here = directory(tmp_path, 'recipients = ["ann", "Bob@behind.example"]')
    assert relayed(here.lookup("ANN@behind.example")) == "ANN@behind.example"
    assert relayed(here.lookup("bob+list@behind.example")) == "bob+list@behind.example"
    assert relayed(here.lookup("postmaster@behind.example")) == "postmaster@behind.example"
    assert isinstance(here.lookup("carl@behind.example"), Unknown)


def test_aliases_and_catch_all_come_first(tmp_path: Path) -> None:
    here = directory(
        tmp_path,
        'recipients = ["ann"]\ncatch_all = "ann@behind.example"\n'
        'aliases = { info = "ann@behind.example", nobody = "carl@behind.example" }',
    )
    for name in ("info", "whoever", "nobody"):
        assert relayed(here.lookup(f"{name}@behind.example")) == "ann@behind.example"


def test_an_account_there_is_a_login_and_no_mailbox(tmp_path: Path) -> None:
    here = directory(tmp_path, "", ("ann@behind.example",))
    assert relayed(here.lookup("ann@behind.example")) == "ann@behind.example"
    ann = Account("ann@behind.example")
    assert here.may_send_as(ann, "Ann+x@behind.example")
    assert not here.may_send_as(ann, "bob@behind.example")


def test_return_addresses_are_ours_though_everybody_is_there(tmp_path: Path) -> None:
    here = directory(tmp_path, '[srs]\ndomain = "behind.example"')
    assert here.lookup("SRS0=good=away@behind.example") == SrsReturn("far@away.example")
    assert isinstance(here.lookup("SRS0=bad=away@behind.example"), Unknown)


def test_a_file_is_read_again_when_it_changes_and_never_makes_people_unknown(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.touch()  # `config check` wants it to be there; what happens later is our matter
    here = directory(tmp_path, f'recipients = ["file:{file}"]')
    file.unlink()
    assert isinstance(here.lookup("ann@behind.example"), TryLater)
    file.write_text("# people\nann@behind.example   OK\nbob\n\nx@other.example OK\n")
    assert relayed(here.lookup("ann@behind.example")) and relayed(here.lookup("bob@behind.example"))
    assert isinstance(here.lookup("x@behind.example"), Unknown)
    file.write_text("carl\n")
    os.utime(file, ns=(1, 1))
    assert relayed(here.lookup("carl@behind.example")) and isinstance(
        here.lookup("ann@behind.example"), Unknown
    )
    file.unlink()
    assert relayed(here.lookup("carl@behind.example"))  # the last that was known


@pytest.mark.parametrize("entries", [[], ["any"], ["ann", "any"]])
def test_any(entries: list[str]) -> None:
    assert Recipients("d.example", entries, "+").knows("whoever")


def test_tables() -> None:
    assert read("a@d.example\tOK\r\n@d.example OK\n@e.example x\n", "d.example") == {"a", ""}
    assert read("\udcff@d.example\n \n#x\n", "d.example") == {"\udcff"}
