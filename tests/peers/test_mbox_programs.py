"""mutt and Dovecot work in the very files that our mbox store keeps: flags, keywords, UIDs and messages stay true on both sides."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store.base import ANSWERED, FLAGGED, SEEN, AccountStore, NewMessage
from filterd.store.mbox import MboxStore

pytestmark = pytest.mark.peer


def text(number: int) -> bytes:
    head = f"From: a@b.example\r\nMessage-ID: <{number}@x>\r\nSubject: m{number}\r\n\r\n"
    return head.encode() + b"From me\r\nbody %d\r\n" % number


@pytest.fixture
def place_of_all() -> Iterator[Path]:
    """Where another user may come to, as pytest's own directories do not let him."""
    path = Path(tempfile.mkdtemp(prefix="filterd-mbox-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def account(place_of_all: Path) -> Iterator[AccountStore]:
    store = MboxStore(place_of_all / "mail", "h", lambda account: 0, SystemClock(), SystemIds())
    opened = store.account("ann@example.org")
    for number in range(4):
        opened.append("INBOX", [NewMessage(text(number), ("\\Seen", "work") if number % 2 else ())])
    yield opened
    store.close()


def state(account: AccountStore) -> dict[int, tuple[int, bytes | None]]:
    view = account.snapshot("INBOX")
    return {uid: (mask, account.read("INBOX", uid)) for uid, mask in zip(view.uids, view.flags, strict=True)}


@pytest.mark.skipif(not (shutil.which("mutt") and shutil.which("script")), reason="no mutt")
def test_mutt(place_of_all: Path, account: AccountStore) -> None:
    inbox = place_of_all / "mail/example.org/ann/inbox"
    (place_of_all / "muttrc").write_text(
        f"set mbox_type=mbox delete=yes quit=yes move=no mark_old=no folder={place_of_all}\n"
    )
    keys = "push '<first-entry><flag-message><next-entry><next-entry><delete-message><sync-mailbox><quit>'"
    command = f'mutt -n -F {place_of_all}/muttrc -f {inbox} -e "{keys}"'
    environment = {**os.environ, "HOME": str(place_of_all), "TERM": "xterm"}
    run = subprocess.run(
        ["script", "-qc", command, "/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout
    found = state(account)
    assert set(found) in ({1, 2, 4}, {1, 2, 3}, {1, 3, 4}), "mutt has removed one"
    assert found[1] == (FLAGGED, text(0))
    assert all(data == text(uid - 1) for uid, (_, data) in found.items())
    assert account.deliver("INBOX", NewMessage(text(9))).uid == 5


@pytest.mark.skipif(not shutil.which("doveadm"), reason="no Dovecot")
def test_dovecot(place_of_all: Path, account: AccountStore) -> None:
    place = place_of_all / "mail/example.org/ann"
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    config = place_of_all / "dovecot.conf"
    config.write_text(
        f"base_dir = {place_of_all}/run\nlog_path = {place_of_all}/log\nssl = no\nprotocols =\nfirst_valid_uid = 0\n"
        "first_valid_gid = 0\n"
        f"mail_uid = {user.pw_uid}\nmail_gid = {user.pw_gid}\nmbox_write_locks = dotlock fcntl\n"
        f"mail_location = mbox:{place}/mail:INBOX={place}/inbox:INDEX={place_of_all}/index\n"
    )

    def doveadm(*words: str, data: bytes = b"") -> str:
        if os.geteuid() == 0:  # Dovecot does not serve root
            for path in (place_of_all, *place_of_all.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        environment = {**os.environ, "HOME": str(place_of_all), "USER": user.pw_name}
        run = subprocess.run(
            ["doveadm", "-c", str(config), *words],
            input=data,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=60,
            check=True,
        )
        return run.stdout.decode()

    fetched = doveadm("-f", "tab", "fetch", "uid flags", "mailbox", "INBOX", "all").split("\n")[1:5]
    assert fetched == ["1\t", "2\t\\Seen work", "3\t", "4\t\\Seen work"]
    doveadm("flags", "add", "\\Answered $Dove", "mailbox", "INBOX", "uid", "2")
    doveadm("expunge", "mailbox", "INBOX", "uid", "1")
    doveadm("save", "-m", "INBOX", data=b"From: z@z\nSubject: theirs\n\nhello\n")
    assert state(account) == {
        2: (SEEN | ANSWERED | 32 | 64, text(1)),
        3: (0, text(2)),
        4: (SEEN | 32, text(3)),
        5: (0, b"From: z@z\r\nSubject: theirs\r\n\r\nhello\r\n"),
    }
    assert account.snapshot("INBOX").keywords == ("work", "$Dove")
    account.set_flags("INBOX", [2], "add", ["\\Flagged"])
    assert account.deliver("INBOX", NewMessage(text(5))).uid == 6
    account.set_flags("INBOX", [4], "add", ["\\Deleted"])
    assert account.expunge("INBOX") == (4,)
    fetched = doveadm("-f", "tab", "fetch", "uid flags", "mailbox", "INBOX", "all").split("\n")[1:5]
    assert [line.split("\t")[0] for line in fetched] == ["2", "3", "5", "6"]
    assert set(fetched[0].split("\t")[1].split()) == {"\\Seen", "\\Answered", "\\Flagged", "work", "$Dove"}
    status = doveadm("mailbox", "status", "uidvalidity uidnext", "INBOX")
    assert f"uidvalidity={account.info('INBOX').uidvalidity}" in status
    assert "uidnext=7" in status
