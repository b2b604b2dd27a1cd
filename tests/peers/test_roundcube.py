"""Debian's Roundcube, unmodified and without a web server: its storage class does what its pages make it do.

``tests/roundcube.php`` is the person. Roundcube wants a web server and a database as a package, so it is unpacked
(``tests/unpacked.py``). ``FILTERD_RECORD=FOLDER`` keeps what went over the wire there, as in ``test_thunderbird.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests import unpacked
from tests.e2e.server import DOMAIN, PASSWORD, Server
from tests.e2e.test_recorded_clients import ROUNDCUBE_END
from tests.peers.test_clients import need, run
from tests.recorder import Elsewhere, Recorder
from tests.thunderbird import fill

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

PERSON = Path(__file__).resolve().parent.parent / "roundcube.php"
PROGRAM = unpacked.program("roundcube-core", "usr/share/roundcube/program/lib/Roundcube/rcube_imap.php")
PEAR = unpacked.program("php-pear", "usr/share/php/PEAR.php")
MESSAGES = [f"message {number}" for number in range(6)]
SEEN = {
    "special": {"drafts": "Drafts", "sent": "Sent", "junk": "Junk", "trash": "Trash"},
    "folders": ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"],
    "all": ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"],
    "count": 8,
    "unseen": 8,
    "newest": ["large", "Grüße", *reversed(MESSAGES)],
    "by subject": ["Grüße", "large", *MESSAGES],
    "threads": 8,
    "status": 0,
    "quota": True,
    "subject": "Grüße",
    "parts": ["text/plain", "application/octet-stream"],
    "text": "Küsse aus Köln",
    "attachment": "0001020304050607",
    "found": 1,
    "in text": 1,
    "searched all folders": 6,
    "in Neu": 1,
    "info": list("lrswipkxteacd"),
    "saved": "1",
    "draft": "1",
    "left": ["message 0", "message 1", "message 2", "Grüße", "large"],
}


def test_roundcube(tmp_path: Path) -> None:
    php = need("php")
    if not PROGRAM or not PEAR:
        pytest.skip("Roundcube is not here (Debian: roundcube-core and php-pear, unpacked by `make test`)")
    root = Path(PROGRAM).parents[3]
    version = re.search(r"RCUBE_VERSION', '([^']*)'", Path(PROGRAM).with_name("bootstrap.php").read_text())
    assert version is not None
    settings = root.parents[2] / "etc" / "roundcube"
    for name in ("defaults.inc.php", "mimetypes.php"):
        shutil.copy(settings / name, tmp_path)
    (tmp_path / "config.inc.php").write_text(
        f"<?php\n$config['log_driver'] = 'stdout';\n$config['db_dsnw'] = 'sqlite:///{tmp_path}/none';\n"
        "$config['des_key'] = '123456789012345678901234';\n"
    )
    with Server(people=("ann",), server="workers = 2") as server:
        fill(server)
        recorder = Recorder(server.ports["imaps"])
        try:
            done = run(
                php, "-d", f"include_path=.:{Path(PEAR).parent}", str(PERSON), str(root), str(recorder.port),
                f"ann@{DOMAIN}", PASSWORD, environment={"ROUNDCUBE_CONFIG_DIR": f"{tmp_path}/"},
            )  # fmt: skip
        finally:
            recorder.close()
            if folder := os.environ.get("FILTERD_RECORD"):
                day = time.strftime("%Y-%m-%d", time.gmtime())
                recorder.save(
                    Path(folder) / f"roundcube-{version[1]}.imap", f"Roundcube {version[1]} (Debian), {day}"
                )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == SEEN
        assert Elsewhere(server, "ann").state() == ROUNDCUBE_END
