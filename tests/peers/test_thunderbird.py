"""Debian's Thunderbird, unmodified and without a screen, against the real server: what a person does in a day.

``FILTERD_RECORD=FOLDER`` keeps what went over the wire there: so ``tests/vectors/clients`` was made (its README).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, Server, wait_for
from tests.recorder import Elsewhere, Recorder
from tests.thunderbird import Thunderbird, fill, version

pytestmark = [pytest.mark.e2e, pytest.mark.peer, pytest.mark.slow]

FOLDERS = ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"]
ODD = 'a.b "quoted" [x] 日本'


@pytest.fixture
def server() -> Iterator[Server]:
    version()
    with Server(people=("ann", "bob"), server="workers = 2") as running:
        yield running


class Day:
    """One account, the program at it through a recorder, and somebody else at the same account."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.recorder = Recorder(server.ports["imaps"])
        self.elsewhere = Elsewhere(server, "ann", self.recorder.note)

    def thunderbird(self, **settings: object) -> Thunderbird:
        return Thunderbird(
            self.folder,
            {
                "mail.server.server1.port": self.recorder.port,
                "mail.server.server1.socketType": 0,
                "mail.smtpserver.smtp1.port": self.server.ports["submissions"],
                **{f"mail.server.server1.{name}": value for name, value in settings.items()},
            },
        )

    def subjects(self, folder: str) -> list[str]:
        return [subject for _, subject, _ in self.elsewhere.state().get(folder, [])]

    def marks(self, folder: str, subject: str) -> set[str]:
        """The flags that the server has of it."""
        return next(flags for _, one, flags in self.elsewhere.state()[folder] if one == subject)

    def comes_to(self, folder: str, *subjects: str) -> None:
        wait_for(
            lambda: self.subjects(folder) == list(subjects),
            30,
            f"{subjects} in {folder}, there is {self.elsewhere.state()}",
        )

    def marked(self, folder: str, subject: str, *flags: str) -> None:
        wait_for(
            lambda: self.marks(folder, subject) == set(flags),
            30,
            f"{flags}, not {self.marks(folder, subject)}",
        )


def lists(thunderbird: Thunderbird, folder: str, *subjects: str) -> None:
    """Thunderbird's own list of a folder becomes this."""
    script = "await until(args[1], () => JSON.stringify(seen(args[0]).map((one) => one[0])) == JSON.stringify(args[1]));"
    try:
        thunderbird(script, folder, list(subjects))
    except AssertionError as error:
        raise AssertionError(f"{folder}: {thunderbird('return seen(args[0]);', folder)}") from error


def begins(day: Day, thunderbird: Thunderbird) -> None:
    thunderbird(
        'server.performExpand(msgWindow); await until("folders", () => find("INBOX") && find("Trash"));'
    )
    day.recorder.quiet()
    thunderbird('imap("INBOX").updateFolder(msgWindow);')


def reads(day: Day, thunderbird: Thunderbird) -> None:
    """Folders, headers, texts, an attachment; a message of half a megabyte."""
    begins(day, thunderbird)
    lists(thunderbird, "INBOX", *(f"message {number}" for number in range(6)), "Grüße", "large")
    assert thunderbird("return folders().map(pathOf);") == FOLDERS
    text = thunderbird('return shown("INBOX", "Grüße");')
    assert isinstance(text, str) and "Küsse aus Köln" in text
    large = thunderbird('return shown("INBOX", "large");')
    assert isinstance(large, str) and "the first line" in large
    day.recorder.quiet()


def marks(day: Day, thunderbird: Thunderbird) -> None:
    thunderbird(
        """const inbox = imap("INBOX"), of = (number) => headers("INBOX", `message ${number}`);
        inbox.markMessagesRead(of(0), true);
        inbox.markMessagesFlagged(of(1), true);
        inbox.addKeywordsToMessages(of(2), "$label1");
        inbox.addMessageDispositionState(of(3)[0], Ci.nsIMsgFolder.nsMsgDispositionState_Replied);
        inbox.addMessageDispositionState(of(4)[0], Ci.nsIMsgFolder.nsMsgDispositionState_Forwarded);
        inbox.setJunkScoreForMessages(of(5), 100, "user", -1);"""
    )
    day.marked("INBOX", "message 0", "\\Seen")
    day.marked("INBOX", "message 1", "\\Flagged")
    day.marked("INBOX", "message 2", "$label1")
    day.marked("INBOX", "message 3", "\\Answered")
    day.marked("INBOX", "message 4", "$Forwarded")
    day.marked("INBOX", "message 5", "Junk")
    thunderbird(
        """imap("INBOX").markMessagesRead(headers("INBOX", "message 0"), false);
        imap("INBOX").removeKeywordsFromMessages(headers("INBOX", "message 2"), "$label1");
        imap("INBOX").setJunkScoreForMessages(headers("INBOX", "message 5"), 0, "user", -1);"""
    )
    day.marked("INBOX", "message 0")
    day.marked("INBOX", "message 2")
    day.marked("INBOX", "message 5", "NonJunk")
    day.recorder.quiet()


