"""Delivery without a socket: where a command wants a message to be kept (filterd-deliver -m)."""

import asyncio

import pytest

from filterd.accounts.directory import Account
from filterd.local_delivery import AT_ONCE, LocalDelivery
from filterd.local_text import MAILBOX, xtext
from filterd.proto import smtp_parse
from filterd.proto.smtp_limits import SmtpLimits
from pipeline.envelope import Profile
from tests.house import DOMAIN, MAIL, House

ANN = f"ann@{DOMAIN}"


def deliver(house: House, *recipients: str, mailbox: str) -> list[int]:
    local = LocalDelivery(house.reception, house.delivery)
    params = {MAILBOX: xtext(mailbox)}
    replies = asyncio.run(
        local.deliver("far@away.example", list(recipients), MAIL, Profile.DELIVER, None, params)
    )
    return [reply.code for reply in replies]


@pytest.mark.parametrize("mailbox", ["Lists", "Listen/Grüße & Küsse", "a=b+c"])
def test_kept_in_a_folder_that_is_made(mailbox: str) -> None:
    house = House()
    assert deliver(house, ANN, f"bob@{DOMAIN}", mailbox=mailbox) == [250, 250]
    assert len(house.box("ann", mailbox)) == len(house.box("bob", mailbox)) == 1
    assert not house.box("ann")


def test_a_script_may_file_it_elsewhere() -> None:
    house = House()
    house.script("ann", 'require ["fileinto", "copy"]; fileinto :copy "A";')
    house.script("bob", 'require "fileinto"; fileinto "B";')
    for person, folder in (("ann", "A"), ("bob", "B")):
        house.store.account(f"{person}@{DOMAIN}").create(folder)
    assert deliver(house, ANN, f"bob@{DOMAIN}", mailbox="Lists") == [250, 250]
    assert len(house.box("ann", "A")) == len(house.box("ann", "Lists")) == len(house.box("bob", "B")) == 1


def test_a_name_that_cannot_be_made_loses_nothing() -> None:
    house = House()
    assert deliver(house, ANN, mailbox="a\0b") == [250]
    assert len(house.box("ann")) == 1


def test_the_same_twice_into_two_folders() -> None:
    house = House()
    deliver(house, ANN, mailbox="One")
    deliver(house, ANN, mailbox="Two")
    assert len(house.box("ann", "One")) == len(house.box("ann", "Two")) == 1


def test_only_our_own_commands_may_ask_for_it() -> None:
    limits, argument = SmtpLimits(), f"TO:<a@b.example> XMAILBOX={xtext('Grüße x')}".encode()
    address, params = smtp_parse.rcpt(argument, limits, True, False, mailbox=True)
    assert address == "a@b.example" and smtp_parse.xtext(params["XMAILBOX"]) == "Grüße x"
    for bad, offered in (
        (argument, False),
        (b"TO:<a@b.example> XMAILBOX=", True),
        (b"TO:<a@b.example> XMAILBOX", True),
    ):
        with pytest.raises(smtp_parse.SyntaxFault):
            smtp_parse.rcpt(bad, limits, True, False, mailbox=offered)


def test_mail_of_our_own_people_is_one_text_for_all_who_get_it() -> None:
    """The next hop gets it once, and it is looked at once; each recipient has an answer of his own."""
    house = House()
    local = LocalDelivery(house.reception, house.delivery)
    to = ["x@far.example", f"nobody-here@{DOMAIN}", f"bob@{DOMAIN}", "y@far.example", "z@away.example"]
    params = {"NOTIFY": "NEVER", "RET": "HDRS"}
    replies = asyncio.run(local.deliver(ANN, to, MAIL, Profile.DELIVER, Account(ANN), params))
    assert [reply.code for reply in replies] == [250, 550, 250, 250, 250]
    assert [out.recipient for out in house.spool.outgoing] == [
        "x@far.example",
        "y@far.example",
        "z@away.example",
    ]
    assert len({out.data for out in house.spool.outgoing}) == 1 and len(house.box("bob")) == 1
    assert all(
        out.params["NOTIFY"] == "NEVER" and out.params["RET"] == "HDRS" for out in house.spool.outgoing
    )


def test_more_than_a_transaction_takes() -> None:
    house = House()
    local = LocalDelivery(house.reception, house.delivery)
    to = [f"x{number}@far.example" for number in range(AT_ONCE + 5)]
    replies = asyncio.run(local.deliver(ANN, to, MAIL, Profile.DELIVER, Account(ANN)))
    assert [reply.code for reply in replies] == [250] * len(to)
    assert [out.recipient for out in house.spool.outgoing] == to


def test_all_that_was_answered_is_acknowledged() -> None:
    """Else the same text sent once more would count as a retry, and be left out."""
    house = House()
    local = LocalDelivery(house.reception, house.delivery)
    to = [f"x{number}@far.example" for number in range(AT_ONCE + 5)]
    asyncio.run(local.deliver(ANN, to, MAIL, Profile.DELIVER, Account(ANN)))
    assert set(house.spool.keys) == {out.key for out in house.spool.outgoing}
