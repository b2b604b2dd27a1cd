"""A new account gets the folders that mail programs look for."""

from filterd.accounts.provision import FOLDERS, provision
from filterd.ports import SystemClock, SystemIds
from filterd.store.memory import MemoryStore


def test_folders_with_their_use_subscribed_once() -> None:
    store = MemoryStore(SystemClock(), SystemIds())
    account = provision(store, "ann@example.org")
    provision(store, "ann@example.org")
    found = {info.name: info.special_use for info in account.mailboxes()}
    assert found == {"INBOX": "", **dict(FOLDERS)}
    assert set(account.subscriptions()) == set(found)


def test_a_folder_of_that_use_is_enough() -> None:
    store = MemoryStore(SystemClock(), SystemIds())
    store.account("ann@example.org").create("Spam", "\\Junk")
    account = provision(store, "ann@example.org")
    assert "Junk" not in {info.name for info in account.mailboxes()}