def moves(day: Day, thunderbird: Thunderbird) -> None:
    """To Archive, to Junk, to Trash, a copy, and a way through a folder on this machine."""
    thunderbird('await copy("INBOX", "Archive", true, "message 0", "message 1");')
    day.comes_to("Archive", "message 0", "message 1")
    assert day.marks("Archive", "message 1") == {"\\Flagged"}
    day.recorder.quiet()  # it keeps such moves for a moment: one that comes while it tells the last ones may wait long
    thunderbird('await copy("INBOX", "Drafts", false, "message 2");')
    day.comes_to("Drafts", "message 2")
    day.recorder.quiet()
    thunderbird('await copy("INBOX", "Junk", true, "message 5");')
    day.comes_to("Junk", "message 5")
    day.recorder.quiet()
    thunderbird(
        'await waited((l) => imap("INBOX").deleteMessages(headers("INBOX", "message 3"), msgWindow, false, false, l, true));'
    )
    day.comes_to("Trash", "message 3")
    day.recorder.quiet()
    for folder, *subjects in (("Archive", "message 0", "message 1"), ("Trash", "message 3")):
        thunderbird("imap(args[0]).updateFolder(msgWindow);", folder)
        lists(thunderbird, folder, *subjects)
    day.recorder.quiet()
    thunderbird(
        """MailServices.accounts.localFoldersServer.rootFolder.createSubfolder("here", msgWindow);
        await waited((l) => MailServices.copy.copyMessages(
          imap("Archive"), headers("Archive", "message 0"), local("here"), true, l, msgWindow, true));"""
    )
    wait_for(lambda: "\\Deleted" in day.marks("Archive", "message 0"), 20, "the mark on what was moved away")
    day.recorder.quiet()
    thunderbird('await waited((l) => imap("Archive").compact(l, msgWindow));')
    day.comes_to("Archive", "message 1")
    day.recorder.quiet()
    thunderbird(
        """await waited((l) => MailServices.copy.copyMessages(
          local("here"), [...local("here").messages], imap("Archive"), true, l, msgWindow, true));"""
    )
    day.comes_to("Archive", "message 1", "message 0")
    day.comes_to("INBOX", "message 2", "message 4", "Grüße", "large")
    lists(thunderbird, "INBOX", "message 2", "message 4", "Grüße", "large")
    day.recorder.quiet()


def writes(day: Day, thunderbird: Thunderbird) -> None:
    """Sends with a copy in Sent, keeps a draft and replaces it."""
    fields = (
        "From: Ann <ann@home.example>",
        "To: bob@home.example",
        "Subject: sent",
        "Message-ID: <sent-1@home.example>",
    )
    text = "\r\n".join((*fields, "", "Hello", ""))
    thunderbird("await send(args[0], args[1], args[2]);", f"bob@{DOMAIN}", "sent", text)
    day.comes_to("Sent", "sent")
    assert day.marks("Sent", "sent") == {"\\Seen"}
    assert any(b"Subject: sent\r\n" in data for data in day.server.read("bob")["INBOX"].values())
    day.recorder.quiet()
    draft = "await draft(args[0], args[1]);"
    thunderbird(draft, "draft-1", None)
    day.comes_to("Drafts", "message 2", "draft-1")
    assert day.marks("Drafts", "draft-1") == {"\\Draft", "\\Seen"}
    day.recorder.quiet()
    thunderbird('imap("Drafts").updateFolder(msgWindow);')
    lists(thunderbird, "Drafts", "message 2", "draft-1")
    thunderbird(draft, "draft-2", "draft-1")
    wait_for(lambda: "draft-2" in day.subjects("Drafts"), 20, "the second draft")
    day.recorder.quiet()


