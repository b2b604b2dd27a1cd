"""Aliases of a domain: configuration, patterns, files that change, and how the directory follows them."""

import os
from pathlib import Path

import pytest

from filterd.accounts.aliases import Aliases, check_pattern, faults
from filterd.accounts.builtin import MAX_TARGETS, BuiltinDirectory
from filterd.accounts.database import AccountDatabase, Record
from filterd.accounts.directory import Forward, Local, Resolution, Targets, ToOutlet, TryLater, Unknown
from filterd.accounts.password import Passwords
from filterd.config.errors import ConfigErrors
from filterd.config.load import parse
from pipeline.ports import Clock


class Hands(Clock):
    def time(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0


def directory(folder: Path, domain: str) -> BuiltinDirectory:
    clock = Hands()
    database = AccountDatabase(str(folder / "accounts.db"), clock)
    for name in ("ann", "bob", "eu-sales"):
        database.add(Record(f"{name}@us.example", "", "x", created=0.0))
    text = f'[server]\nhostname = "mail.us.example"\n[[domain]]\nname = "us.example"\n{domain}\n'
    return BuiltinDirectory(
        parse(text, str(folder / "filterd.toml")), database, Passwords(clock, time_cost=1, memory_kib=8)
    )


def ends(found: Resolution) -> list[str]:
    targets = found.targets if isinstance(found, Targets) else (found,)
    return [
        target.account.id if isinstance(target, Local) else target.address
        for target in targets
        if isinstance(target, (Local, Forward))
    ]


def write(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(0, hash(text) & 0xFFFFFFFF))


def test_patterns_hold_for_names_that_nobody_has(tmp_path: Path) -> None:
    people = directory(
        tmp_path,
        r"""catch_all = "bob@us.example"
[domain.aliases]
"*-sales" = "\\1-team@else.example"
"/^x([0-9]+)-(\\D)$/" = ["ann@us.example", "n\\1.\\2@else.example"]
fixed-sales = "bob@us.example" """,
    )
    assert ends(people.lookup("De-Sales@us.example")) == ["de-team@else.example"]
    assert ends(people.lookup("eu-sales@us.example")) == ["eu-sales@us.example"]  # an account
    assert ends(people.lookup("fixed-sales@us.example")) == ["bob@us.example"]
    assert ends(people.lookup("de-sales+tag@us.example")) == ["de-team@else.example"]
    assert ends(people.lookup("X12-q@us.example")) == ["ann@us.example", "n12.q@else.example"]
    assert ends(people.lookup("x12-3@us.example")) == ["bob@us.example"]  # catch-all
    alias = people.alias_of("de-sales@us.example")
    assert alias is not None and "*-sales" in alias.source


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r'"*-x" = "\\2@us.example"', "no such part"),
        (r'"/(/" = "ann@us.example"', "cannot be used"),
        (r'"/(?=a)/" = "ann@us.example"', "cannot be used"),
    ],
)
def test_config_check_knows_bad_patterns(line: str, words: str) -> None:
    text = f'[server]\nhostname = "m.us.example"\n[[domain]]\nname = "us.example"\n[domain.aliases]\n{line}\n'
    with pytest.raises(ConfigErrors) as caught:
        parse(text)
    assert words in str([problem.text for problem in caught.value.errors])
    assert not check_pattern("*a*", [r"\2\1@us.example"])


def test_files_are_followed_and_read_again(tmp_path: Path) -> None:
    path, table = tmp_path / "aliases", tmp_path / "virtual.re"
    write(path, "info: ann, bob\nprog: |cat\nann: \\ann, copy@else.example\nloop: loop2\nloop2: loop\n")
    write(table, "/^team-(.*)@/ $1")
    people = directory(tmp_path, 'alias_files = ["aliases:aliases", "regexp:virtual.re"]')
    assert ends(people.lookup("info@us.example")) == ["ann@us.example", "bob@us.example", "copy@else.example"]
    assert ends(people.lookup("INFO+x@us.example"))[0] == "ann@us.example"
    assert ends(people.lookup("team-bob@us.example")) == ["bob@us.example"]
    assert isinstance(people.lookup("team-zoe@us.example"), Unknown)
    assert isinstance(people.lookup("loop@us.example"), Unknown)
    refused = people.lookup("prog@us.example")
    assert isinstance(refused, Unknown) and "program" in refused.reason
    ann = people.account("ann@us.example")
    assert ann is not None and people.may_send_as(ann, "info@us.example")
    bob = people.account("bob@us.example")
    assert bob is not None and list(people.own_addresses(bob)) == ["bob@us.example"]
    write(path, "shop: bob\n")
    assert isinstance(people.lookup("info@us.example"), Unknown)
    assert list(people.own_addresses(bob)) == ["bob@us.example", "shop@us.example"]


def test_expressions_see_what_was_written(tmp_path: Path) -> None:
    """regexp_table(5): capitals do not count, with the flag i they do; what a part caught stays as it was written."""
    write(
        tmp_path / "re",
        "/^loud@/i no@else.example\n/^LOUD@/i yes@else.example\n/^to-(.*)@/ $1@else.example\n",
    )
    people = directory(tmp_path, 'alias_files = ["regexp:re"]')
    for asked, to in (("LOUD", "yes"), ("loud", "no"), ("To-AnN", "AnN"), ("to-AnN+x", "AnN+x")):
        assert ends(people.lookup(f"{asked}@us.example")) == [f"{to}@else.example"]
    assert isinstance(people.lookup("Loud@us.example"), Unknown)


