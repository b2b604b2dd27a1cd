"""The first words of a message (RFC 8970), and where they are kept."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from filterd.imap import columns as col
from filterd.imap.flags import FlagTable
from filterd.imap.preview import CHARACTERS, preview, rendered
from filterd.ports import SystemClock, SystemIds
from filterd.store.base import AccountStore, NewMessage
from filterd.store.maildir import MaildirStore
from filterd.store.mbox import MboxStore
from filterd.store.memory import MemoryStore
from rules.mail.message import Message


def words(kind: str, body: str, more: str = "") -> str:
    text = f"Subject: x\r\nContent-Type: text/{kind}; charset=utf-8\r\n{more}\r\n{body}"
    return preview(Message(text.encode()).root)


def parts(*texts: str, kind: str = "mixed") -> str:
    body = "".join(f"--b\r\n{text}\r\n" for text in texts) + "--b--\r\n"
    return preview(Message(f"Content-Type: multipart/{kind}; boundary=b\r\n\r\n{body}".encode()).root)


PLAIN = "Content-Type: text/plain; charset=utf-8\r\n\r\n"
HTML = "Content-Type: text/html; charset=utf-8\r\n\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("plain", "Hello\r\n\r\n  you\tthere \r\n", "Hello you there"),
        ("plain", "> old words\r\n>> older\r\nMine.\r\n", "Mine."),
        ("plain", "Words.\r\n-- \r\nAnn Example\r\n", "Words."),
        ("plain", "a -- b\r\n--\r\nc\r\n", "a -- b -- c"),
        ("plain", "", ""),
        ("plain", "> all of it is old\r\n", ""),
        ("plain", "Gr\u00fc\u00dfe \u65e5\u672c\r\n", "Gr\u00fc\u00dfe \u65e5\u672c"),
        ("plain", "so\u00adft \u200b\u200e\u202eevil\x07\r\n", "soft evil"),
        ("html", "<p>Hello <b>W</b>orld &amp; all&nbsp;</p><p>next</p>", "Hello World & all next"),
        (
            "html",
            "<html><head><title>t</title><STYLE>p{}</STYLE></head><body>seen<script>x<1</script></body>",
            "seen",
        ),
        ("html", "<!-- hidden <b>words</b> --><!--[if mso]>no<![endif]-->seen", "seen"),
        ("html", "&#847;&zwnj; &nbsp;&#8199;&shy;words", "words"),
        ("html", "1 &lt; 2<br>3", "1 < 2 3"),
        ("html", "<style>never closed", ""),
        ("html", "\u0130\u0130<style>x</style>words", "\u0130\u0130 words"),
    ],
)
def test_words(kind: str, body: str, shown: str) -> None:
    assert words(kind, body) == shown


def test_no_more_characters_than_allowed() -> None:
    assert words("plain", "\u65e5" * 5000) == "\u65e5" * CHARACTERS
    assert len(words("plain", "ab " * 5000)) <= CHARACTERS
    assert len(words("html", "<i>ab</i> " * 5000)) in (CHARACTERS, CHARACTERS - 1)


def test_words_far_down() -> None:
    """Behind a long quotation, or behind more style than is looked at first."""
    assert words("plain", "> old\r\n" * 3000 + "Mine.\r\n") == "Mine."
    assert words("html", f"<style>{'p { margin: 0 }' * 2000}</style><p>seen</p>") == "seen"


def test_transfer_encodings() -> None:
    assert words("plain", "R3LDvMOfZQ==", "Content-Transfer-Encoding: base64\r\n") == "Gr\u00fc\u00dfe"
    assert (
        words("plain", "Gr=C3=BC=\r\n=C3=9Fe", "Content-Transfer-Encoding: quoted-printable\r\n")
        == "Gr\u00fc\u00dfe"
    )


def test_which_part() -> None:
    assert parts(PLAIN + "plain", HTML + "<p>html", kind="alternative") == "plain"
    assert parts(PLAIN + " \r\n", HTML + "<p>html", kind="alternative") == "html"
    assert parts(HTML + "<p>body", PLAIN + "a list's footer") == "body"
    attached = "Content-Disposition: attachment; filename=a.txt\r\n"
    assert parts(f"Content-Type: text/plain\r\n{attached}\r\nattached", PLAIN + "body") == "body"
    assert parts("Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR", PLAIN + "body") == "body"
    assert parts("Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1") == ""
    assert parts(f"Content-Type: message/rfc822\r\n\r\n{PLAIN}forwarded") == "forwarded"


@pytest.mark.parametrize(
    "piece", ["<", "<p>", "<b ", "<!--", "<style>", "<style></style>", "&amp", "<a <", ">\n", "=3D", "\0"]
)
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_hostile_texts_cost_little(piece: str, kind: str) -> None:
    """A megabyte of it costs no more than what is looked at."""
    root = Message(f"Content-Type: text/{kind}\r\n\r\n{piece * (1_000_000 // len(piece))}".encode()).root
    started = time.thread_time()
    preview(root)
    assert time.thread_time() - started < 0.1


def test_many_parts_share_one_allowance() -> None:
    root = Message(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        + b"--b\r\nContent-Type: text/html\r\n\r\n" * 1
        + b"".join(b"--b\r\nContent-Type: text/html\r\n\r\n" + b"<p>" * 10_000 + b"\r\n" for _ in range(60))
        + b"--b--\r\n"
    ).root
    started = time.thread_time()
    assert preview(root) == ""
    assert time.thread_time() - started < 0.2


def test_it_is_a_string_of_imap() -> None:
    assert rendered(Message(b'\r\nsay "\\"\r\n').root) == b'"say \\"\\\\\\""'
    assert rendered(Message(b"\r\n").root) == b'""'
    assert rendered(Message(f"{PLAIN}\u00e9\r\n".encode()).root) == "{2}\r\n\u00e9".encode()


# -- where it is kept ------------------------------------------------------------------------------------------------------------

TEXT = b"Subject: x\r\nContent-Type: text/plain\r\n\r\nFirst words\r\n"


@pytest.mark.parametrize("kind", ["memory", "maildir", "mbox"])
def test_the_index_keeps_it(tmp_path: Path, kind: str) -> None:
    clock, ids = SystemClock(), SystemIds()
    store: MemoryStore | MaildirStore | MboxStore
    if kind == "memory":
        store = MemoryStore(clock, ids, lambda account: 0)
    elif kind == "mbox":
        store = MboxStore(tmp_path, "h", lambda account: 0, clock, ids)
    else:
        store = MaildirStore(tmp_path, "h", "lf", lambda account: 0, clock, ids)
    account: AccountStore = store.account("ann@example.org")
    account.deliver("INBOX", NewMessage(TEXT, key=b"k"))
    account.append("INBOX", [NewMessage(TEXT, ("\\Seen",))])
    account.create("b")
    account.copy("INBOX", [1], "b")
    account.move("INBOX", [2], "b")
    assert account.fields("INBOX", [1], ("preview",)) == [(1, b'"First words"')]
    assert [value for _, value in account.fields("b", [1, 2], ("preview",))] == [b'"First words"'] * 2
    assert account.rows("INBOX", [1], cold=True)[0].preview == b'"First words"'
    store.close()


def test_an_index_of_before_is_taken_over(tmp_path: Path) -> None:
    def opened() -> MaildirStore:
        return MaildirStore(tmp_path, "h", "crlf", lambda account: 0, SystemClock(), SystemIds())

    store = opened()
    store.account("ann@example.org").append("INBOX", [NewMessage(TEXT), NewMessage(TEXT)])
    store.close()
    path = tmp_path / "example.org" / "ann" / ".filterd" / "index.db"
    with sqlite3.connect(path) as database:
        database.execute("alter table cold drop column preview")
        database.execute("pragma user_version=2")
    database.close()
    store = opened()
    account = store.account("ann@example.org")
    (third,) = account.append("INBOX", [NewMessage(TEXT)])
    found = account.fields("INBOX", [1, 2, third.uid], ("preview",))
    assert found == [(1, b""), (2, b""), (third.uid, b'"First words"')]
    uids = [1, 2, third.uid]
    kept = [value for _, value in found if isinstance(value, bytes)]
    block = col.Block(
        range(1, 4), uids, [0] * 3, {"preview": kept}, FlagTable(()), lambda uid: account.read("INBOX", uid)
    )
    assert col.PREVIEW.values(block) == [b'"First words"'] * 3  # two of them are read for it

    def unread(uid: int) -> bytes | None:
        raise AssertionError("what is kept is told without the message")

    new = col.Block(range(3, 4), uids[2:], [0], {"preview": kept[2:]}, FlagTable(()), unread)
    assert col.PREVIEW.values(new) == [b'"First words"']
    assert col.LAZY_PREVIEW.values(block) == [b"NIL", b"NIL", b'"First words"']
    store.close()
