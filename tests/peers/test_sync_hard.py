"""Programs that keep a copy, at what is hard: 5,000 messages, both sides changed at once, odd names, another UIDVALIDITY.

Debian's mbsync (isync 1.4) knows neither CONDSTORE nor QRESYNC, nor does any release; that it asks for neither is looked at here,
so that this is noticed when it changes. Those that do are Thunderbird (CONDSTORE, ``test_thunderbird.py``) and the mutts (both).
"""

from __future__ import annotations

import imaplib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.cli.storage import open_store
from filterd.config.load import load
from filterd.imap.names import encode_utf7
from filterd.store.base import NewMessage
from tests.e2e.server import DOMAIN, PASSWORD, Server, mail
from tests.peers.test_adoption import NOTHING, Mbsync, at_filterd
from tests.peers.test_clients import curl, in_files, muttrc, need, press, subjects
from tests.peers.test_offline_clients import offlineimap
from tests.recorder import Recorder

pytestmark = [pytest.mark.e2e, pytest.mark.peer, pytest.mark.slow]

MANY, FEWER = 5_000, 800
PEOPLE = ("ann", "bob", "carol", "dora", "emil")
ODD = (
    "R&D",
    "Grüße & Küsse",
    'say "hi"',
    "a.b.c",
    "日本語/東京",
    "Ünï/Cödé/tief",
    "50% [x]",
    "it's",
    "tilde~",
    "*not",
    "back\\slash",
)
# mbsync reads * as a pattern and \\ as an escape, curl takes both from a URL
PLAIN = tuple(name for name in ODD if not set(name) & set('*\\"'))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(people=PEOPLE, server="workers = 2")
    try:
        store = open_store(load(str(server.config)))
        for person, count in (("ann", MANY), ("dora", FEWER), ("emil", FEWER)):
            account = store.account(f"{person}@{DOMAIN}")
            for start in range(0, count, 500):
                account.append(
                    "INBOX", [NewMessage(mail(f"number {at}")) for at in range(start, start + 500)]
                )
        store.close()
        server.start()
        yield server
    finally:
        server.close()


def flags_there(imap: imaplib.IMAP4, which: str) -> set[str]:
    return set(imap.uid("SEARCH", which)[1][0].decode().split())


def file_of(inbox: Path, number: int) -> Path:
    wanted = b"\nSubject: number %d\n" % number
    return next(path for path in in_files(inbox) if wanted in path.read_bytes().replace(b"\r\n", b"\n"))


def marked(path: Path, flags: str) -> None:
    path.rename(path.parent.parent / "cur" / f"{path.name.partition(':2,')[0]}:2,{flags}")


def test_mbsync_with_many_messages_changed_on_both_sides(server: Server, tmp_path: Path) -> None:
    need("mbsync")
    mbsync, inbox = Mbsync(tmp_path), tmp_path / "Mail" / "INBOX"
    account = at_filterd(server)
    far, near = mbsync.run(account)
    assert (far, near) == ((0, 0, 0), (MANY, 0, 0))
    assert mbsync.run(account) == NOTHING
    here = {int(found[1]): path for path in in_files(inbox) if (found := _NUMBER.search(path.read_bytes()))}
    assert len(here) == MANY
    with server.imap("ann") as imap:  # uid = number + 1
        imap.select("INBOX")
        imap.uid("STORE", "1:1000", "+FLAGS", "(\\Seen)")
        imap.uid("STORE", "2001:2100", "+FLAGS", "(\\Deleted)")
        imap.uid("EXPUNGE", "2001:2100")
        imap.uid("STORE", "500", "+FLAGS", "(\\Answered)")
        imap.uid("STORE", "4000", "+FLAGS", "(\\Deleted)")
        imap.uid("EXPUNGE", "4000")
    for number in range(1_000, 1_300):
        marked(here[number], "F")
    for number in range(3_000, 3_050):
        here[number].unlink()
    marked(here[499], "F")  # \Answered there, \Flagged here
    marked(here[3_999], "FS")  # gone there, changed here
    (inbox / "cur" / "9.new.here:2,S").write_bytes(mail("made here").replace(b"\r\n", b"\n"))
    server.send(mail("made there"), f"ann@{DOMAIN}")
    far, near = mbsync.run(account)
    assert (far, near) == ((1, 351, 0), (1, 1_101, 0))  # a message that goes is a change of flags first
    assert mbsync.run(account) == NOTHING
    with server.imap("ann") as imap:
        imap.select("INBOX", readonly=True)
        assert flags_there(imap, "FLAGGED") == {str(uid) for uid in (500, *range(1_001, 1_301))}
        assert flags_there(imap, "ANSWERED") == {"500"}
        assert len(flags_there(imap, "ALL")) == MANY - 100 - 1 - 50 + 2
        assert not flags_there(imap, "UID 3001:3050,2001:2100,4000")
    assert len(in_files(inbox)) == MANY - 100 - 1 - 50 + 2
    first = file_of(inbox, 499).name.partition(":2,")[2]
    assert set(first) >= set("FRS"), first


