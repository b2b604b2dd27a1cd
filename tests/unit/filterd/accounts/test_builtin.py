"""Where an address leads, and who may log in and send."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from filterd.accounts.apppasswords import make
from filterd.accounts.builtin import MAX_TARGETS, BuiltinDirectory
from filterd.accounts.database import LOOK_EVERY, AccountDatabase, Record
from filterd.accounts.directory import Foreign, Forward, Local, SrsReturn, Targets, TryLater, Unknown
from filterd.accounts.errors import AccountsUnavailable
from filterd.accounts.password import Passwords
from filterd.config.load import parse
from pipeline.ports import Clock

CONFIG = """
[server]
hostname = "mail.example.org"
[[domain]]
name = "example.org"
[domain.aliases]
info = ["ann@example.org", "bob@example.org"]
away = "Ann@Elsewhere.example"
nested = ["info@example.org", "away@example.org", "ann@example.org"]
solo = "bob@example.org"
bob2 = "solo@example.org"
ann = ["ann@example.org", "copy@elsewhere.example"]
gone = "nobody@example.org"
half = ["nobody@example.org", "bob@example.org"]
"list+x" = "bob@example.org"
[[domain]]
name = "two.example"
catch_all = "ann@example.org"
aliases = { sales = "carl@two.example" }
"""


class Hands(Clock):
    def __init__(self) -> None:
        self.at = 0.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class House:
    """A directory with a few people."""

    def __init__(
        self, folder: Path, text: str = CONFIG, srs: Callable[[str], str | None] | None = None
    ) -> None:
        self.clock = Hands()
        self.database = AccountDatabase(str(folder / "accounts.db"), self.clock)
        self.passwords = Passwords(self.clock, time_cost=1, memory_kib=8)
        self.directory = BuiltinDirectory(parse(text), self.database, self.passwords, srs)

    def add(self, *addresses: str, enabled: bool = True) -> None:
        for address in addresses:
            made = len(self.database.records())
            stored = self.passwords.hash(f"pw-{address}")
            self.database.add(Record(address, "", stored, enabled=enabled, created=float(made)))

    def where(self, address: str) -> list[tuple[str, str]]:
        """(account or address, detail) of each place it leads to."""
        found = self.directory.lookup(address)
        targets = found.targets if isinstance(found, Targets) else (found,)
        out = []
        for target in targets:
            assert isinstance(target, (Local, Forward)), target
            out.append(
                (target.account.id, target.detail) if isinstance(target, Local) else (target.address, "->")
            )
        return out


@pytest.fixture
def house(tmp_path: Path):
    made = House(tmp_path)
    made.add("ann@example.org", "bob@example.org", "carl@two.example")
    yield made
    made.database.close()


BOB, CARL = ("bob@example.org", ""), ("carl@two.example", "")
ANN, COPY = ("ann@example.org", ""), ("copy@elsewhere.example", "->")


@pytest.mark.parametrize(
    ("address", "places"),
    [
        ("bob@example.org", [BOB]),
        ("BOB@EXAMPLE.org.", [BOB]),
        ('"bob"@example.org', [BOB]),
        ("bob+list@example.org", [("bob@example.org", "list")]),
        ("bob+a+b@example.org", [("bob@example.org", "a+b")]),
        ("Bob+CamelCase@example.org", [("bob@example.org", "camelcase")]),
        ("list+x@example.org", [BOB]),
        ("solo+d@example.org", [("bob@example.org", "d")]),
        ("bob2@example.org", [BOB]),
        ("ann@example.org", [ANN, COPY]),
        ("info@example.org", [ANN, BOB, COPY]),
        ("nested@example.org", [ANN, BOB, COPY, ("Ann@elsewhere.example", "->")]),
        ("away@example.org", [("Ann@elsewhere.example", "->")]),
        ("half@example.org", [BOB]),
        ("sales@two.example", [CARL]),
        ("anything@two.example", [ANN, COPY]),
        ("postmaster@two.example", [ANN, COPY]),
        ("postmaster@example.org", [ANN]),
        ("Abuse@example.org", [ANN]),
        ("postmaster", [ANN]),
        ("Postmaster", [ANN]),
    ],
)
def test_where_addresses_lead(house: House, address: str, places: list[tuple[str, str]]) -> None:
    assert sorted(house.where(address)) == sorted(places)


@pytest.mark.parametrize(
    "address", ["nobody@example.org", "gone@example.org", "+x@example.org", "bob", "@example.org", ""]
)
def test_nobody_there(house: House, address: str) -> None:
    assert isinstance(house.directory.lookup(address), Unknown)


@pytest.mark.parametrize(
    "address", ["x@other.example", "bob@sub.example.org", "bob@[127.0.0.1]", "bob@example.org@other.example"]
)
def test_foreign(house: House, address: str) -> None:
    assert house.directory.lookup(address) == Foreign(address)


def test_the_way_is_told(house: House) -> None:
    found = house.directory.lookup("bob2@example.org")
    assert (
        isinstance(found, Local)
        and found.via == ("bob2@example.org", "solo@example.org")
        and not found.catch_all
    )
    found = house.directory.lookup("who@two.example")
    assert isinstance(found, Targets)
    first = found.targets[0]
    assert isinstance(first, Local) and first.catch_all and first.via[0] == "who@two.example"


def test_disabled_accounts_take_no_mail_and_no_log_in(house: House) -> None:
    house.add("dora@two.example", enabled=False)
    assert isinstance(house.directory.lookup("dora@two.example"), Unknown), "not even for the catch-all"
    assert house.directory.authenticate("dora@two.example", "pw-dora@two.example") is None


def test_without_any_account_even_postmaster_is_unknown(tmp_path: Path) -> None:
    empty = House(tmp_path)
    assert isinstance(empty.directory.lookup("postmaster@example.org"), Unknown)
    empty.database.close()


def test_log_in(house: House) -> None:
    found = house.directory.authenticate("Bob@Example.org", "pw-bob@example.org")
    assert found is not None and found.id == "bob@example.org" and found.quota == 5 << 30
    assert house.directory.authenticate("bob@example.org", "wrong") is None
    assert house.directory.authenticate("nobody@example.org", "x") is None
    assert house.directory.authenticate("", "") is None
    assert house.directory.authenticate("info@example.org", "pw-bob@example.org") is None


def test_scram_keys_of_who_may_log_in(house: House) -> None:
    keys = house.directory.scram("Bob@Example.org")
    assert keys.known and keys == house.directory.scram("bob@example.org")
    nobody = house.directory.scram("nobody@example.org")
    assert not nobody.known and len(nobody.salt) == len(keys.salt) and nobody.iterations == keys.iterations
    assert nobody == house.directory.scram("Nobody@example.org"), "the same salt each time"
    house.add("off@example.org", enabled=False)
    assert not house.directory.scram("off@example.org").known


def test_scram_is_offered_when_everybody_can(house: House) -> None:
    assert house.directory.scram_offered()
    old = house.passwords.hash("pw-old").partition(" ")[0]
    house.database.add(Record("old@example.org", password=old))
    assert not house.directory.scram_offered() and not house.directory.scram("old@example.org").known
    house.database.add(Record("nopassword@example.org"))
    assert house.directory.authenticate("old@example.org", "wrong") is None
    assert not house.directory.scram_offered()
    assert house.directory.authenticate("old@example.org", "pw-old") is not None
    assert house.directory.scram_offered() and house.directory.scram("old@example.org").known, "completed"
    assert house.directory.authenticate("old@example.org", "pw-old") is not None
    assert house.directory.authenticate("old@example.org", "wrong") is None


def test_a_password_that_was_changed_meanwhile_stays(house: House) -> None:
    before = house.database.records()["bob@example.org"].password
    house.database.improve("bob@example.org", "something else", "x")
    assert house.database.records()["bob@example.org"].password == before


def test_app_passwords_log_in_while_the_account_may(house: House) -> None:
    made, password = make("telephone", 0.0)
    house.database.add_app("bob@example.org", made)
    assert house.directory.authenticate("Bob@example.org", password) is not None
    assert house.directory.authenticate("bob@example.org", "pw-bob@example.org") is not None
    assert house.directory.authenticate("ann@example.org", password) is None
    house.database.update(dataclasses.replace(house.database.records()["bob@example.org"], enabled=False))
    assert house.directory.authenticate("bob@example.org", password) is None


def test_an_account_without_a_password_cannot_log_in(house: House) -> None:
    house.database.add(Record("eve@example.org"))
    assert house.directory.authenticate("eve@example.org", "") is None


def test_new_accounts_are_seen_within_a_second(house: House) -> None:
    other = AccountDatabase(house.database.path, house.clock)
    assert isinstance(house.directory.lookup("new@example.org"), Unknown)
    other.add(Record("new@example.org"))
    house.clock.at += LOOK_EVERY
    assert house.where("new@example.org") == [("new@example.org", "")]
    other.close()


def test_sending(house: House) -> None:
    bob = house.directory.account("bob@example.org")
    ann = house.directory.account("ann@example.org")
    assert bob is not None and ann is not None
    for address in (
        "bob@example.org",
        "BOB+x@example.org",
        "info@example.org",
        "bob2@example.org",
        "half@example.org",
    ):
        assert house.directory.may_send_as(bob, address), address
    for address in (
        "ann@example.org",
        "bob@other.example",
        "any@two.example",
        "",
        "bob",
        "nobody@example.org",
    ):
        assert not house.directory.may_send_as(bob, address), address
    assert not house.directory.may_send_as(ann, "any@two.example"), "catch-all gives no right to every name"
    assert next(iter(house.directory.sendable_addresses(bob))) == "bob@example.org"
    assert set(house.directory.sendable_addresses(bob)) >= {"info@example.org", "solo@example.org"}
    assert set(house.directory.own_addresses(bob)) == {
        "bob@example.org",
        "solo@example.org",
        "bob2@example.org",
        "half@example.org",
        "list+x@example.org",
    }


def test_own_addresses_follow_the_accounts(house: House) -> None:
    bob = house.directory.account("bob@example.org")
    assert bob is not None and "half@example.org" in house.directory.own_addresses(bob)
    house.add("nobody@example.org")
    assert "half@example.org" not in house.directory.own_addresses(bob), "it is a group now"


def test_circles_end() -> None:
    text = CONFIG.replace('solo = "bob@example.org"', 'solo = ["bob2@example.org", "bob@example.org"]')
    from filterd.config.errors import ConfigErrors

    with pytest.raises(ConfigErrors):
        parse(text)


def test_wide_aliases_are_bounded(tmp_path: Path) -> None:
    lines = [f'a{n} = ["a{n + 1}@example.org", "b{n + 1}@example.org"]' for n in range(18)]
    lines += [f'b{n} = ["a{n + 1}@example.org", "b{n + 1}@example.org"]' for n in range(1, 18)]
    lines += [f"many = [{', '.join(f'{chr(34)}p{n}@else.example{chr(34)}' for n in range(MAX_TARGETS + 1))}]"]
    text = CONFIG.replace("[domain.aliases]", "[domain.aliases]\n" + "\n".join(lines))
    wide = House(tmp_path, text)
    wide.add("ann@example.org")
    assert isinstance(wide.directory.lookup("a0@example.org"), TryLater)
    assert isinstance(wide.directory.lookup("many@example.org"), TryLater)
    wide.database.close()


def test_srs_return_addresses(tmp_path: Path) -> None:
    asked: list[str] = []

    def verifier(address: str) -> str | None:
        asked.append(address)
        return "sender@origin.example" if "good" in address else None

    made = House(tmp_path, srs=verifier)
    made.add("ann@example.org", "srs0=real@example.org")
    assert made.directory.lookup("SRS0=good=x@example.org") == SrsReturn("sender@origin.example")
    assert asked == ["SRS0=good=x@example.org"], "the case of the local part is kept"
    assert isinstance(made.directory.lookup("srs0=bad@example.org"), Unknown)
    assert isinstance(made.directory.lookup("srs0=real@example.org"), Local)
    assert isinstance(made.directory.lookup("SRS1+good@two.example"), Targets), (
        "not the domain we rewrite with"
    )
    made.database.close()


def test_a_database_that_fails_is_never_unknown(house: House, tmp_path: Path) -> None:
    assert house.where("bob@example.org") == [BOB]
    house.database.close()
    Path(house.database.path).write_bytes(b"no database " * 100)
    for ending in ("-wal", "-shm"):
        Path(house.database.path + ending).unlink(missing_ok=True)
    house.clock.at += LOOK_EVERY
    assert house.where("bob@example.org") == [BOB], "who was known stays known"
    assert isinstance(house.directory.lookup("new@example.org"), TryLater)
    assert isinstance(house.directory.lookup("x@other.example"), Foreign)
    fresh = House(tmp_path)
    assert isinstance(fresh.directory.lookup("bob@example.org"), TryLater)
    with pytest.raises(AccountsUnavailable):
        fresh.directory.authenticate("bob@example.org", "x")
