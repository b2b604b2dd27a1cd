"""Links that open one copy, the daily mail, and the page with its button."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.proto.http import Request
from filterd.quarantine.base import Facts, Held, Hold
from filterd.quarantine.digest import Digests
from filterd.quarantine.keeper import Quarantine
from filterd.quarantine.links import Links
from filterd.web.held import HeldPages
from filterd.web.page import Page
from pipeline.envelope import Client, Profile
from tests.house import DOMAIN, ListSpool, People, TestClock

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
BASE = "https://mail.example.org"
DAY = 86400.0


class Desk:
    def __init__(self, path: Path, base: str = BASE) -> None:
        self.clock, self.spool = TestClock(), ListSpool()
        local = datetime.fromtimestamp(self.clock.now).astimezone()
        self.clock.now = local.replace(hour=12, minute=0).timestamp()
        self.quarantine = Quarantine(path, 30 * DAY, (), self.clock)
        self.links = Links(b"secret of the tests", base)
        self.digests = Digests(
            self.quarantine, People(), self.spool, self.links, self.clock, f"mx.{DOMAIN}", 7
        )
        self.pages = HeldPages(self.quarantine, self.links, self.clock)

    def hold(self, name: str, account: str = ANN, subject: str = "bad") -> Held:
        facts = Facts("far@away.example", account, Client(), Profile.MX)
        hold = Hold(
            name, account, "clamav", "why", b"text", name.encode(), facts, "far@away.example", subject
        )
        asyncio.run(self.quarantine.put(hold))
        return self.find(name)

    def find(self, name: str) -> Held:
        return asyncio.run(self.quarantine.run(lambda database: database.find(name)))[0]

    def due(self) -> list[str]:
        return asyncio.run(self.digests.send_due())

    def ask(self, path: str, method: str = "GET") -> Page:
        return asyncio.run(self.pages.answer(Request(method, path, {})))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.quarantine.close()


def test_a_link_opens_its_copy_and_no_other(desk: Desk) -> None:
    mine, his = desk.hold("AAAAA-AAAAA.1"), desk.hold("AAAAA-AAAAA.2", BOB)
    rows = {row.id: row for row in (mine, his)}

    def find(name: str) -> list[Held]:
        return [row for key, row in rows.items() if key.startswith(name)]

    token = desk.links.token(mine)
    assert desk.links.opens(token, desk.clock.now, find) == mine
    assert desk.links.opens(token, mine.expires + 1, find) is None
    assert Links(b"another secret").opens(token, desk.clock.now, find) is None
    _, _, mac = token.partition(".")
    assert desk.links.opens(f"{desk.links.token(his).partition('.')[0]}.{mac}", desk.clock.now, find) is None
    for at in range(len(token)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        found = desk.links.opens(changed, desk.clock.now, find)
        assert found is None, changed  # 18 octets are 24 characters: no bit of the MAC is spare
    assert ANN.encode() not in token.encode() and len(token) < 100


@given(st.text(max_size=260))
def test_no_text_opens_anything(text: str) -> None:
    assert Links(b"x").opens(text, 0.0, lambda name: []) is None


def test_a_person_is_told_once_a_day_and_only_of_his_own(desk: Desk) -> None:
    desk.hold("AAAAA-AAAAA.1", subject="<script>alert(1)</script> ünï")
    desk.hold("AAAAA-AAAAA.2", BOB, subject="for bob")
    assert desk.due() == []  # the hour of the day is over: tomorrow
    desk.clock.now += DAY
    assert sorted(desk.due()) == [ANN, BOB] and desk.due() == []
    out = next(one for one in desk.spool.outgoing if one.recipient == ANN)
    assert out.reverse_path == "" and out.data.count(b"\n") == out.data.count(b"\r\n")
    read = email.message_from_bytes(out.data, policy=email.policy.default)
    assert read["Auto-Submitted"] == "auto-generated" and read["Subject"] == "1 message held back for you"
    plain, page = (part.get_content() for part in read.iter_parts())
    link = desk.links.url(desk.find("AAAAA-AAAAA.1"))
    assert link.startswith(f"{BASE}/q/") and link in plain and link in page
    assert "<script>" in plain and "<script>" not in page and "&lt;script&gt;" in page and "ünï" in page
    assert "for bob" not in plain + page
    desk.clock.now += DAY
    assert desk.due() == []  # nothing new


def test_what_is_held_after_the_mail_waits_for_the_next_day(desk: Desk) -> None:
    desk.hold("AAAAA-AAAAA.1")
    desk.clock.now += DAY - 6 * 3600  # six in the morning
    assert desk.due() == []
    desk.clock.now += 2 * 3600
    desk.hold("BBBBB-BBBBB.1")
    assert desk.due() == [ANN] and desk.due() == []
    desk.clock.now += DAY
    assert desk.due() == [ANN]
    links = [desk.links.token(desk.find(name)).encode() for name in ("AAAAA-AAAAA.1", "BBBBB-BBBBB.1")]
    texts = [one.data.replace(b"=\r\n", b"") for one in desk.spool.outgoing]
    assert [[link in text for link in links] for text in texts] == [[True, False], [False, True]]
    assert len({one.key for one in desk.spool.outgoing}) == 2


def test_without_pages_the_mail_has_numbers(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "")
    desk.hold("AAAAA-AAAAA.1")
    assert asyncio.run(desk.digests.send_now()) == [ANN]
    assert b"AAAAA-AAAAA.1" in desk.spool.outgoing[0].data and b"/q/" not in desk.spool.outgoing[0].data
    desk.quarantine.close()


def test_only_the_button_releases(desk: Desk) -> None:
    row = desk.hold("AAAAA-AAAAA.1", subject='"><script>x</script>')
    path = f"/q/{desk.links.token(row)}"
    for method in ("GET", "HEAD", "GET"):
        shown = desk.ask(path, method)
        assert shown.code == 200 and b'<form method="post">' in shown.body and b"<script>" not in shown.body
        assert desk.find(row.id).state == "held"
    assert "default-src 'none'" in shown.fields["Content-Security-Policy"]
    assert shown.fields["Referrer-Policy"] == "no-referrer"
    done = desk.ask(path, "POST")
    assert done.code == 200 and b"on its way" in done.body and desk.find(row.id).state == "asked"
    assert b"on its way" in desk.ask(path, "POST").body
    asyncio.run(
        desk.quarantine.run(lambda database: database.released(row.id, desk.clock.now, "INBOX uid 1"))
    )
    assert b"was delivered" in desk.ask(path).body


@pytest.mark.parametrize("path", ["/", "/q", "/q/", "/q/x", "/q/x.y", "/q/..", "/q/%00", "/quarantine"])
def test_everything_else_is_not_found(desk: Desk, path: str) -> None:
    desk.hold("AAAAA-AAAAA.1")
    assert desk.ask(path).code == desk.ask(path, "POST").code == 404
    assert desk.find("AAAAA-AAAAA.1").state == "held"


def test_a_dropped_one_is_not_found(desk: Desk) -> None:
    row = desk.hold("AAAAA-AAAAA.1")
    asyncio.run(desk.quarantine.run(lambda database: database.drop(row.id, desk.clock.now)))
    assert desk.ask(f"/q/{desk.links.token(row)}", "POST").code == 404
