"""filterd-sendmail beside Postfix's sendmail and Exim's: the same words and the same input; what arrives at the next hop (envelope
with its DSN parameters, header, body) and whether the command says yes must agree. A difference is listed with its reason.

Each case writes to addresses below a domain of its own (%s in words and text), by which its messages are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests import eximlab, sendmaillab
from tests.e2e.server import wait_for
from tests.milterlab import needs_postfix
from tests.sendmaillab import Ended, Told

pytestmark = [pytest.mark.peer, pytest.mark.slow, needs_postfix]

PLAIN = b"Subject: s\n\nbody\n"
DOTS = b"Subject: s\n\none\n.\n..two\n"
FULL = b"From: Me <me@home.example>\nTo: a@%s, B <b@%s>\nCc: c@%s\nBcc: d@%s\nSubject: s\n\nbody\n"
NO_DSN = {"exim": "it has no DSN by this flag"}
NO_SUCH = {"exim": "it does not know the flag"}
NAMED = {"exim": "it takes the full name only for a sender that is the user himself"}
LIST = "owner-list@home.example"


@dataclass(frozen=True)
class Case:
    """``but``: peer -> why it does otherwise; Exim is then not asked (many a flag makes it a daemon)."""

    name: str
    words: tuple[str, ...]
    text: bytes = PLAIN
    but: dict[str, str] = field(default_factory=dict)


def case(name: str, words: str | tuple[str, ...], text: bytes = PLAIN, **but: str) -> Case:
    return Case(name, tuple(words.split()) if isinstance(words, str) else words, text, but)


def ignored(flag: str, **but: str) -> Case:
    return case(f"ignored{flag.replace(' ', '_')}", f"{flag} a@%s", **but)


CASES = [
    case("plain", "a@%s"),
    case("several", "a@%s b@%s"),
    case("twice", "a@%s a@%s"),
    case("list_in_a_word", ("a@%s,b@%s",)),
    case("list_with_blanks", ("a@%s, b@%s",)),
    case("with_a_name", ("Ann <a@%s>",)),
    case("with_a_comment", ("(c) a@%s",)),
    case("angle", ("<a@%s>",)),
    case("quoted", ('"a b"@%s',)),
    case("after_two_dashes", "-- a@%s"),
    case("none", ""),
    case("from_header", "-t", FULL),
    case("from_header_and_words", "-t e@%s", FULL, exim="words given with -t are taken off"),
    case("clustered", "-ti", FULL),
    case("header_none", "-t", b"Subject: none\n\nx\n"),
    case("header_group", "-t", b"To: team: a@%s, b@%s;\nSubject: s\n\nx\n"),
    case("header_undisclosed", "-t", b"To: undisclosed-recipients:;\nBcc: z@%s\nSubject: s\n\nx\n"),
    case("header_odd_case", "-t", b"TO: a@%s\nbCC:\n z@%s\nSubject: s\n\nx\n", exim="it folds otherwise"),
    case("header_twice", "-t", b"To: a@%s\nTo: b@%s\nSubject: s\n\nx\n"),
    case("header_names", "-t", b'To: "Doe, J" <b@%s>, =?utf-8?q?J=C3=B6rg?= <a@%s>\n\nx\n'),
    case("header_by_blanks", "-t", b"To: a@%s b@%s\n\nx\n", exim="it refuses"),
    case("header_resent", "-t", b"Resent-To: r@%s\nResent-Bcc: s@%s\nDate: x\nMessage-ID: <x@y>\n" + FULL,
         exim="it leaves the Bcc of the first sending"),
    case("dot_ends", "a@%s", DOTS),
    case("dot_ends_crlf", "a@%s", DOTS.replace(b"\n", b"\r\n")),
    case("i", "-i a@%s", DOTS),
    case("oi", "-oi a@%s", DOTS),
    case("o_i", "-o i a@%s", DOTS, **NO_SUCH),
    case("f", "-f q@p.example a@%s", **NAMED),
    case("f_attached", "-fq@p.example a@%s", **NAMED),
    case("f_angle", "-f <q@p.example> a@%s", **NAMED),
    case("f_with_a_name", ("-f", "Name <q@p.example>", "a@%s"), **NAMED),
    case("f_bare", "-f root a@%s", exim="its From has no name then"),
    case("r", "-r q@p.example a@%s", **NAMED),
    case("f_null", "-f <> a@%s", postfix="From: MAILER-DAEMON; we name the user", exim="no From at all"),
    case("F", ("-F", "Full Name", "a@%s")),
    case("F_odd", ("-FFull.Name (x)", "a@%s"), exim="it quotes otherwise"),
    case("F_with_from", ("-F", "Full Name", "a@%s"), b"From: Me <me@home.example>\n\nx\n"),
    case("cron", "-i -FCronDaemon -odi -oem -oi -t -f root",
         b"From: root (Cron Daemon)\nTo: a@%s\nSubject: Cron\nContent-Type: text/plain\n\nout\n"),
    case("php", "-t -i -fwww@home.example", b"To: a@%s\r\nSubject: php\r\nFrom: x@y.example\r\n\r\nbody\r\nline\r\n"),
    case("php_mixed", "-t -i -fwww@home.example", b"To: a@%s\r\nSubject: php\r\nFrom: x@y.example\n\nbody\r\nline\n",
         exim="its header keeps the CR"),
    case("bare_names", "a@%s", b"From: root\nSender: <bob>\nReply-To: \"j\" <j>, k\nSubject: s\n\nx\n",
         exim="it writes root's full name into From"),
    case("return_path", "a@%s", b"Return-Path: <evil@x>\nReply-To: r@q.example\nSubject: s\n\nx\n"),
    case("nothing", "a@%s", b""),
    case("body_only", "a@%s", b"\nbody only\n"),
    case("body_without_header", "a@%s", b"body without header\n"),
    case("mbox_line", "a@%s", b"From me@x Mon Nov  1 10:00:00 2020\nSubject: s\n\nbody\n", exim="it believes the line"),
    case("quoted_mbox_line", "a@%s", b">From me@x Mon Nov  1\nSubject: s\n\nbody\n", exim="it is body to it"),
    case("header_that_breaks_off", "a@%s", b"Subject: s\nno colon here\n\nbody\n"),
    case("no_last_line_end", "a@%s", b"Subject: s\n\nbody"),
    case("only_header", "a@%s", b"Subject: only header\n"),
    case("eight_bit", "-B8BITMIME a@%s", "Subject: s\n\nä\n".encode()),
    case("seven_bit", "-B 7BIT a@%s"),
    case("B_wrong", "-B 9BIT a@%s", exim="it takes anything"),
    case("N_never", "-N never a@%s", **NO_DSN),
    case("N_all", "-N success,failure,delay a@%s", **NO_DSN),
    case("N_attached", "-Nfailure a@%s", **NO_SUCH),
    case("R_hdrs", "-R hdrs a@%s", **NO_DSN),
    case("R_full", "-Rfull a@%s", **NO_DSN),
    case("V", ("-V", "env id+=", "a@%s"), **NO_DSN),
    case("XV", f"-XV -f {LIST} a@%s b@%s", exim="no VERP"),
    case("XV_signs", f"-XV=- -f {LIST} a@%s", exim="no VERP"),
    case("XV_wrong", f"-XVab -f {LIST} a@%s", exim="no VERP"),
    *map(ignored, ("-Am -Ac -bm -m", "-odb -odi -odq", "-oem -oep -oeq -oee -oew", "-om -oo -em -x -U",
                   "-L tag -h 5 -O DeliveryMode=b -ODeliveryMode=b")),
    ignored("-o7 -o8 -oNnever", **NO_SUCH),
    ignored("-n", postfix="it does not know the flag"),
    ignored("-X /dev/null", postfix="it knows -XV only"),
    ignored("-v"),
    ignored("-G", postfix="it adds no fields", exim="it adds no fields"),
    case("unknown_flag", "-Z a@%s"),
    case("no_value", "-f"),
    case("bh", "-bh", b"", **NO_SUCH),
    case("bH", "-bH", b"", **NO_SUCH),
    case("bz", "-bz", b""),
    case("bi", "-bi", b""),
    case("I", "-I", b"", **NO_SUCH),
    case("bi_of_a_missing_file", "-oA/nonexistent/aliases -bi", b"", exim="it has no alias database"),
    case("q", "-q", b"", exim="it would send, before its turn"),
    case("q_interval", "-q30m", b"", exim="it becomes a daemon"),
    case("qI", "-qIABC", b"", exim="it reads an interval"),
]  # fmt: skip


Outcome = tuple[Ended, tuple[Told, ...]]


def outcomes(box: sendmaillab.Ours | sendmaillab.Postfix | sendmaillab.Exim, name: str) -> dict[str, Outcome]:
    """All cases, one after the other, then waited for once."""
    ended: dict[str, Ended] = {}
    for number, one in enumerate(CASES):
        if name == "exim" and name in one.but:
            continue
        domain = f"c{number}.example"
        words = [word.replace("%s", domain) for word in one.words]
        ended[one.name] = box.run(words, one.text.replace(b"%s", domain.encode()))
    wait_for(lambda: not box.waiting(), 200, f"{name}'s queue to be empty")
    found: dict[str, Outcome] = {}
    for number, one in enumerate(CASES):
        if one.name in ended:
            mark = f"@c{number}.example>"
            mine = [told for told in box.sink.told if any(mark in to for to in told.recipients)]
            found[one.name] = ended[one.name], tuple(sorted(mine, key=repr))
    return found


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, Outcome]]:
    box = sendmaillab.Ours()
    try:
        yield outcomes(box, "ours")
    finally:
        box.close()


@pytest.mark.parametrize("name", ["postfix", "exim"])
def test_beside(ours: dict[str, Outcome], name: str) -> None:
    found = eximlab.exim() if name == "exim" else None
    if isinstance(found, str):
        pytest.skip(found)
    box = sendmaillab.Exim(found) if found is not None else sendmaillab.Postfix()
    try:
        theirs = outcomes(box, name)
    finally:
        box.close()
    wrong = []
    for one in CASES:
        if one.name not in theirs:
            continue
        (mine, told), (other, theirs_told) = ours[one.name], theirs[one.name]
        same = (mine.code == 0) == (other.code == 0) and told == theirs_told
        if same == (name in one.but):
            reason = one.but.get(name, "")
            wrong.append(
                f"{one.name} {one.words} {f'is the same now, though listed: {reason}' if same else ''}"
                f"\n  ours {mine}\n    {told}\n  {name} {other}\n    {theirs_told}"
            )
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong)