_NUMBER = re.compile(rb"\nSubject: number (\d+)\r?\n")


def test_mbsync_with_odd_names_and_another_uidvalidity(server: Server, tmp_path: Path) -> None:
    need("mbsync")
    recorder = Recorder(server.ports["imaps"])
    account = f'Host 127.0.0.1\nPort {recorder.port}\nUser bob@{DOMAIN}\nPass "{PASSWORD}"\nSSLType None\nAuthMechs LOGIN'
    mbsync = Mbsync(tmp_path)
    try:
        with server.imap("bob") as imap:
            for name in PLAIN:
                assert imap.create(f'"{encode_utf7(name)}"')[0] == "OK"
                assert imap.append(f'"{encode_utf7(name)}"', "", None, mail("in it"))[0] == "OK"
        far, near = mbsync.run(account)
        assert (far, near) == ((0, 0, 0), (len(PLAIN), 0, 0))
        made = tmp_path / "Mail" / encode_utf7("Von hier & dort")
        for part in ("cur", "new", "tmp"):
            (made / part).mkdir(parents=True)
        (made / "new" / "1.from.here").write_bytes(mail("from here").replace(b"\r\n", b"\n"))
        assert mbsync.run(account)[0] == (1, 0, 0)
        assert mbsync.run(account) == NOTHING
        assert subjects(server, "bob", encode_utf7("Von hier & dort")) == [b"from here"]
        with server.imap(
            "bob"
        ) as imap:  # the folder is another one now: the copy must not be thrown away for it
            assert imap.delete('"R&-D"')[0] == "OK"
            assert imap.create('"R&-D"')[0] == "OK"
        with pytest.raises(AssertionError, match="UIDVALIDITY"):
            mbsync.run(account)
        assert any(
            b"Subject: in it" in data for name, data in mbsync.files().items() if name.startswith("R&-D")
        )
        assert subjects(server, "bob", "Gr&APwA3w-e &- K&APw-sse") == [b"in it"]
    finally:
        recorder.close()
    asked = "".join(line for line in recorder.entries if " C b" in line)
    assert not re.search("(?i)condstore|qresync|changedsince", asked)


def test_offlineimap_with_odd_names(server: Server, tmp_path: Path) -> None:
    here, sync = tmp_path / "Mail", offlineimap(server, tmp_path, "carol", "sep = /")
    with server.imap("carol") as imap:
        for name in PLAIN:
            assert imap.create(f'"{encode_utf7(name)}"')[0] == "OK"
            assert imap.append(f'"{encode_utf7(name)}"', "(\\Flagged)", None, mail("in it"))[0] == "OK"

    sync()
    for name in PLAIN:
        found = in_files(here / encode_utf7(name))
        assert len(found) == 1 and found[0].name.endswith(":2,F"), (name, found)
        marked(found[0], "FS")
    sync()
    sync()
    with server.imap("carol") as imap:
        for name in PLAIN:
            imap.select(f'"{encode_utf7(name)}"', readonly=True)
            assert flags_there(imap, "SEEN FLAGGED") == {"1"}, name


