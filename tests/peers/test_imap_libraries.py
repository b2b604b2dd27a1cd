"""IMAP libraries that programs are written with, unmodified, against the real server: aioimaplib; imapclient at what is new.

(imapclient's and imaplib's everyday are in ``test_clients.py``.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aioimaplib
import imapclient
import pytest

from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Server, mail

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

NAMES = ("a/b.c", "R&D", "Grüße & Küsse", "日本語", "~peter", "50%", "a b", "x&-y", "Ünï/Cödé")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob", "carol"), server="workers = 2") as running:
        yield running


def test_aioimaplib(server: Server) -> None:
    """Everything it has a method for, two connections at a time, one of them waiting in IDLE."""

    async def connected() -> object:
        client = aioimaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE)
        await client.wait_hello_from_server()
        assert (await client.login(f"ann@{DOMAIN}", PASSWORD)).result == "OK"
        return client

    async def body() -> None:
        first, second = await connected(), await connected()
        for word in ("IDLE", "UIDPLUS", "MOVE", "ENABLE", "NAMESPACE", "ID"):
            assert first.has_capability(word), word
        assert (await first.id(name="aioimaplib")).result == "OK"
        assert (await first.namespace()).lines[0].startswith(b'(("" "/"))')
        assert (await first.select("INBOX")).result == "OK"
        assert (await second.enable("CONDSTORE")).result == "OK"
        assert (await second.select("INBOX")).result == "OK"
        idle = await first.idle_start(timeout=60)
        for number in range(3):
            stored = await second.append(mail(f"number {number}"), "INBOX", "\\Seen")
            assert stored.result == "OK", stored
        seen: list[bytes] = []
        while not any(line == b"3 EXISTS" for line in seen):
            seen += await first.wait_server_push(timeout=30)
        first.idle_done()
        await asyncio.wait_for(idle, 30)
        found = await first.uid_search("SUBJECT", '"number 1"')
        assert found.lines[0] == b"2"
        whole = await first.uid("fetch", "2", "(FLAGS BODY.PEEK[])")
        assert whole.result == "OK" and bytes(whole.lines[1]) == mail("number 1"), whole
        everything = await first.fetch("1:*", "(UID ENVELOPE BODYSTRUCTURE RFC822.SIZE INTERNALDATE)")
        assert everything.result == "OK" and sum(b"ENVELOPE" in line for line in everything.lines) == 3
        assert (await first.uid("store", "2", "+FLAGS", "(\\Flagged $Work)")).result == "OK"
        assert (await second.noop()).result == "OK"
        assert (await second.search("FLAGGED KEYWORD $Work")).lines[0] == b"2"
        created = await first.create('"Archive/2026 & more"')
        assert created.result == "BAD"  # a bare "&" is no modified UTF-7
        assert (await first.create('"Archive/2026 &- more"')).result == "OK"
        assert (await first.subscribe('"Archive/2026 &- more"')).result == "OK"
        assert (await first.uid("move", "1", '"Archive/2026 &- more"')).result == "OK"
        assert (await first.copy("1", '"Archive/2026 &- more"')).result == "OK"
        status = await first.status('"Archive/2026 &- more"', "(MESSAGES UNSEEN UIDNEXT)")
        assert b"MESSAGES 2 UNSEEN 0 UIDNEXT 3" in status.lines[0]
        assert (await first.rename('"Archive/2026 &- more"', '"Archive/now"')).result == "OK"
        listed = await first.list('""', '"*"')
        assert any(b'"Archive/now"' in line for line in listed.lines)
        assert (await first.lsub('""', '"*"')).result == "OK"
        assert (await first.uid("store", "1:*", "+FLAGS", "(\\Deleted)")).result == "OK"
        assert (await first.expunge()).result == "OK"
        assert (await first.getquotaroot("INBOX")).result == "OK"
        assert (await first.close()).result == "OK"
        assert (await first.delete('"Archive/now"')).result == "OK"
        assert (await second.examine("INBOX")).result == "OK"
        assert aioimaplib.extract_exists(await second.select("INBOX")) == 0
        for client in (first, second):
            assert (await client.logout()).result == "OK"

    asyncio.run(asyncio.wait_for(body(), 120))


def test_imapclient_with_names_and_mod_sequences(server: Server) -> None:
    """Names with what means something to somebody; CONDSTORE; the state after UIDVALIDITY changed."""
    with imapclient.IMAPClient("127.0.0.1", port=server.ports["imaps"], ssl_context=INSECURE) as client:
        client.login(f"bob@{DOMAIN}", PASSWORD)
        for name in NAMES:
            client.create_folder(name)
            client.subscribe_folder(name)
            appended = client.append(
                name, mail(f"in {name.encode('ascii', 'replace').decode()}"), ("\\Seen",)
            )
            assert b"APPENDUID" in appended
        names = {name for _, _, name in client.list_folders()}
        assert set(NAMES) <= names
        assert set(NAMES) <= {name for _, _, name in client.list_sub_folders()}
        for name in NAMES:
            assert client.folder_status(name, ["MESSAGES"])[b"MESSAGES"] == 1
            client.rename_folder(name, f"moved {name}")
            assert client.select_folder(f"moved {name}")[b"EXISTS"] == 1
        client.unselect_folder()
        client.enable("CONDSTORE")
        at = client.select_folder("moved R&D")
        before = (
            at[b"HIGHESTMODSEQ"][0]
            if isinstance(at[b"HIGHESTMODSEQ"], (list, tuple))
            else at[b"HIGHESTMODSEQ"]
        )
        assert client.fetch([1], ["FLAGS"], [f"CHANGEDSINCE {before}"]) == {}
        client.add_flags(1, [b"\\Flagged", b"$Work"])
        changed = client.fetch([1], ["FLAGS"], [f"CHANGEDSINCE {before}"])
        assert set(changed[1][b"FLAGS"]) == {b"\\Seen", b"\\Flagged", b"$Work"}
        assert client.search(["MODSEQ", str(before + 1)])
        validity = at[b"UIDVALIDITY"]
        client.delete_folder("moved R&D")
        client.create_folder("moved R&D")
        assert client.select_folder("moved R&D")[b"UIDVALIDITY"] > validity
        both = [mail("one"), {"msg": mail("two"), "flags": ["$Work"]}]
        assert client.multiappend("moved R&D", both)[0] == "OK"
        assert client.sort(["REVERSE", "ARRIVAL"]) and len(client.thread("REFERENCES")) == 2
        assert client.get_quota_root("INBOX")
        assert client.idle() is None
        client.idle_done()


@pytest.mark.slow
def test_imapclient_and_five_thousand_messages(server: Server) -> None:
    with imapclient.IMAPClient("127.0.0.1", port=server.ports["imaps"], ssl_context=INSECURE) as client:
        client.login(f"carol@{DOMAIN}", PASSWORD)
        for start in range(0, 5_000, 100):
            typ, text = client.multiappend(
                "INBOX", [mail(f"number {number}") for number in range(start, start + 100)]
            )
            assert typ == "OK", text
        assert client.select_folder("INBOX")[b"EXISTS"] == 5_000
        found = client.fetch(client.search(), ["FLAGS", "RFC822.SIZE", "ENVELOPE"])
        assert len(found) == 5_000 and {row[b"ENVELOPE"].subject for row in found.values()} == {
            b"number %d" % number for number in range(5_000)
        }
        odd = [uid for uid in found if uid % 2]
        client.add_flags(odd, ["\\Deleted"], silent=True)
        client.uid_expunge(odd)
        assert client.search() == [uid for uid in found if not uid % 2]
        client.move(client.search()[:1_000], "Archive")
        assert client.folder_status("Archive", ["MESSAGES"])[b"MESSAGES"] == 1_000
        assert len(client.search()) == 1_500
