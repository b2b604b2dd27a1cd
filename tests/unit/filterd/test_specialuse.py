"""RFC 8579 4: a mailbox that a script makes has the use it was asked for; one that is there stays as it is."""

from __future__ import annotations

import asyncio

import pytest

from filterd.specialuse import resolve_mailbox
from filterd.store.base import AccountStore
from filterd.store.memory import MemoryStore
from pipeline.plan import Store
from tests.house import DOMAIN, House, TestClock, TestIds

ANN = f"ann@{DOMAIN}"


@pytest.fixture
def store() -> AccountStore:
    return MemoryStore(TestClock(), TestIds()).account(ANN)


def uses(store: AccountStore) -> dict[str, str]:
    return {info.name: info.special_use for info in store.mailboxes()}


def test_a_new_mailbox_gets_the_use(store: AccountStore) -> None:
    step = Store("Old/Kept", create=True, special_use="\\archive")
    assert resolve_mailbox(store, step, None, ANN) == "Old/Kept"
    assert uses(store)["Old/Kept"] == "\\Archive"
    again = Store("Other", create=True, special_use="\\ARCHIVE")
    assert resolve_mailbox(store, again, None, ANN) == "Old/Kept", "where the use is, wherever that is"
    assert "Other" not in uses(store)


@pytest.mark.parametrize(
    "step",
    [
        Store("New", special_use="\\Archive"),  # without :create
        Store("New", create=True, special_use="\\Important"),  # a use that is not kept here
        Store("New", create=True, mailbox_id="Fnone"),
        Store("INBOX", create=True, special_use="\\Archive"),
        Store("a//b", create=True, special_use="\\Archive"),  # no name
    ],
)
def test_nothing_is_made(store: AccountStore, step: Store) -> None:
    before = uses(store)
    assert resolve_mailbox(store, step, None, ANN) == step.mailbox
    assert uses(store) == before


def test_one_that_is_there_keeps_what_it_is(store: AccountStore) -> None:
    store.create("Here")
    step = Store("Here", create=True, special_use="\\Archive")
    assert resolve_mailbox(store, step, None, ANN) == "Here"
    assert uses(store)["Here"] == ""


def test_by_a_delivery() -> None:
    house = House()
    head = 'require ["fileinto", "mailbox", "special-use"]; '
    house.script("ann", head + 'fileinto :create :specialuse "\\\\Archive" "Old";')
    asyncio.run(house.send(ANN))
    assert len(house.box("ann", "Old")) == 1
    assert uses(house.store.account(ANN))["Old"] == "\\Archive"
