"""Sieve on events of the message store: which script runs, what it sees, what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.accounts.scripts import FileScriptStore, ScriptLimits
from filterd.imapsieve import ENTRY, ImapEvent, ImapOutcome, ImapSieve
from filterd.ports import SystemClock, SystemIds
from filterd.scripts import ScriptService
from filterd.sieve_host import AccountHost
from filterd.store.base import AccountStore
from filterd.store.durable import RealDisk
from filterd.store.memory import MemoryStore

ACCOUNT = "ann@example.org"
HEAD = 'require ["imapsieve", "environment", "imap4flags", "fileinto", "copy", "editheader"];\n'


@pytest.fixture
def store() -> AccountStore:
    return MemoryStore(SystemClock(), SystemIds()).account(ACCOUNT)


@pytest.fixture
def service(tmp_path: Path) -> ScriptService:
    (tmp_path / "ann").mkdir()
    files = FileScriptStore(str(tmp_path / "ann"), RealDisk(), ScriptLimits())
    return ScriptService(lambda account: files)


def event(cause: str = "APPEND", **more: tuple[str, ...]) -> ImapEvent:
    return ImapEvent(ACCOUNT, "ann", ACCOUNT, cause, "INBOX", b"Subject: hi\r\n\r\nx\r\n", **more)


def decide(
    store: AccountStore, service: ScriptService, text: str, what: ImapEvent | None = None
) -> ImapOutcome | None:
    service.of(ACCOUNT).put("events", text)
    store.set_metadata("INBOX", ENTRY, "events")

    def host(_store: AccountStore, _event: ImapEvent, items: dict[str, str]) -> AccountHost:
        return AccountHost(1.8e9, "mx.example.org", items, (ACCOUNT,), store=_store)

    return ImapSieve(service, host).decide(store, what or event())


def test_which_script(store: AccountStore) -> None:
    assert ImapSieve.script_name(store, "INBOX") == ""
    store.set_metadata(None, ENTRY, "everywhere")
    assert ImapSieve.script_name(store, "INBOX") == "everywhere"
    store.set_metadata("INBOX", ENTRY, "here")
    assert ImapSieve.script_name(store, "INBOX") == "here"
    store.set_metadata("INBOX", ENTRY, "")
    assert ImapSieve.script_name(store, "INBOX") == ""


def test_no_such_script(store: AccountStore, service: ScriptService) -> None:
    store.set_metadata("INBOX", ENTRY, "nothing")
    sieve = ImapSieve(service, lambda *_: AccountHost(0, "x", {}, ()))
    assert sieve.decide(store, event()) is None


@pytest.mark.parametrize(
    ("script", "flags", "delete", "files"),
    [
        ("", None, False, []),
        ("keep;", None, False, []),
        ("discard;", None, True, []),
        ("discard; keep;", None, False, []),
        ('fileinto "a";', None, True, ["a"]),
        ('fileinto :copy "a";', None, False, ["a"]),
        ('addflag "\\\\Flagged";', ("\\Seen", "\\Flagged"), False, []),
        ('addflag "\\\\seen";', None, False, []),
        ('setflag "";', (), False, []),
        ('if hasflag "\\\\Seen" { removeflag "\\\\Seen"; }', (), False, []),
        (
            'if environment ["imap.cause"] "FLAG" { discard; }'.replace('["imap.cause"]', '"imap.cause"'),
            None,
            False,
            [],
        ),
        ('if environment "imap.cause" "APPEND" { discard; }', None, True, []),
        ('if environment "imap.mailbox" "INBOX" { discard; }', None, True, []),
        ('if environment "imap.user" "ann" { discard; }', None, True, []),
        ('if environment "imap.email" "ann@example.org" { discard; }', None, True, []),
        ('if environment "location" "MS" { discard; }', None, True, []),
        ('if environment "phase" "post" { discard; }', None, True, []),
    ],
)
def test_outcomes(
    store: AccountStore,
    service: ScriptService,
    script: str,
    flags: tuple[str, ...] | None,
    delete: bool,
    files: list[str],
) -> None:
    outcome = decide(store, service, HEAD + script, event(flags=("\\Seen",)))
    assert outcome is not None and outcome.error is None
    assert (outcome.flags, outcome.delete) == (flags, delete)
    assert [file.mailbox for file in outcome.files] == files


def test_changed_flags(store: AccountStore, service: ScriptService) -> None:
    script = HEAD + 'if environment :contains "imap.changedflags" "$Junk" { fileinto :copy "Junk"; }'
    outcome = decide(store, service, script, event("FLAG", flags=("$Junk",), changed=("$Junk", "\\Seen")))
    assert outcome is not None and [file.mailbox for file in outcome.files] == ["Junk"] and not outcome.delete


def test_edits_are_only_for_copies(store: AccountStore, service: ScriptService) -> None:
    outcome = decide(
        store, service, HEAD + 'addheader "X-A" "1"; fileinto :copy "a"; redirect :copy "b@c.example";'
    )
    assert outcome is not None and not outcome.delete and outcome.flags is None
    assert (outcome.files[0].message or b"").startswith(b"X-A: 1\r\n")
    assert [send.address for send in outcome.sends] == ["b@c.example"]  # type: ignore[union-attr]  # a redirect


@pytest.mark.parametrize(
    "script",
    [
        'require "vacation"; vacation "x";',
        'require "reject"; reject "x";',
        'require "ereject";',
        'require ["ihave", "fileinto"]; error "no";',
        "redirect;",
    ],
)
def test_what_fails_leaves_the_message_alone(
    store: AccountStore, service: ScriptService, script: str
) -> None:
    outcome = decide(store, service, script)
    assert outcome is not None and outcome.error
    assert not outcome.delete and outcome.flags is None and outcome.files == () and outcome.sends == ()
