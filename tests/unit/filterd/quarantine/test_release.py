"""Held on the way in, released through the rest of the pipeline: once, with the facts of its reception."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from filterd.accounts.directory import Account
from filterd.quarantine.base import Held
from filterd.quarantine.database import QuarantineDatabase
from filterd.quarantine.keeper import Quarantine
from filterd.quarantine.release import Releaser
from pipeline.envelope import Profile
from pipeline.reply import Reply
from pipeline.trace import MessageTrace, Span
from pipeline.verdict import Disposition, Verdict
from tests.house import DOMAIN, MAIL, House, People

ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
FOUND = Verdict("clamav", Disposition.QUARANTINE, "found", "Eicar")
BY_DKIM = """require ["fileinto", "mailbox", "environment"];
if environment "vnd.filterd.dkim" "pass" { fileinto :create "Lists"; }"""
JUNK = ("dnsbl", "spf", "dmarc", "spamassassin")


class Events:
    def __init__(self, house: House) -> None:
        self.house, self.events = house, list[tuple[str, Span]]()

    def put(self, trace: MessageTrace) -> None:
        self.house.traces.all = [one for one in self.house.traces.all if one.id != trace.id] + [trace]

    def event(self, trace_id: str, span: Span) -> None:
        self.events.append((trace_id, span))

    def get(self, name: str) -> MessageTrace | None:
        return next((one for one in self.house.traces.all if one.id == name), None)


class Homes(People):
    gone = ""

    def account(self, account_id: str) -> Account | None:
        return None if account_id == self.gone else Account(account_id)


class Learned:
    def __init__(self) -> None:
        self.all: list[tuple[str, str, bytes]] = []

    def learn(self, account: str, kind: str, data: bytes) -> str:
        self.all.append((account, kind, data))
        return "learned as ham"


class Holding:
    """A house with a quarantine and what releases from it."""

    def __init__(self, path: Path, *verdicts: Verdict, learner: Learned | None = None) -> None:
        self.house = House(*verdicts)
        self.quarantine = Quarantine(path, 86400.0, JUNK, self.house.clock)
        self.house.delivery.performer.quarantine = self.quarantine
        self.homes, self.events = Homes(), Events(self.house)
        self.releaser = self.another(learner)

    def another(self, learner: Learned | None = None) -> Releaser:
        return Releaser(
            self.quarantine,
            self.house.delivery,
            self.homes,
            self.events,
            self.events.get,
            self.house.clock,
            b"a third secret",
            learner,
        )

    def send(self, *recipients: str, profile: Profile = Profile.MX, data: bytes = MAIL) -> list[Reply]:
        return asyncio.run(self.house.send(*recipients, profile=profile, data=data))

    def rows(self, ended: bool = True) -> list[Held]:
        return asyncio.run(self.quarantine.run(lambda database: database.rows(ended=ended)))

    def ask(self, name: str, learn: str = "") -> bool:
        now = self.house.clock.now
        return asyncio.run(self.quarantine.run(lambda database: database.ask(name, now, learn)))

    def look(self) -> None:
        asyncio.run(self.releaser.look())


@pytest.fixture
def made(tmp_path: Path):
    holdings: list[Holding] = []

    def make(*verdicts: Verdict, learner: Learned | None = None) -> Holding:
        holdings.append(Holding(tmp_path, *verdicts, learner=learner))
        return holdings[-1]

    yield make
    for one in holdings:
        one.quarantine.close()


def test_held_with_its_facts_and_explained(made) -> None:
    one = made(FOUND)
    one.house.script("ann", "discard;")
    (reply,) = one.send(ANN)
    (row,) = one.rows()
    assert reply.code == 250 and not one.house.box("ann")
    assert (row.account, row.stage, row.sender, row.subject) == (ANN, "clamav", "far@away.example", "Hi")
    (trace,) = one.house.traces.all
    assert row.id == f"{trace.id}.1" and trace.recipients[0].outcome == "quarantined"
    assert trace.recipients[0].decision == "Quarantine because clamav held it: Eicar."
    assert trace.recipients[0].places == [f"quarantine {row.id}"]


def test_stages_of_the_list_file_into_junk(made) -> None:
    one = made(Verdict("spamassassin", Disposition.QUARANTINE, "spam", "9 of 5"))
    one.send(ANN)
    assert len(one.house.box("ann", "Junk")) == 1 and not one.quarantine.exists()
    assert one.house.traces.all[0].recipients[0].decision.startswith("Junk because")


def test_a_retry_after_a_lost_reply_is_held_once_and_an_acknowledged_one_twice(made) -> None:
    one = made(FOUND)
    assert [one.send(ANN)[0].code, one.send(ANN)[0].code] == [250, 250]
    assert len(one.rows()) == 1
    assert one.house.traces.all[1].recipients[0].outcome == "duplicate"

    async def acknowledged() -> None:
        session = await one.house.session()
        await one.house.send(BOB, session=session)
        one.house.reception.acknowledged(session)
        await one.house.send(BOB, session=session)
        one.house.reception.ended(session)

    asyncio.run(acknowledged())
    assert [row.account for row in one.rows()].count(BOB) == 2


def test_two_recipients_are_two_rows_and_two_addresses_of_one_account_are_one(made) -> None:
    one = made(FOUND)
    one.send(ANN, BOB)
    assert {row.account for row in one.rows()} == {ANN, BOB}
    one.send(ANN, f"ann+x@{DOMAIN}", data=MAIL + b"more\r\n")
    assert sum(row.account == ANN for row in one.rows()) == 2


def test_a_disk_that_is_full_is_a_temporary_failure(made, tmp_path: Path) -> None:
    one = made(FOUND)
    (tmp_path / "quarantine").write_bytes(b"in the way")
    assert one.send(ANN)[0].code == 451


def test_a_release_runs_the_script_and_is_one_story(made) -> None:
    learner = Learned()
    one = made(FOUND, Verdict("dkim", result="pass", tags={"dkim.pass": "away.example"}), learner=learner)
    one.house.script("ann", BY_DKIM)
    one.send(BOB, ANN)
    row = next(row for row in one.rows() if row.account == ANN)
    assert one.ask(row.id, "ham") and not one.ask(row.id)
    one.look()
    one.look()
    (data,) = one.house.box("ann", "Lists")
    assert data.endswith(MAIL) and f"X-Filterd-Trace: {row.id}".encode() in data
    assert data.startswith(b"Return-Path: <far@away.example>")
    after = next(one_row for one_row in one.rows() if one_row.id == row.id)
    assert (after.state, after.note, after.learned) == ("released", "Lists uid 1", "learned as ham")
    assert [(who, kind) for who, kind, _ in learner.all] == [(ANN, "ham")]
    trace = one.events.get(row.trace)
    assert trace is not None and len(trace.recipients) == 2
    part = trace.recipients[1]
    assert part.places == [f"quarantine {row.id}", "Lists uid 1"] and part.outcome == "stored"
    assert "It had been held" in part.decision and part.steps
    assert trace.recipients[0].places != part.places
    ((told, span),) = one.events.events
    assert told == row.trace and span.result == "released" and span.summary.startswith(f"{ANN}: Lists uid 1")
    assert not one.house.box("bob")


def test_a_release_that_was_cut_off_delivers_nothing_twice(made) -> None:
    """Everything is done but the end of the row: the key tells."""
    one = made(FOUND)
    one.house.script(
        "ann", 'redirect :copy "friend@elsewhere.example";'.replace("redirect", 'require "copy"; redirect', 1)
    )
    one.send(ANN)
    (row,) = one.rows()
    one.ask(row.id)
    work = one.quarantine.run

    async def cut(step):  # the row's end never gets to the disk
        if "released" in step.__code__.co_names:
            raise KeyboardInterrupt
        return await work(step)

    one.quarantine.run = cut
    with pytest.raises(KeyboardInterrupt):
        one.look()
    one.quarantine.run = work
    assert len(one.house.box("ann")) == 1 and one.rows()[0].state == "asked"
    one.house.clock.now += 61
    one.releaser = one.another()
    one.look()
    assert len(one.house.box("ann")) == 1 and one.rows()[0].state == "released"
    keys = {sent.key for sent in one.house.spool.outgoing}
    assert len(keys) == 1  # the queue knows a key again; the list of these tests does not


def test_a_store_that_cannot_take_it_puts_it_off(made) -> None:
    one = made(FOUND)
    one.send(ANN)
    (row,) = one.rows()
    one.ask(row.id)
    one.house.jobs.broken.add(ANN)
    one.look()
    (waiting,) = one.rows()
    assert waiting.state == "asked" and "no space" in waiting.note
    one.house.jobs.broken.clear()
    one.look()
    assert not one.house.box("ann")
    one.house.clock.now += 61
    one.look()
    assert len(one.house.box("ann")) == 1


def test_an_account_that_is_gone_keeps_it_held(made) -> None:
    one = made(FOUND)
    one.send(ANN)
    one.homes.gone = ANN
    one.ask(one.rows()[0].id)
    one.look()
    assert one.rows()[0].state == "held" and "no account" in one.rows()[0].note


def test_a_late_reject_is_held_and_goes_to_inbox_when_released(made) -> None:
    one = made()
    one.house.script("ann", 'require "reject"; reject "no";')
    assert one.send(ANN, profile=Profile.LMTP)[0].code == 250
    (row,) = one.rows()
    assert (
        row.stage == "sieve" and row.reason == 'Quarantine because line 1 of your script "main" rejected it.'
    )
    one.ask(row.id)
    one.look()
    assert len(one.house.box("ann")) == 1


@pytest.mark.parametrize("profile", [Profile.MX, Profile.LMTP])
def test_a_script_that_rejects_what_is_released_is_not_asked(made, profile: Profile) -> None:
    one = made(FOUND)
    one.house.script("ann", 'require "reject"; reject "no";')
    one.send(ANN, profile=profile)
    one.ask(one.rows()[0].id)
    one.look()
    assert len(one.house.box("ann")) == 1 and [row.state for row in one.rows()] == ["released"]
    assert not one.house.spool.outgoing


def test_what_is_redirected_after_a_release_has_srs(made) -> None:
    one = made(FOUND)
    one.house.script("ann", 'redirect "friend@elsewhere.example";')
    one.send(ANN)
    one.ask(one.rows()[0].id)
    one.look()
    (out,) = one.house.spool.outgoing
    assert out.reverse_path.startswith("SRS0=") and out.trace == one.rows()[0].trace


def test_old_ones_expire_and_that_is_told(made) -> None:
    one = made(FOUND)
    one.send(ANN)
    one.house.clock.now += 86401
    one.look()
    assert one.rows()[0].state == "expired" and one.events.events[0][1].result == "expired"


class Daily:
    sent = 0

    async def send_due(self) -> list[str]:
        self.sent += 1
        return []


def test_digests_are_looked_for_now_and_then(made) -> None:
    one, daily = made(FOUND), Daily()
    one.send(ANN)
    one.releaser.digests = daily
    one.look()
    one.look()
    assert daily.sent == 1
    one.house.clock.now += 60
    one.look()
    assert daily.sent == 2


def test_the_loop_resumes_what_a_predecessor_had_claimed_and_outlives_a_bug(made) -> None:
    one = made(FOUND)
    one.send(ANN)
    (row,) = one.rows()
    one.ask(row.id)
    now = one.house.clock.now
    assert asyncio.run(one.quarantine.run(lambda database: database.claim(row.id, now, 60)))

    async def story() -> None:
        stop = asyncio.Event()
        look, calls = one.releaser.look, []

        async def looked(self: Releaser) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ZeroDivisionError
            await look()
            stop.set()

        patched = type("Patched", (Releaser,), {"look": looked, "__slots__": ()})
        one.releaser.__class__ = patched
        async with asyncio.timeout(30):
            await one.releaser.run(stop)

    asyncio.run(story())
    assert [one_row.state for one_row in one.rows()] == ["released"]


def test_what_a_forwarding_brought_back_is_its_postmasters(made) -> None:
    one = made()
    looping = f"Delivered-To: away@{DOMAIN}\r\n".encode() + MAIL
    assert [reply.code for reply in one.send(f"away@{DOMAIN}", ANN, data=looping)] == [250]
    (row,) = one.rows()
    assert (row.account, row.address, row.stage) == (BOB, f"away@{DOMAIN}", "loop")
    one.house.script("bob", "discard;")
    one.ask(row.id)
    one.look()
    (text,) = one.house.box("bob")
    assert f"X-Original-To: away@{DOMAIN}".encode() in text and one.rows()[0].state == "released"


def test_several_processes_hold_and_ask_at_once(tmp_path: Path) -> None:
    """The file is made by whoever comes first; nothing that was answered is missing, one of all who ask gets it."""
    script = f"""