def hears(day: Day, thunderbird: Thunderbird) -> None:
    """By IDLE: a message that comes, one that goes, a flag set elsewhere."""
    thunderbird('imap("INBOX").updateFolder(msgWindow);')
    day.recorder.quiet()
    began = time.monotonic()
    day.elsewhere("append", "INBOX", "new while idle")
    lists(thunderbird, "INBOX", "message 2", "message 4", "Grüße", "large", "new while idle")
    assert time.monotonic() - began < 20
    day.recorder.quiet()
    day.elsewhere("store", "INBOX", "new while idle", "+FLAGS", "\\Flagged")
    day.elsewhere("expunge", "INBOX", "message 4")
    lists(thunderbird, "INBOX", "message 2", "Grüße", "large", "new while idle")
    thunderbird('await until("the star", () => headers("INBOX", "new while idle")[0].isFlagged);')
    day.recorder.quiet()


def finds(day: Day, thunderbird: Thunderbird) -> None:
    """The search of its window, "run on server"."""
    for terms, count in (
        ([["Subject", "Contains", "message 2"]], 1),
        ([["Subject", "Contains", "Grüße"]], 1),
        ([["Body", "Contains", "Küsse aus"]], 1),
        ([["Sender", "Contains", "shop.example"], ["Subject", "DoesntContain", "large"]], 3),
        ([["Size", "IsGreaterThan", 50]], 1),
        ([["MsgStatus", "Is", 4]], 1),
        ([["Keywords", "Contains", "$label1"]], 0),
        ([["ToOrCC", "Contains", f"someone@{DOMAIN}"]], 4),
    ):
        found = thunderbird('return (await search("INBOX", ...args[0])).hits;', terms)
        assert isinstance(found, list) and len(found) == count, (terms, found)
    day.recorder.quiet()


def arranges(day: Day, thunderbird: Thunderbird) -> None:
    """Folders: made, filled, renamed with what is in them, subscribed, moved to Trash, gone for ever."""
    thunderbird("await make(server.rootFolder, args[0]);", "Grüße & Küsse")
    day.recorder.quiet()
    thunderbird("await make(find(args[0]), args[1]);", "Grüße & Küsse", ODD)
    day.recorder.quiet()
    thunderbird("await copy('INBOX', args[0], true, 'message 2');", f"Grüße & Küsse/{ODD}")
    day.recorder.quiet()
    day.comes_to(f"Grüße & Küsse/{ODD}", "message 2")
    thunderbird(
        'find("Grüße & Küsse").rename(args[0], msgWindow); await until("its name", () => find(args[0]));',
        "Neu & Alt",
    )
    day.recorder.quiet()
    day.comes_to(f"Neu & Alt/{ODD}", "message 2")
    thunderbird("imap(args[0]).updateFolder(msgWindow);", f"Neu & Alt/{ODD}")
    lists(thunderbird, f"Neu & Alt/{ODD}", "message 2")
    names = thunderbird(
        """const all = server.QueryInterface(Ci.nsISubscribableServer);
        all.startPopulating(msgWindow, true, false);
        return until("the subscription window's list", () => all.getChildURIs("").length > 6 && all.getChildURIs(""));"""
    )
    assert isinstance(names, list) and {"INBOX", "Neu & Alt", "Trash"} <= set(names)
    day.recorder.quiet()
    thunderbird(
        'find("Neu & Alt").deleteSelf(msgWindow); await until("it in Trash", () => find("Trash/Neu & Alt"));'
    )
    day.comes_to(f"Trash/Neu & Alt/{ODD}", "message 2")
    day.recorder.quiet()
    thunderbird("await waited((l) => server.rootFolder.emptyTrash(l));")
    wait_for(lambda: sorted(day.elsewhere.state()) == sorted(FOLDERS), 20, "the folders to go")
    assert day.subjects("Trash") == []
    day.recorder.quiet()


def leaves(day: Day, thunderbird: Thunderbird) -> None:
    """Works offline, then tells the server; compacts."""
    thunderbird('await waited((l) => imap("INBOX").downloadAllForOffline(l, msgWindow));')
    day.recorder.quiet()
    thunderbird(
        'offline.synchronizeForOffline(false, true, false, true, msgWindow); await until("offline", () => Services.io.offline);'
    )
    day.recorder.quiet()
    thunderbird(
        """imap("INBOX").markMessagesRead(headers("INBOX", "Grüße"), true);
        imap("INBOX").addKeywordsToMessages(headers("INBOX", "Grüße"), "$label2");
        await copy("INBOX", "Archive", true, "new while idle");"""
    )
    assert "new while idle" in day.subjects("INBOX")
    thunderbird("Services.io.offline = false; offline.goOnline(false, true, msgWindow);")
    day.comes_to("Archive", "message 1", "message 0", "new while idle")
    day.comes_to("INBOX", "Grüße", "large")
    wait_for(lambda: {"\\Seen", "$label2"} <= day.marks("INBOX", "Grüße"), 20, "the flags set offline")
    day.recorder.quiet()
    thunderbird('await waited((l) => imap("INBOX").compact(l, msgWindow));')
    day.recorder.quiet()


