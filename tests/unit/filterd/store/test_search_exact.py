"""SEARCH over the Maildir store with all its indexes finds what reading and decoding every message finds."""

from __future__ import annotations

import base64
import quopri
import random
from typing import TYPE_CHECKING

from filterd.accounts.directory import Account
from filterd.imap.config import ImapServerConfig
from filterd.imap.session import Authenticate, Session
from filterd.imap.work import IdleWork, Work
from filterd.store.base import AccountStore, NewMessage
from rules.comparator import search_form
from rules.mail import words as encoded
from rules.mail.message import Message

if TYPE_CHECKING:
    from tests.unit.filterd.store.conftest import World

WORDS = [
    "invoice",
    "tomorrow",
    "Straße",
    "GROẞ",
    "İstanbul",
    "naïve",
    "x",
    "é",
    "日本語",
    "会議",
    "東京",
    "中文",
    "한국어",
]
WORDS += ["Привет", "мир", "ﬁnal", "ǅ", "a=b", "100%", "meeting", "Re:", "<b>", "ａｂｃ"]
KEYS = ("TEXT", "BODY", "SUBJECT", "FROM", "TO", "CC", "BCC")
QUERIES = 1000


def part(pick: random.Random, depth: int = 0) -> bytes:
    text = " ".join(pick.choices(WORDS, k=pick.randint(0, 25)))
    charset = pick.choice(["utf-8", "utf-8", "iso-8859-1", "iso-2022-jp", "gb18030", "utf-16"])
    data = text.encode(charset, "replace")
    kind = pick.choice(["text/plain", "text/html", "application/octet-stream"])
    if depth < 2 and pick.random() < 0.2:
        return b"Content-Type: message/rfc822\r\n\r\n" + message(pick, depth + 1)
    coding = pick.choice(["base64", "quoted-printable"])
    body = base64.encodebytes(data) if coding == "base64" else quopri.encodestring(data)
    head = f'Content-Type: {kind}; charset={charset}; name="{encode(pick, pick.choice(WORDS))}"\r\n'
    return (head + f"Content-Transfer-Encoding: {coding}\r\n\r\n").encode() + body.replace(b"\n", b"\r\n")


def encode(pick: random.Random, text: str) -> str:
    charset = pick.choice(["utf-8", "gb18030"])
    match pick.randint(0, 2):
        case 0:
            return f"=?{charset}?b?{base64.b64encode(text.encode(charset)).decode()}?="
        case 1:
            data = "".join(f"={octet:02X}" for octet in text.encode(charset))
            return f"=?{charset}?q?{data}?="
        case _:
            return text


def message(pick: random.Random, depth: int = 0) -> bytes:
    head = ""
    for name in ("From", "To", "Cc", "Bcc", "Subject"):
        for _ in range(pick.choice([0, 1, 1, 1, 2])):
            value = "\r\n ".join(encode(pick, word) for word in pick.choices(WORDS, k=pick.randint(1, 4)))
            head += f"{name}: {value}\r\n"
    if pick.random() < 0.5:
        return head.encode() + part(pick, depth)
    parts = b"".join(b"--b%d\r\n" % depth + part(pick, depth) + b"\r\n" for _ in range(pick.randint(1, 3)))
    return (
        head.encode()
        + b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n" % depth
        + parts
        + b"--b%d--\r\n" % depth
    )


class Driver:
    """A session's core over a store."""

    def __init__(self, world: World, account: AccountStore) -> None:
        self.account = account
        self.session = Session(ImapServerConfig(), world.clock, tls=True)
        self("LOGIN ann@example.org pw")
        self("SELECT INBOX")

    def __call__(self, command: str) -> bytes:
        self.session.receive_data(b"t " + command.encode() + b"\r\n")
        out = b""
        while (event := self.session.next_event()) is not None:
            out += self.session.data_to_send()
            if isinstance(event, Authenticate):
                self.session.authenticated(Account("ann@example.org"))
            elif isinstance(event, (Work, IdleWork)):
                while not event.done:
                    out += b"".join(event.step(self.account))
                self.session.work_done(event)
        return out + self.session.data_to_send()

    def search(self, key: str, needle: str) -> set[int]:
        octets = needle.encode()
        out = self(f"UID SEARCH CHARSET UTF-8 {key} {{{len(octets)}+}}\r\n{needle}")
        assert b"t OK" in out, out
        line = next(line for line in out.split(b"\r\n") if line.startswith(b"* SEARCH"))
        return {int(number) for number in line.split()[2:]}


def needle_of(pick: random.Random, texts: list[str]) -> str:
    if pick.random() < 0.1:
        return "".join(pick.choices("qz会x ", k=pick.randint(1, 4)))
    text = pick.choice([text for text in texts if text.strip()])
    start = pick.randrange(len(text))
    found = text[start : start + pick.choice([1, 1, 2, 2, 3, 5, 8, 20])]
    found = pick.choice([found, found.upper(), found.lower(), found.title()])
    return found.replace("\r", "").replace("\n", "").replace("\0", "") or "e"


def test_a_thousand_queries(maildir: World) -> None:
    pick = random.Random(2026)
    account = maildir.account()
    account.append("INBOX", [NewMessage(message(pick)) for _ in range(120)])
    uids = list(account.snapshot("INBOX").uids)
    messages = {uid: Message(account.read("INBOX", uid) or b"") for uid in uids}
    heads = {uid: search_form(each.header_text()) for uid, each in messages.items()}
    bodies = {uid: search_form(each.body_text()) for uid, each in messages.items()}
    fields = {
        (uid, name): [
            search_form(encoded.decode(value)) for value in each.header.get_all(name.lower().encode())
        ]
        for uid, each in messages.items()
        for name in KEYS[2:]
    }
    texts = [each.text_for_search() for each in messages.values()]
    values = [value for several in fields.values() for value in several]
    driver = Driver(maildir, account)
    hits = 0
    for at in range(QUERIES):
        key = KEYS[at % len(KEYS)]
        needle = needle_of(pick, texts if key in ("TEXT", "BODY") else values)
        if at == QUERIES // 2:  # half of them after something came and went
            account.set_flags("INBOX", uids[:5], "add", ["\\Deleted"])
            account.expunge("INBOX")
            driver("NOOP")
            uids = uids[5:]
        folded = search_form(needle)
        if key in ("TEXT", "BODY"):
            wanted = {
                uid for uid in uids if folded in bodies[uid] or (key == "TEXT" and folded in heads[uid])
            }
        else:
            wanted = {uid for uid in uids if any(folded in value for value in fields[uid, key])}
        assert driver.search(key, needle) == wanted, (key, needle)
        hits += bool(wanted)
    assert hits > QUERIES // 2