def test_members_that_are_nobody_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "aliases", "team: ann, typo, ring\nring: bob, self\nself: self\nnone: typo\n")
    people = directory(tmp_path, 'alias_files = ["aliases:aliases"]')
    for _ in range(3):
        assert ends(people.lookup("team@us.example")) == ["ann@us.example", "bob@us.example"]
    assert people.missing("Team@us.example") == ["typo@us.example", "self@us.example"]
    told = [one.getMessage() for one in caplog.records if "typo" in one.getMessage()]
    assert len(told) == 1 and "typo@us.example, self@us.example" in told[0]
    assert isinstance(people.lookup("none@us.example"), Unknown) and people.missing("none@us.example") == []
    assert people.missing("ann@us.example") == people.missing("a@else.example") == []


def test_programs_and_files_of_an_alias(tmp_path: Path) -> None:
    many = ", ".join(f"|take {n}" for n in range(MAX_TARGETS + 1))
    text = (
        f"robot: |take x\nteam: ann, robot, robot, |take y, /dev/null\nann: \\ann, robot\nmany: ann, {many}\n"
    )
    write(tmp_path / "aliases", text)
    allow = """[accounts.allow]
mail_to_commands = ["alias"]
mail_to_files = ["alias"]
[exec]
socket = "/run/x"
directory = "/usr/lib/filters"
"""
    people = directory(tmp_path, f'alias_files = ["aliases:aliases"]\n{allow}')
    found = people.lookup("team@us.example")
    assert isinstance(found, Targets) and ends(found) == ["ann@us.example"]
    outlets = [(str(one.outlet), one.via) for one in found.targets if isinstance(one, ToOutlet)]
    assert [text for text, _ in outlets] == ["|take y", "/dev/null", "|take x"]
    assert outlets[2][1] == ("team@us.example", "ann@us.example", "robot@us.example")
    robot = people.lookup("robot+tag@us.example")
    assert isinstance(robot, ToOutlet) and robot.via == ("robot@us.example",)
    assert isinstance(people.lookup("many@us.example"), TryLater)
    ann = people.account("ann@us.example")
    assert ann is not None and people.may_send_as(ann, "team@us.example")
    assert not people.may_send_as(ann, "robot@us.example")
    assert list(people.own_addresses(ann)) == ["ann@us.example"]


def test_why_somebody_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "aliases", "a: ann\nnonsense\n")
    people = directory(tmp_path, 'alias_files = ["aliases:aliases"]')
    later = people.lookup("zoe@us.example")
    assert isinstance(later, TryLater) and "alias file has lines" in later.reason


def test_whole_domains_of_a_table(tmp_path: Path) -> None:
    write(tmp_path / "v", "@us.example @else.example\n")
    people = directory(tmp_path, 'alias_files = ["hash:v"]')
    assert ends(people.lookup("ann@us.example")) == ["ann@us.example"]
    assert ends(people.lookup("zoe@us.example")) == ["zoe@else.example"]


def test_a_file_that_cannot_be_read_makes_nobody_unknown(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    write(path, "info: ann\n")
    people = directory(tmp_path, 'alias_files = ["aliases:aliases"]')
    path.unlink()
    assert isinstance(people.lookup("zoe@us.example"), TryLater)
    assert isinstance(people.lookup("ann@us.example"), TryLater)  # her alias may say otherwise
    write(path, "info: ann\nbroken\n")
    assert ends(people.lookup("info@us.example")) == ["ann@us.example"]
    assert isinstance(people.lookup("zoe@us.example"), TryLater)
    write(path, "info: ann\nzoe: bob\n")
    assert ends(people.lookup("zoe@us.example")) == ["bob@us.example"]
    write(path, "broken again\n")
    assert ends(people.lookup("zoe@us.example")) == ["bob@us.example"]  # the last good state
    path.unlink()
    assert ends(people.lookup("info@us.example")) == ["ann@us.example"]
    assert isinstance(people.lookup("nobody@us.example"), Unknown)


def test_include_files_must_be_safe(tmp_path: Path) -> None:
    path, people = tmp_path / "aliases", tmp_path / "people"
    people.write_text("ann\nbob@else.example\n")
    people.chmod(0o640)
    write(path, f"all: :include:{people}\nodd: :include:people\n")
    aliases = Aliases("us.example", {}, [f"aliases:{path}"], includes=True)
    entry = aliases.find("all")
    assert entry is not None and entry.targets == ("ann@us.example", "bob@else.example")
    assert [fault.line for fault in faults(f"aliases:{path}", "us.example", True)] == [2]
    people.write_text("ann\n")
    people.chmod(0o666)
    os.utime(people, ns=(0, 1))
    entry = aliases.find("all")
    assert entry is not None and "written by others" in entry.refused


def test_config_check_warns_of_lines_and_refuses_absent_files(tmp_path: Path) -> None:
    head = '[server]\nhostname = "m.us.example"\n[[domain]]\nname = "us.example"\n'
    (tmp_path / "aliases").write_text("a: |x\nnonsense\n")
    config = parse(f'{head}alias_files = ["aliases:aliases"]\n', str(tmp_path / "filterd.toml"))
    told = [(problem.about, problem.text) for problem in config.warnings if "aliases:" in problem.about]
    assert [about.rpartition(":")[2] for about, _ in told] == ["1", "2"]
    for bad in ('"aliases:absent"', '"mysql:x"', '"aliases"'):
        with pytest.raises(ConfigErrors):
            parse(f"{head}alias_files = [{bad}]\n", str(tmp_path / "filterd.toml"))