import sys
from pathlib import Path
from filterd.quarantine.base import Facts, Hold
from filterd.quarantine.database import QuarantineDatabase
from pipeline.envelope import Client, Profile
me = sys.argv[1]
database = QuarantineDatabase(Path({str(tmp_path / "held.db")!r}))
facts = Facts("a@b.example", "{ANN}", Client(), Profile.MX)
for number in range(40):
    database.put(Hold(f"{{me}}.{{number}}", "{ANN}", "clamav", "", b"same", f"{{me}}{{number}}".encode(), facts), 1e9, 1e9)
    database.put(Hold(f"{{me}}-twice.{{number}}", "{ANN}", "clamav", "", b"same", b"%d" % number, facts), 1e9, 1e9)
print(sum(database.ask(row.id, 1e9) for row in database.rows()))
"""
    root = str(Path(__file__).resolve().parents[4])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"PROC{at}"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        for at in range(3)
    ]
    asked = [int(child.communicate(timeout=120)[0]) for child in children]
    database = QuarantineDatabase(tmp_path / "held.db")
    rows = database.rows()
    own = [row for row in rows if "twice" not in row.id]
    assert (
        len(own) == 120
        and len(rows) == 160
        and database._db.execute("select count(*) from body").fetchone() == (1,)
    )
    assert sum(asked) == sum(row.state == "asked" for row in rows)
    database.close()
