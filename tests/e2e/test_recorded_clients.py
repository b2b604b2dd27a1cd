"""What real clients were recorded to say (tests/vectors/clients), said to the real server again: the same answers, the same end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Server
from tests.recorder import Elsewhere, Player
from tests.thunderbird import fill

pytestmark = pytest.mark.e2e

RECORDED = Path(__file__).resolve().parent.parent / "vectors" / "clients"
THUNDERBIRD = sorted(RECORDED.glob("thunderbird-*.imap"))
ROUNDCUBE = sorted(RECORDED.glob("roundcube-*.imap"))
End = dict[str, list[tuple[int, str, set[str]]]]
END: End = {
    "INBOX": [
        (8, "large", {"\\Seen", "\\Flagged", "$label3"}),
        (10, "before the second start", set()),
        (11, "before the third start", set()),
    ],
    "Archive": [
        (2, "message 1", {"\\Flagged"}),
        (3, "message 0", set()),
        (4, "new while idle", {"\\Flagged"}),
    ],
    "Drafts": [
        (1, "message 2", set()),
        (2, "draft-1", {"\\Seen", "\\Draft"}),
        (3, "draft-2", {"\\Seen", "\\Draft"}),
    ],
    "Junk": [(1, "message 5", {"NonJunk"})],
    "Sent": [(1, "sent", {"\\Seen"})],
    "Trash": [],
}
# What a mail program does all day must be in the recording, or it proves little.
SAID = {
    *(
        "AUTHENTICATE",
        "COMPRESS",
        "ENABLE",
        "LIST",
        "SELECT",
        "UID FETCH",
        "UID STORE",
        "UID COPY",
        "UID MOVE",
        "UID SEARCH",
    ),
    *(
        "APPEND",
        "IDLE",
        "STATUS",
        "CREATE",
        "RENAME",
        "DELETE",
        "SUBSCRIBE",
        "EXPUNGE",
        "NOOP",
        "GETQUOTAROOT",
    ),
}
ROUNDCUBE_END: End = {
    "INBOX": [
        (1, "message 0", set()),
        (2, "message 1", {"\\Flagged"}),
        (3, "message 2", {"\\Answered"}),
        (7, "Grüße", {"\\Seen"}),
        (8, "large", set()),
    ],
    "Archive": [(1, "message 4", set()), (2, "message 5", set())],
    "Drafts": [],
    "Junk": [],
    "Sent": [(1, "sent", {"\\Seen"})],
    "Trash": [],
}
ROUNDCUBE_SAID = {
    *("AUTHENTICATE", "LIST", "SELECT", "UID FETCH", "UID STORE", "UID COPY", "UID MOVE", "UID SEARCH"),
    *("UID SORT", "UID THREAD", "APPEND", "STATUS", "CREATE", "RENAME", "DELETE", "SUBSCRIBE"),
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(people=("ann",), server="workers = 2") as running:
        fill(running)
        yield running


def play(server: Server, recording: Path, end: End, said: set[str]) -> None:
    elsewhere = Elsewhere(server, "ann")
    player = Player(server.ports["imaps"], elsewhere)
    player.play(recording)
    assert elsewhere.state() == end
    assert set(player.commands) >= said
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("recording", THUNDERBIRD, ids=lambda path: path.stem)
def test_a_day_of_thunderbird(server: Server, recording: Path) -> None:
    play(server, recording, END, SAID)


@pytest.mark.parametrize("recording", ROUNDCUBE, ids=lambda path: path.stem)
def test_roundcube(server: Server, recording: Path) -> None:
    play(server, recording, ROUNDCUBE_END, ROUNDCUBE_SAID)


def test_another_answer_is_noticed(server: Server, tmp_path: Path) -> None:
    """The alterations are of answers before the client's first change, so that one account serves for all."""
    text = THUNDERBIRD[-1].read_text("ascii")
    other = tmp_path / "other.imap"
    for was, instead in (
        (r"(S b'\* 2 FETCH \(UID 2 FLAGS \()\)\)", r"\1\\\\Seen))"),
        (r"(\* LIST \(\\\\HasNoChildren) (\\\\Subscribed \\\\Sent)", r"\1 \2 \\\\Junk"),
        (r"(S b'\* )8 (EXISTS)", r"\g<1>9 \2"),
        (r"Subject: message 3", "Subject: message 9"),
        (r"(S b'\d+) OK FETCH", r"\1 NO FETCH"),
        (r"(ENABLED UTF8=ACCEPT)", r"\1 CONDSTORE"),
        (r"(\[PERMANENTFLAGS .*) \\\\\*", r"\1"),
    ):
        changed, count = re.subn(was, instead, text, count=1)
        assert count == 1 and changed != text, was
        other.write_text(changed)
        with pytest.raises(AssertionError, match=r"other\.imap line"):
            Player(server.ports["imaps"], Elsewhere(server, "ann")).play(other)