def comes_back(day: Day, thunderbird: Thunderbird) -> None:
    """Another start: what happened in between is there."""
    begins(day, thunderbird)
    day.recorder.quiet()


def test_a_day_of_thunderbird(server: Server, tmp_path: Path) -> None:
    day = Day(server, tmp_path)
    try:
        fill(server)
        with day.thunderbird() as thunderbird:
            for step in (reads, marks, moves, writes, hears, finds, arranges, leaves):
                step(day, thunderbird)
        day.elsewhere("append", "INBOX", "before the second start")
        with day.thunderbird(use_condstore=True) as thunderbird:
            comes_back(day, thunderbird)
            lists(thunderbird, "INBOX", "Grüße", "large", "before the second start")
        day.elsewhere("store", "INBOX", "large", "+FLAGS", "\\Flagged $label3")
        day.elsewhere("expunge", "INBOX", "Grüße")
        day.elsewhere("append", "INBOX", "before the third start")
        with day.thunderbird(use_condstore=True) as thunderbird:
            comes_back(day, thunderbird)
            lists(thunderbird, "INBOX", "large", "before the second start", "before the third start")
            large_now = thunderbird('return seen("INBOX")[0];')
            assert isinstance(large_now, list) and large_now[2] is True and "$label3" in large_now[4]
    finally:
        day.recorder.close()
        if folder := os.environ.get("FILTERD_RECORD"):
            name = f"thunderbird-{version()}.imap"
            day.recorder.save(
                Path(folder) / name,
                f"Mozilla Thunderbird {version()} (Debian), {time.strftime('%Y-%m-%d', time.gmtime())}",
            )


@pytest.mark.parametrize(("door", "kind"), (("imaps", 3), ("imap", 2)))
def test_thunderbird_with_tls(server: Server, tmp_path: Path, door: str, kind: int) -> None:
    """At once and by STARTTLS, with nobody in between."""
    fill(server)
    day = Day(server, tmp_path)
    try:
        with day.thunderbird(port=server.ports[door], socketType=kind) as thunderbird:
            begins(day, thunderbird)
            lists(thunderbird, "INBOX", *(f"message {number}" for number in range(6)), "Grüße", "large")
            text = thunderbird('return shown("INBOX", "Grüße");')
            assert isinstance(text, str) and "Küsse aus Köln" in text
            thunderbird('await copy("INBOX", "Archive", true, "message 0");')
            day.comes_to("Archive", "message 0")
        assert day.recorder.count == 0
    finally:
        day.recorder.close()


def test_thunderbird_fetches_by_pop3(server: Server, tmp_path: Path) -> None:
    """Leaves mail on the server, fetches nothing twice, and removes there what is deleted here."""
    fill(server)
    day = Day(server, tmp_path)
    subjects = [*(f"message {number}" for number in range(6)), "Grüße", "large"]
    settings = {
        "type": "pop3", "port": server.ports["pop3s"], "socketType": 3, "leave_on_server": True,
        "delete_mail_left_on_server": True, "download_on_biff": False,
    }  # fmt: skip
    get = """const inbox = server.rootFolder.getFolderWithFlags(flag.Inbox);
        await waited((l) => MailServices.pop3.GetNewMail(msgWindow, l, inbox, server));
        return [...inbox.messages].map((each) => each.mime2DecodedSubject);"""
    try:
        with day.thunderbird(**settings) as thunderbird:
            assert thunderbird(get) == subjects
            day.elsewhere("append", "INBOX", "later")
            assert thunderbird(get) == [*subjects, "later"]
            thunderbird(
                """const inbox = server.rootFolder.getFolderWithFlags(flag.Inbox);
                const gone = [...inbox.messages].filter((each) => each.mime2DecodedSubject == "message 3");
                await waited((l) => inbox.deleteMessages(gone, msgWindow, true, false, l, false));"""
            )
            thunderbird(get)
            subjects.remove("message 3")
            day.comes_to("INBOX", *subjects, "later")
            assert thunderbird(get) == [*subjects, "later"]
    finally:
        day.recorder.close()
