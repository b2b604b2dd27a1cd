"""FETCH: items, sections, partials, BINARY, \\Seen, modifiers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount

from .conftest import Client, message

Connect = Callable[..., Client]

INNER = b"Subject: inner\r\nContent-Type: text/plain\r\n\r\ninner text\r\n"
MIXED = (
    b"From: Ann <ann@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Long: a\r\n\tb\r\n"
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\npreamble\r\n'
    b"--b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8AIHdvcmxk\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\n" + INNER + b"\r\n--b\r\nContent-Type: application/x\r\n"
    b"Content-Transfer-Encoding: x-odd\r\n\r\n???\r\n--b--\r\n"
)


@pytest.fixture
def client(connect: Connect, account: MemoryAccount) -> Client:
    account.append("INBOX", [NewMessage(MIXED, date=1_700_000_000), NewMessage(message(2), ("\\Seen",))])
    return connect()


def section(client: Client, item: str) -> bytes | None:
    """The literal that FETCH 1 answers for one item."""
    out = "\r\n".join(client(f"FETCH 1 {item}")).encode("utf-8", "surrogateescape")
    if b" NIL)" in out:
        return None
    head, _, rest = out.partition(b"}\r\n")
    size = int(head.rpartition(b"{")[2])
    assert rest[size:].startswith((b")", b" FLAGS", b" UID")), out
    return rest[:size]


def test_sections(client: Client) -> None:
    header = MIXED[: MIXED.index(b"\r\n\r\n") + 4]
    assert section(client, "BODY.PEEK[]") == MIXED
    assert section(client, "RFC822.HEADER") == header
    assert section(client, "BODY.PEEK[HEADER]") == header
    assert section(client, "BODY.PEEK[TEXT]") == MIXED[len(header) :]
    assert section(client, "BODY.PEEK[1]") == b"aGVsbG8AIHdvcmxk"
    assert section(client, "BODY.PEEK[1.MIME]") == (
        b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    )
    assert section(client, "BODY.PEEK[2]") == INNER
    assert section(client, "BODY.PEEK[2.HEADER]") == INNER[: INNER.index(b"inner text")]
    assert section(client, "BODY.PEEK[2.TEXT]") == b"inner text\r\n"
    assert section(client, "BODY.PEEK[2.1]") == b"inner text\r\n"
    assert section(client, "BODY.PEEK[2.HEADER.FIELDS (SUBJECT)]") == b"Subject: inner\r\n\r\n"
    assert section(client, "BODY.PEEK[9]") is None
    assert section(client, "BODY.PEEK[1.HEADER]") is None
    assert section(client, "BODY.PEEK[HEADER.FIELDS (x-long)]") == b"X-Long: a\r\n\tb\r\n\r\n"
    assert section(client, "BODY.PEEK[HEADER.FIELDS (Subject from)]") == (
        b"From: Ann <ann@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n"
    )
    assert section(client, "BODY.PEEK[HEADER.FIELDS.NOT (Subject From X-Long Content-Type)]") == (
        b"MIME-Version: 1.0\r\n\r\n"
    )
    assert section(client, "BODY.PEEK[HEADER.FIELDS (X-None)]") == b"\r\n"


def test_partial(client: Client) -> None:
    assert client.ok("FETCH 1 BODY.PEEK[]<5.3>") == [
        "* 1 FETCH (BODY[]<5> {3}",
        " An)".replace(" An", MIXED[5:8].decode()),
    ]
    assert section(client, f"BODY.PEEK[]<{len(MIXED) - 2}.100>") == b"\r\n"
    assert section(client, "BODY.PEEK[]<1000000.10>") == b""
    assert section(client, "BODY.PEEK[HEADER.FIELDS (FROM)]<0.4>") == b"From"
    assert client("FETCH 1 BODY[]<0.0>")[-1].startswith("BAD")


def test_binary(client: Client) -> None:
    assert client.ok("FETCH 1 BINARY.PEEK[1]") == ["* 1 FETCH (BINARY[1] ~{12}", "hello\0 world)"]
    assert client.ok("FETCH 1 BINARY.PEEK[1]<6.3>") == ["* 1 FETCH (BINARY[1]<6> {3}", " wo)"]
    assert client.ok("FETCH 1 BINARY.SIZE[1]") == ["* 1 FETCH (BINARY.SIZE[1] 12)"]
    assert client("FETCH 1 BINARY.PEEK[3]")[-1].startswith("NO [UNKNOWN-CTE]")
    # a refused item behind others: not half a line
    answer = client("FETCH 1 (BODY.PEEK[HEADER.FIELDS (FROM)] BODY.PEEK[9] BINARY.PEEK[3])")
    assert len(answer) == 1 and answer[0].startswith("NO [UNKNOWN-CTE]")


def test_pieces_of_one_message_that_overlap_are_not_gathered(
    connect: Connect, account: MemoryAccount
) -> None:
    account.append("INBOX", [NewMessage(b"Subject: x\r\n\r\n" + b"a" * 1_000_000)])
    client = connect()
    for word in ("BODY.PEEK[]", "BODY.PEEK[TEXT]", "BINARY.PEEK[1]"):
        pieces = [f"{word}<{first}.900000>" for first in range(10)]
        assert client(f"FETCH 1 ({' '.join(pieces)})") == ["NO [LIMIT] Ask for less of one message at once"]
        assert len(client.ok(f"FETCH 1 ({' '.join(pieces[:3])})")) > 3


def test_seen(client: Client) -> None:
    lines = client.ok("FETCH 1 BODY[TEXT]<0.1>")
    assert lines == ["* 1 FETCH (FLAGS (\\Seen) BODY[TEXT]<0> {1}", "p)"]
    assert client.ok("NOOP") == []
    assert client.ok("FETCH 2 (FLAGS BODY[TEXT]<0.1>)")[0].startswith(
        "* 2 FETCH (FLAGS (\\Seen) BODY[TEXT]<0>"
    )


def test_macros_and_items(client: Client) -> None:
    (line,) = client.ok("FETCH 2 ALL")
    for item in ("FLAGS (\\Seen)", "INTERNALDATE ", "RFC822.SIZE ", "ENVELOPE ("):
        assert item in line
    assert "BODY (" in client.ok("FETCH 2 FULL")[0]
    assert "ENVELOPE" not in client.ok("FETCH 2 FAST")[0]
    (line,) = client.ok("FETCH 1 (INTERNALDATE RFC822.SIZE UID UID)")
    assert line == f'* 1 FETCH (INTERNALDATE "14-Nov-2023 22:13:20 +0000" RFC822.SIZE {len(MIXED)} UID 1)'
    assert client.ok("FETCH 1 (EMAILID THREADID)")[0].startswith("* 1 FETCH (EMAILID (E")
    assert client.ok("FETCH 2 PREVIEW") == ['* 2 FETCH (PREVIEW "Body 2")']
    assert client.ok("FETCH 2 (PREVIEW (LAZY))") == ['* 2 FETCH (PREVIEW "Body 2")']


@pytest.mark.parametrize(
    "arguments",
    [
        "1", "1 ()", "1 FOO", "1 (FLAGS", "1 BODY[", "1 BODY[0]", "1 BODY[MIME]", "1 BODY[1.]", "1 BODY[HEADER.FIELDS ()]",
        "1 BODY[HEADER.FIELDS (a b)", "0 FLAGS", "3 FLAGS", "* * FLAGS", "1 (FAST FLAGS)", "1 BODY[1.HEADER.FIELDS]",
        "1 BODY[" + "1." * 200 + "1]", "1 FLAGS (VANISHED)", "1 FLAGS (PARTIAL 1:2)", "1 (" + "FLAGS " * 200 + "FLAGS)",
    ],
)  # fmt: skip
def test_bad(client: Client, arguments: str) -> None:
    assert client(f"FETCH {arguments}")[-1].startswith("BAD"), arguments


def test_an_empty_mailbox(connect: Connect) -> None:
    client = connect()
    assert client("UID FETCH 1:* FLAGS") == ["OK FETCH completed"]
    assert client("SEARCH 1:*") == ["* SEARCH", "OK SEARCH completed"]


def test_huge_ranges_cost_nothing(client: Client) -> None:
    assert len(client.ok("UID FETCH 1:4294967295 FLAGS")) == 2
    assert len(client.ok("UID FETCH 4000000000:4294967295 FLAGS")) == 0
    assert len(client.ok("UID FETCH 4294967295:* FLAGS")) == 1


def test_condstore_and_qresync(connect: Connect, account: MemoryAccount) -> None:
    account.append("INBOX", [NewMessage(message(number)) for number in range(5)])
    client = connect(enable="QRESYNC")
    since = account.snapshot("INBOX").modseq
    uidvalidity = account.info("INBOX").uidvalidity
    other = connect()
    other.ok("STORE 2 +FLAGS (\\Seen)")
    other.ok("STORE 4 +FLAGS (\\Deleted)")
    other.ok("EXPUNGE")
    account.append("INBOX", [NewMessage(message(9))])
    client.ok("NOOP")
    lines = client.ok(f"UID FETCH 1:* FLAGS (CHANGEDSINCE {since} VANISHED)")
    assert lines[0] == "* VANISHED (EARLIER) 4"
    assert [line.split(" FLAGS")[0] for line in lines[1:]] == ["* 2 FETCH (UID 2", "* 5 FETCH (UID 6"]
    lines = client.ok(f"SELECT INBOX (QRESYNC ({uidvalidity} {since} 1:5))")
    assert "* VANISHED (EARLIER) 4" in lines
    assert any(line.startswith("* 2 FETCH (UID 2 FLAGS (\\Seen) MODSEQ (") for line in lines)
    assert not any("UID 6 " in line for line in lines)  # not among the known
    lines = client.ok(f"SELECT INBOX (QRESYNC ({uidvalidity + 1} {since}))")
    assert not any("VANISHED" in line for line in lines)
    plain = connect()
    assert plain("SELECT INBOX (QRESYNC (1 1))")[-1].startswith("BAD")
    assert len(plain.ok(f"FETCH 1:* UID (CHANGEDSINCE {since})")) == 2


def test_partial_modifier(connect: Connect, fill: Callable[..., None]) -> None:
    fill(9)
    client = connect()
    assert [line.split()[1] for line in client.ok("UID FETCH 1:* FLAGS (PARTIAL -1:-3)")] == ["7", "8", "9"]
    assert [line.split()[1] for line in client.ok("UID FETCH 3:* FLAGS (PARTIAL 2:3)")] == ["4", "5"]
    assert client.ok("UID FETCH 1:* FLAGS (PARTIAL 20:30)") == []


def test_nul_never_reaches_a_plain_literal(connect: Connect, account: MemoryAccount) -> None:
    account.append("INBOX", [NewMessage(b"Subject: a\0b\r\n\r\nx\0y\r\n")])
    client = connect()
    assert b"\0" not in client.raw(b"a FETCH 1 (BODY.PEEK[] BODY.PEEK[HEADER.FIELDS (SUBJECT)] ENVELOPE)\r\n")


def test_a_header_without_end(connect: Connect, account: MemoryAccount) -> None:
    account.append("INBOX", [NewMessage(b"Subject: x")])
    client = connect()
    assert section(client, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]") == b"Subject: x\r\n\r\n"
    assert section(client, "BODY.PEEK[HEADER.FIELDS.NOT (TO)]") == b"Subject: x\r\n\r\n"
    assert section(client, "BODY.PEEK[HEADER]") == b"Subject: x"
