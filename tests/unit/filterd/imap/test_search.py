"""SEARCH, SORT, THREAD."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from filterd.imap import subject
from filterd.store.base import NewMessage
from filterd.store.memory import MemoryAccount

from .conftest import NOW, Client, message

Connect = Callable[..., Client]

DAY = 86_400
HTML = (
    b'From: "O\'Brien, Zo\xc3\xab" <zoe@example.com>\r\nTo: list@example.org\r\nCc: <carl@example.org>\r\n'
    b"Subject: =?iso-8859-1?q?Stra=DFe_nach?=\r\n =?utf-8?b?w5xtbMOkdXQ=?=\r\nDate: 31 Dec 2025 23:30:00 -0800\r\n"
    b"X-Odd: needle in a haystack\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=q\r\n\r\n"
    b"--q\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"Caf=E9 au lait, soft=\r\nbreak\r\n--q\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"PHA+5Y+w5YyXPC9wPg==\r\n--q--\r\n"
)


@pytest.fixture
def client(connect: Connect, account: MemoryAccount) -> Client:
    account.append(
        "INBOX",
        [
            NewMessage(message(1, "alpha beta\r\n"), ("\\Seen",), NOW - 10 * DAY),
            NewMessage(
                message(2, "gamma\r\n", Subject="Re: Subject 1"), ("\\Flagged", "$work"), NOW - 5 * DAY
            ),
            NewMessage(HTML, (), NOW - 60),
            NewMessage(
                message(4, "x" * 5000 + "\r\n", Bcc="hidden@example.org"),
                ("\\Seen", "\\Deleted"),
                NOW - 2 * DAY,
            ),
        ],
    )
    return connect()


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("ALL", "1 2 3 4"),
        ("SEEN", "1 4"),
        ("UNSEEN", "2 3"),
        ("NOT SEEN", "2 3"),
        ("OR SEEN FLAGGED", "1 2 4"),
        ('OR SEEN OR FLAGGED SUBJECT "straße"', "1 2 3 4"),
        ('SUBJECT "STRASSE"', "3"),  # ss finds what is written with a sharp s
        ("KEYWORD $WORK", "2"),
        ("UNKEYWORD $work", "1 3 4"),
        ("KEYWORD none", ""),
        ("UNKEYWORD none", "1 2 3 4"),
        ("DELETED SEEN", "4"),
        ("(DELETED SEEN)", "4"),
        ("NEW", ""),
        ("OLD", "1 2 3 4"),
        ("RECENT", ""),
        ("2:3", "2 3"),
        ("*", "4"),
        ("7:9", ""),
        ("UID 3:*", "3 4"),
        ("UID 9:*", "4"),
        ("LARGER 4000", "4"),
        ("SMALLER 4000", "1 2 3"),
        ('FROM "ann1"', "1"),
        ("FROM ANN", "1 2 4"),
        ('FROM "zoë"', "3"),
        ("SUBJECT STRASSE", "3"),
        ('SUBJECT "nachümläut"', "3"),  # RFC 2047 6.2: the blank between encoded words is not shown
        ("TO list", "3"),
        ("CC carl", "3"),
        ("BCC hidden", "4"),
        ('HEADER X-Odd ""', "3"),
        ("HEADER X-Odd haystack", "3"),
        ("HEADER Message-ID m2@", "2"),
        ("HEADER x-none y", ""),
        ('BODY "CAFÉ"', "3"),
        ("BODY softbreak", "3"),
        ('BODY "台北"', "3"),
        ('BODY "台"', "3"),
        ("BODY haystack", ""),
        ("TEXT haystack", "3"),
        ("TEXT gamma", "2"),
        ('BODY ""', "1 2 3 4"),
        ("SENTON 31-Dec-2025", "3"),
        ("SENTBEFORE 1-Jan-2026", "3"),
        ("SENTSINCE 1-Jan-2026", "1 2 4"),
        ("SINCE 13-Jan-2027", "3 4"),
        ("BEFORE 13-Jan-2027", "1 2"),
        ("ON 13-Jan-2027", "4"),
        ("YOUNGER 120", "3"),
        ("OLDER 120", "1 2 4"),
        ("SAVEDSINCE 1-Jan-2027", "1 2 3 4"),
        ("SAVEDATESUPPORTED", "1 2 3 4"),
        ("NOT (OR FROM ann1 FROM ann2) NOT DELETED", "3"),
        ('CHARSET utf-8 SUBJECT "ümläut"', "3"),
    ],
)
def test_keys(client: Client, keys: str, found: str) -> None:
    assert client.ok(f"SEARCH {keys}") == [f"* SEARCH {found}".rstrip()]


def test_charsets(client: Client) -> None:
    assert client.ok(b"SEARCH CHARSET ISO-8859-1 BODY caf\xe9".replace(b"caf\xe9", b"{4+}\r\ncaf\xe9")) == [
        "* SEARCH 3"
    ]
    assert client("SEARCH CHARSET x-none ALL")[-1].startswith("NO [BADCHARSET (")
    assert client(b"SEARCH SUBJECT {1+}\r\n\xff")[-1].startswith("BAD")


def test_extended(client: Client) -> None:
    assert client.ok("SEARCH RETURN () UNSEEN") == ['* ESEARCH (TAG "t3") ALL 2:3']
    assert client.ok("UID SEARCH RETURN (MIN MAX COUNT) ALL") == [
        '* ESEARCH (TAG "t4") UID MIN 1 MAX 4 COUNT 4'
    ]
    assert client.ok("SEARCH RETURN (COUNT ALL) KEYWORD x") == ['* ESEARCH (TAG "t5") COUNT 0']
    assert client.ok("SEARCH RETURN (PARTIAL -1:-2) ALL") == ['* ESEARCH (TAG "t6") PARTIAL (-1:-2 3:4)']
    assert client.ok("SEARCH RETURN (PARTIAL 9:10) ALL") == ['* ESEARCH (TAG "t7") PARTIAL (9:10 NIL)']


def test_saved_result(client: Client) -> None:
    assert client.ok("SEARCH RETURN (SAVE) UNSEEN") == []
    assert client.ok("FETCH $ UID") == ["* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)"]
    assert client.ok("SEARCH $ FLAGGED") == ["* SEARCH 2"]
    client.ok("SEARCH RETURN (SAVE MIN) ALL")
    assert client.ok("UID FETCH $ FLAGS")[0].startswith("* 1 FETCH (UID 1 ")
    client.ok("STORE $ +FLAGS.SILENT (\\Deleted)")
    client.ok("UID EXPUNGE $")
    assert client.ok("SEARCH $") == ["* SEARCH"]


def test_modseq(client: Client, account: MemoryAccount) -> None:
    client.ok("STORE 1 -FLAGS (\\Seen)")
    top = account.snapshot("INBOX").modseq
    assert client.ok(f"SEARCH MODSEQ {top}") == [f"* SEARCH 1 (MODSEQ {top})"]
    assert client.ok(f'SEARCH MODSEQ "/flags/\\\\draft" all {top}') == [f"* SEARCH 1 (MODSEQ {top})"]


@pytest.mark.parametrize(
    "keys",
    ["", "FOO", "(ALL", "NOT", "OR ALL", "SINCE 1-1-2020", "LARGER x", "UID", "HEADER X", "RETURN (FOO) ALL", "ALL ALL)", "0",
     "NOT " * 500 + "ALL", "(" * 100 + "ALL" + ")" * 100, "ALL " * 2000 + "ALL", "SUBJECT " + "x" * 5000,
     "RETURN (PARTIAL 1:2 ALL) ALL"],
)  # fmt: skip
def test_bad(client: Client, keys: str) -> None:
    assert client(f"SEARCH {keys}")[-1].startswith("BAD")


def test_sort(client: Client) -> None:
    assert client.ok("SORT (SUBJECT) UTF-8 ALL") == ["* SORT 3 1 2 4"]
    assert client.ok("SORT (REVERSE SIZE) UTF-8 ALL")[0].startswith("* SORT 4")
    assert client.ok("UID SORT (DATE) US-ASCII 1:3") == ["* SORT 3 1 2"]
    assert client.ok("SORT (FROM REVERSE ARRIVAL) UTF-8 ALL") == ["* SORT 1 2 4 3"]
    assert client.ok("SORT (DISPLAYFROM) UTF-8 ALL") == ["* SORT 1 2 4 3"]
    assert client.ok("SORT RETURN (ALL COUNT) (REVERSE ARRIVAL) UTF-8 ALL") == [
        '* ESEARCH (TAG "t8") ALL 3:4,2,1 COUNT 4'
    ]
    for bad in ("SORT () UTF-8 ALL", "SORT (FOO) UTF-8 ALL", "SORT (REVERSE) UTF-8 ALL", "SORT (DATE) ALL"):
        assert client(bad)[-1].startswith(("BAD", "NO [BADCHARSET")), bad


def test_thread(connect: Connect, account: MemoryAccount) -> None:
    def mail(number: int, subject: str, references: str = "") -> NewMessage:
        return NewMessage(message(number, Subject=subject, References=references))

    account.append(
        "INBOX",
        [
            mail(1, "one"),
            mail(2, "Re: one", "<m1@example.org>"),
            mail(3, "other"),
            mail(4, "Re: one", "<m1@example.org> <m2@example.org>"),
            mail(5, "Re: one", "<m1@example.org>"),
            mail(6, "lost", "<unknown@example.org>"),
            mail(7, "Re: lost child", "<unknown@example.org>"),
        ],
    )
    client = connect()
    assert client.ok("THREAD REFERENCES UTF-8 ALL") == ["* THREAD (1 (2 4)(5))(3)((6)(7))"]
    assert client.ok("UID THREAD REFS UTF-8 1:3") == ["* THREAD (1 2)(3)"]
    assert client.ok("THREAD ORDEREDSUBJECT UTF-8 ALL") == ["* THREAD (1 (2)(4)(5))(3)(6)(7)"]
    assert client.ok("THREAD REFERENCES UTF-8 UNDELETED SEEN") == ["* THREAD"]
    assert client("THREAD FOO UTF-8 ALL")[-1].startswith("BAD")


def test_a_circle_of_references_does_no_harm(connect: Connect, account: MemoryAccount) -> None:
    account.append(
        "INBOX",
        [
            NewMessage(message(1, References="<m2@example.org>")),
            NewMessage(message(2, References="<m1@example.org>")),
            NewMessage(message(1)),
            NewMessage(
                message(
                    3, Message_ID="<m3@example.org>", References=" ".join(f"<r{n}@x>" for n in range(3000))
                )
            ),
        ],
    )
    (line,) = connect().ok("THREAD REFERENCES UTF-8 ALL")
    assert sorted(int(word) for word in line.replace("(", " ").replace(")", " ").split()[2:]) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("Re: hello", "hello"), ("RE: Fwd: [list] hello (fwd)", "hello"), ("[fwd: Re: x]", "x"), ("[list]", "[list]"),
        ("Re[2]: a\t b", "a b"), ("fw: x", "x"), ("re: re: re:", ""), ("Regards", "Regards"), ("[a] [b] c", "c"),
        ("(fwd) (fwd)", ""),
    ],
)  # fmt: skip
def test_base_subject(text: str, base: str) -> None:
    assert subject.base(text)[0] == base


def test_threads_of_ids_in_different_quotes(connect: Connect, account: MemoryAccount) -> None:
    """RFC 5256 3: quoted or not, it is the same id; a quoted word may have blanks."""
    account.append(
        "INBOX",
        [
            NewMessage(b'Message-ID: <"1.a"@c>\r\nSubject: one\r\n\r\n'),
            NewMessage(b'Message-ID: <"2 b"@c>\r\nReferences: <1.a@c>\r\nSubject: two\r\n\r\n'),
            NewMessage(b'Message-ID: <3@c>\r\nReferences: <1.a@c> <"2\\ b"@c>\r\nSubject: three\r\n\r\n'),
        ],
    )
    assert connect().ok("THREAD REFERENCES UTF-8 ALL") == ["* THREAD (1 2 3)"]
