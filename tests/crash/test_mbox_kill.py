"""Real processes that write mbox files are killed, others append meanwhile; nothing that was answered is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from filterd.ports import SystemClock, SystemIds
from filterd.store.base import NewMessage
from filterd.store.mbox import MboxStore

ANN = "ann@example.org"
FROM = b"From bob@example.net Mon Nov 23 10:36:28 2026\n"
WORKER = """
import random, sys
from pathlib import Path
from filterd.ports import SystemClock, SystemIds
from filterd.store.base import NewMessage
from filterd.store.mbox import MboxStore
root, seed = Path(sys.argv[1]), int(sys.argv[2])
pick = random.Random(seed)
account = MboxStore(root, "h", lambda account: 0, SystemClock(), SystemIds()).account("ann@example.org")
number = 0
while True:
    name = f"{seed}.{number}"
    text = f"Subject: {name}\\r\\n\\r\\n".encode() + b"line of text\\r\\n" * pick.randint(1, 3000)
    account.deliver("INBOX", NewMessage(text, key=name.encode()))
    print("delivered", name, flush=True)
    number += 1
    uids = list(account.snapshot("INBOX").uids)
    act = pick.random()
    if act < 0.3:
        account.set_flags("INBOX", uids[:2], "add", ["\\\\Seen", "k" * pick.randint(1, 90)])
    elif act < 0.5 and len(uids) > 3:
        account.move("INBOX", pick.sample(uids, 2), "Other")
    elif act < 0.6 and len(uids) > 5:
        uid = pick.choice(uids)
        data = account.read("INBOX", uid)
        account.set_flags("INBOX", [uid], "add", ["\\\\Deleted"])
        print("expunging", data.split(b"\\r\\n")[0].decode()[9:], flush=True)
        account.expunge("INBOX", [uid])
"""


def look(root: Path) -> list[str]:
    """Subjects of all messages; every one is whole."""
    store = MboxStore(root, "h", lambda account: 0, SystemClock(), SystemIds())
    account = store.account(ANN)
    found = []
    for info in account.mailboxes():
        view = account.snapshot(info.name)
        assert sorted(set(view.uids)) == list(view.uids)
        for uid in view.uids:
            data = account.read(info.name, uid)
            assert data is not None
            head, _, body = data.partition(b"\r\n\r\n")
            assert body == b"line of text\r\n" * (len(body) // 14), (
                f"{info.name} {uid} is torn: {data[:80]!r}"
            )
            found.append(head.decode().removeprefix("Subject: "))
    store.close()
    return found


@pytest.mark.slow
def test_kill_9_anywhere(tmp_path: Path) -> None:
    pick = random.Random(7)
    store = MboxStore(tmp_path, "h", lambda account: 0, SystemClock(), SystemIds())
    store.account(ANN).create("Other")
    store.close()
    delivered: set[str] = set()
    expunged: set[str] = set()
    foreign: set[str] = set()
    for turn in range(12):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(tmp_path), str(100 * turn + at)], stdout=subprocess.PIPE
            )
            for at in range(2)
        ]
        want = pick.randint(3, 12)
        heard = [b"", b""]
        for at, worker in enumerate(workers):
            assert worker.stdout is not None
            while heard[at].count(b"delivered") < want and (line := worker.stdout.readline()):
                heard[at] += line
        for at, worker in enumerate(workers):
            worker.send_signal(signal.SIGKILL)
            assert worker.stdout is not None
            heard[at] += worker.stdout.read()
            worker.wait()
            worker.stdout.close()
        for line in b"".join(heard).decode().split("\n"):
            word, _, name = line.partition(" ")
            {"delivered": delivered, "expunging": expunged}.get(word, set()).add(name)
        if turn % 2:
            name = f"foreign {turn}"
            with (tmp_path / "example.org/ann/inbox").open("ab") as file:
                file.write(FROM + f"Subject: {name}\n\nline of text\n\n".encode())
            foreign.add(name)
        found = look(tmp_path)
        assert len(set(found)) == len(found), "a message is there twice"
        missing = (delivered | foreign) - expunged - set(found)
        assert not missing, f"turn {turn}: lost {missing}"
    again = sorted(set(look(tmp_path)) & delivered)[-1]
    store = MboxStore(tmp_path, "h", lambda account: 0, SystemClock(), SystemIds())
    text = f"Subject: {again}\r\n\r\n".encode()
    assert store.account(ANN).deliver("INBOX", NewMessage(text, key=again.encode())).duplicate
    store.account(ANN).deliver("INBOX", NewMessage(b"Subject: last\r\n\r\n"))
    store.close()
    assert not [name for name in os.listdir(tmp_path / "example.org/ann") if name.endswith(".lock")]
