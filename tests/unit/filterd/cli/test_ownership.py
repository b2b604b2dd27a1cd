"""Handing files over to the server's user."""

import os
import pwd
from pathlib import Path

import pytest

from filterd.cli.ownership import hand_over
from filterd.config.load import parse
from filterd.store import witness
from filterd.store.base import NewMessage
from filterd.store.durable import RealDisk
from filterd.store.maildir import MaildirStore
from tests.crash.story import ACCOUNT, Counter, StillClock


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: files cannot be given away (CAP_CHOWN)")
def test_the_index_needs_no_healing_for_it(tmp_path: Path) -> None:
    def store() -> MaildirStore:
        return MaildirStore(
            tmp_path, "h", "crlf", lambda account: 0, StillClock(), Counter(0), disk=RealDisk()
        )

    first = store()
    first.account(ACCOUNT).append("INBOX", [NewMessage(b"Subject: a\r\n\r\n")])
    first.close()
    user = pwd.getpwuid(0).pw_name
    config = parse(
        f'[server]\nhostname = "mx.example.org"\nuser = "{user}"\n[[domain]]\nname = "example.org"\n'
    )
    index = tmp_path / "example.org/ann/.filterd/index.db"
    before = index.stat().st_ctime_ns
    hand_over(config, str(tmp_path))
    assert index.stat().st_ctime_ns > before and witness.intact(str(index))
    second = store()
    assert second.account(ACCOUNT).deliver("INBOX", NewMessage(b"Subject: b\r\n\r\n")).uid == 2
    second.close()