@pytest.mark.parametrize(("program", "person"), (("neomutt", "dora"), ("mutt", "emil")))
def test_mutts_come_back_by_qresync(server: Server, tmp_path: Path, program: str, person: str) -> None:
    """They are told what has changed and gone since, and fetch few headers: for what vanished in front, as many."""
    need(program)
    recorder = Recorder(server.ports["imaps"])
    text = muttrc(
        server, f'set header_cache="{tmp_path}/cache"', "set imap_condstore=yes", "set imap_qresync=yes",
        "set delete=no",
    )  # fmt: skip
    for was, now in (
        (f"imaps://localhost:{server.ports['imaps']}", f"imap://localhost:{recorder.port}"),
        (f"ann@{DOMAIN}", f"{person}@{DOMAIN}"),
        ("set ssl_force_tls=yes", "unset ssl_force_tls"),
    ):
        assert was in text
        text = text.replace(was, now)
    rc = tmp_path / "rc"
    rc.write_text(text)
    keys = "<limit>~F<enter><first-entry><save-message>+Archive<enter>y<sync-mailbox><quit>"
    try:
        press(program, rc, "<quit>", tmp_path)
        first = len(recorder.entries)
        assert fetched(recorder.entries) >= FEWER
        with server.imap(person) as imap:
            imap.select("INBOX")
            imap.uid("STORE", "1:50", "+FLAGS", "(\\Deleted)")
            imap.uid("EXPUNGE", "1:50")
            imap.uid("STORE", "700", "+FLAGS", "(\\Flagged)")
        server.send(mail("the newest"), f"{person}@{DOMAIN}")
        shown = press(program, rc, keys, tmp_path)
        again = recorder.entries[first:]
    finally:
        recorder.close()
    assert any(re.search(r"C b'\S+ ENABLE .*QRESYNC", line) for line in again), again[:40]
    assert any(re.search(r"CHANGEDSINCE \d+ VANISHED|QRESYNC \(\d+ \d+", line) for line in again)
    assert any("VANISHED (EARLIER) 1:50" in line for line in again)
    assert fetched(again) <= 51
    with server.imap(person) as imap:
        imap.select("Archive", readonly=True)
        assert b"number 699" in imap.fetch("1", "(BODY[HEADER.FIELDS (SUBJECT)])")[1][0][1], shown[-800:]


def fetched(entries: list[str]) -> int:
    """How many headers it was given."""
    return sum("BODY" in line and " S b'* " in line for line in entries)


def test_curl_with_odd_names(server: Server, tmp_path: Path) -> None:
    user = f"bob@{DOMAIN}:{PASSWORD}"
    base = f"imaps://127.0.0.1:{server.ports['imaps']}"
    for number, name in enumerate(("C&A", 'say "hi"', "a.b", "sp ace", "50%", "Ä")):
        box = encode_utf7(name)
        quoted = box.replace("\\", "\\\\").replace('"', '\\"')
        curl(server, f"{base}/", "--user", user, "-X", f'CREATE "{quoted}"')
        text = tmp_path / "text"
        text.write_bytes(mail(f"curl {number}"))
        url = "".join(one if one.isalnum() else f"%{ord(one):02X}" for one in box)
        curl(server, f"{base}/{url}", "--user", user, "-T", str(text))
        assert curl(server, f"{base}/{url};UID=1", "--user", user).endswith(mail(f"curl {number}"))
        assert b"1" in curl(server, f"{base}/{url}", "--user", user, "-X", f"SEARCH SUBJECT {number}")
