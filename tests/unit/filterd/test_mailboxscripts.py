"""What the scripts of mailboxes decide is done in an order that loses nothing: files, then mail, then flags."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from filterd.accounts.scripts import FileScriptStore, ScriptLimits
from filterd.imap.events import APPEND, COPY, FLAG, MailboxEvent, MailboxEvents, flag_names
from filterd.imapsieve import ENTRY
from filterd.mailboxscripts import MailboxScripts, MailboxScriptSettings
from filterd.outgoing import Departure
from filterd.queue.base import Outgoing, PendingChange, PendingStore
from filterd.scripts import ScriptService
from filterd.store.base import SYSTEM_FLAGS, AccountStore, NewMessage, StoreUnavailable
from filterd.store.durable import RealDisk
from filterd.store.memory import MemoryStore
from pipeline.runner import Runner
from tests.house import DOMAIN, DirectJobs, ListSpool, ListTraces, People, TestClock, TestIds

ANN = f"ann@{DOMAIN}"
MAIL = b"From: far@away.example\r\nSubject: a bill\r\n\r\nPay.\r\n"
HEAD = 'require ["imapsieve", "imap4flags", "fileinto", "copy", "environment", "enotify", "vnd.dovecot.report"];\n'


class Lab:
    """One account's store and the listener."""

    def __init__(self, folder: Path, script: str) -> None:
        clock, ids = TestClock(), TestIds()
        files = FileScriptStore(str(folder), RealDisk(), ScriptLimits())
        files.put("events", HEAD + script)
        self.store = MemoryStore(clock, ids)
        self.spool, self.traces = ListSpool(), ListTraces()
        departure = Departure(
            Runner([], clock), None, None, frozenset({DOMAIN}), lambda *_: b"", lambda *_: b""
        )
        self.listener = MailboxScripts(
            MailboxScriptSettings(f"mx.{DOMAIN}", "0"),
            ScriptService(lambda account: files),
            People(),
            DirectJobs(self.store),
            self.spool,
            departure,
            self.traces,  # type: ignore[arg-type]  # a list is enough here
            clock,
            ids,
            b"secret",
        )
        self.mail.set_metadata("INBOX", ENTRY, "events")

    @property
    def mail(self) -> AccountStore:
        return self.store.account(ANN)

    def append(self, *texts: bytes, cause: str = APPEND) -> tuple[int, ...]:
        stored = self.mail.append("INBOX", [NewMessage(text, ("\\Seen",)) for text in texts])
        uids = tuple(one.uid for one in stored)
        events = MailboxEvents((self.listener,))
        assert events.wants(self.mail, "INBOX", cause)
        asyncio.run(events.told([MailboxEvent(ANN, ANN, cause, "INBOX", uids)]))
        return uids

    def flags(self, mailbox: str = "INBOX") -> list[int]:
        return list(self.mail.snapshot(mailbox).flags)


def test_files_mail_and_marks(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 'fileinto "Bills"; redirect "x@a.example"; report "abuse" "Look." "desk@a.example";')
    lab.append(MAIL, MAIL)
    assert lab.flags() == [1 | 8, 1 | 8] and lab.flags("Bills") == [1, 1]
    kinds = [(one.kind, one.reverse_path, one.recipient) for one in lab.spool.outgoing]
    assert kinds == 2 * [("redirect", ANN, "x@a.example"), ("report", "", "desk@a.example")]
    assert len({one.key for one in lab.spool.outgoing}) == 4
    assert [trace.recipients[0].outcome for trace in lab.traces.all] == ["discarded", "discarded"]


def test_a_queue_that_fails_leaves_the_message(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 'redirect "x@a.example";')
    lab.spool.broken = True
    lab.append(MAIL)
    assert lab.flags() == [1]


def test_what_a_client_changes_meanwhile_stays(tmp_path: Path) -> None:
    """Between the script and its marks the queue is written: nobody's flags are taken back."""
    lab = Lab(tmp_path, 'addflag "custom"; removeflag "\\\\Seen"; redirect :copy "x@a.example";')

    class Slow(ListSpool):
        async def enqueue(
            self,
            outgoing: Sequence[Outgoing],
            stores: Sequence[PendingStore] = (),
            changes: Sequence[PendingChange] = (),
        ) -> tuple[tuple[str, ...], tuple[str, ...]]:
            lab.mail.set_flags("INBOX", [1], "add", ["\\Flagged", "$Important"])
            return await super().enqueue(outgoing, stores, changes)

    lab.listener._spool = Slow()
    lab.append(MAIL)
    snapshot = lab.mail.snapshot("INBOX")
    assert set(flag_names(snapshot.flags[0], (*SYSTEM_FLAGS, *snapshot.keywords))) == {
        "\\Flagged",
        "$Important",
        "custom",
    }


def test_filed_where_it_is(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 'addflag "\\\\Flagged"; fileinto "inbox";')
    lab.append(MAIL)
    assert lab.flags() == [1 | 4], "no second copy, not deleted"


def test_a_fault_is_told_once_and_changes_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 'redirect "${x}"; fileinto "Bills";')
    lab.listener._scripts.of(ANN).put("events", 'require ["variables"]; redirect "${x}";')
    lab.append(MAIL)
    lab.append(MAIL)
    assert len(lab.flags()) == 3 and not lab.spool.outgoing
    texts = [lab.mail.read("INBOX", uid) or b"" for uid in lab.mail.snapshot("INBOX").uids]
    assert sum(b"auto-generated" in text for text in texts) == 1


def test_a_message_that_came_back_is_not_sent_round(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 'redirect :copy "x@a.example";')
    lab.append(f"X-Sieve-Redirected-From: {ANN}\r\n".encode() + MAIL)
    assert not lab.spool.outgoing


@pytest.mark.parametrize("cause", [APPEND, COPY, FLAG])
def test_gone_meanwhile_and_listeners_that_fail(tmp_path: Path, cause: str) -> None:
    lab = Lab(tmp_path, "discard;")

    class Broken:
        def wants(self, store: AccountStore, mailbox: str, cause: str) -> bool:
            return True

        async def told(self, event: MailboxEvent) -> None:
            raise ValueError("a bug")

    events = MailboxEvents((Broken(), lab.listener))
    stored = lab.mail.append("INBOX", [NewMessage(MAIL)])
    asyncio.run(events.told([MailboxEvent(ANN, ANN, cause, "INBOX", (stored[0].uid, 999))]))
    assert lab.flags() == [8]


def test_a_listener_that_cannot_be_asked_does_not_undo_what_happened(tmp_path: Path) -> None:
    """After an APPEND its failure would become a NO, and the client would append once more."""
    lab = Lab(tmp_path, "discard;")

    class Unable:
        def wants(self, store: AccountStore, mailbox: str, cause: str) -> bool:
            raise StoreUnavailable("index: busy")

        async def told(self, event: MailboxEvent) -> None: ...

    assert MailboxEvents((Unable(), lab.listener)).wants(lab.mail, "INBOX", APPEND)
