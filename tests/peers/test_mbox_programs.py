"""mutt and Dovecot work in the very files that our mbox store keeps: flags, keywords, UIDs and messages stay true on both sides."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
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
def account(tmp_path: Path) -> Iterator[AccountStore]:
    store = MboxStore(tmp_path / "mail", "h", lambda account: 0, SystemClock(), SystemIds())
    opened = store.account("ann@example.org")
    for number in range(4):
        opened.append("INBOX", [NewMessage(text(number), ("\\Seen", "work") if number % 2 else ())])
    yield opened
    store.close()


def state(account: AccountStore) -> dict[int, tuple[int, bytes | None]]:
    view = account.snapshot("INBOX")
    return {uid: (mask, account.read("INBOX", uid)) for uid, mask in zip(view.uids, view.flags, strict=True)}


@pytest.mark.skipif(not (shutil.which("mutt") and shutil.which("script")), reason="no mutt")
def test_mutt(tmp_path: Path, account: AccountStore) -> None:
    inbox = tmp_path / "mail/example.org/ann/inbox"
    (tmp_path / "muttrc").write_text(f"set mbox_type=mbox delete=yes quit=yes move=no mark_old=no folder={tmp_path}\n")
    keys = "push '<first-entry><flag-message><next-entry><next-entry><delete-message><sync-mailbox><quit>'"
    command = f'mutt -n -F {tmp_path}/muttrc -f {inbox} -e "{keys}"'
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "xterm"}
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
def test_dovecot(tmp_path: Path, account: AccountStore) -> None:
    place = tmp_path / "mail/example.org/ann"
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    config = tmp_path / "dovecot.conf"
    config.write_text(
        f"base_dir = {tmp_path}/run\nlog_path = {tmp_path}/log\nssl = no\nprotocols =\nfirst_valid_uid = 0\nfirst_valid_gid = 0\n"
        f"mail_uid = {user.pw_uid}\nmail_gid = {user.pw_gid}\nmbox_write_locks = dotlock fcntl\n"
        f"mail_location = mbox:{place}/mail:INBOX={place}/inbox:INDEX={tmp_path}/index\n"
    )

    def doveadm(*words: str, data: bytes = b"") -> str:
        if os.geteuid() == 0:
            for path in (*tmp_path.parents[:2], tmp_path, *tmp_path.rglob("*")):
                if path == tmp_path or tmp_path in path.parents:
                    os.chown(path, user.pw_uid, user.pw_gid)
                elif path.owner() == "root":
                    path.chmod(path.stat().st_mode | 0o111)
        environment = {**os.environ, "HOME": str(tmp_path), "USER": user.pw_name}
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
