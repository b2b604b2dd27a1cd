"""ENVELOPE, BODY, BODYSTRUCTURE and the header cache, as bytes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from filterd.imap.render import (
    NOT_CACHED,
    Projection,
    cached_headers,
    header_lines,
    nstring,
    packed_values,
    render_body,
    render_envelope,
)
from rules.mail.message import Message


def crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def envelope(text: bytes) -> bytes:
    return render_envelope(Message(crlf(text)))


def structure(text: bytes) -> bytes:
    return render_body(Message(crlf(text)))[1]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, b"NIL"),
        (b"", b'""'),
        (b"plain", b'"plain"'),
        (b'say "a\\b"', b'"say \\"a\\\\b\\""'),
        (b"tab\there", b'"tab\there"'),
        ("ä".encode(), b"{2}\r\n\xc3\xa4"),
        (b"a\rb", b"{3}\r\na\rb"),
        (b"nul\0", b"{4}\r\nnul?"),
        (b"x" * 1001, b"{1001}\r\n" + b"x" * 1001),
    ],
)
def test_strings(value: bytes | None, wanted: bytes) -> None:
    assert nstring(value) == wanted


def test_envelope_defaults_and_order() -> None:
    assert envelope(
        b"Date: Mon, 7 Feb 1994 21:52:25 -0800\nSubject: afternoon\n meeting\nFrom: Fred <foobar@blurdybloop.example>\n"
        b"To: mooch@owatagu.example\nMessage-Id: <B27397@blurdybloop.example>\n\n"
    ) == (
        b'("Mon, 7 Feb 1994 21:52:25 -0800" "afternoon meeting" (("Fred" NIL "foobar" "blurdybloop.example")) '
        b'(("Fred" NIL "foobar" "blurdybloop.example")) (("Fred" NIL "foobar" "blurdybloop.example")) '
        b'((NIL NIL "mooch" "owatagu.example")) NIL NIL NIL "<B27397@blurdybloop.example>")'
    )


def test_envelope_without_anything() -> None:
    assert envelope(b"\n") == b"(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (b"a@b", b'((NIL NIL "a" "b"))'),
        (b'"A \\"q\\" B" <a@b>', b'(("A \\"q\\" B" NIL "a" "b"))'),
        (b"=?utf-8?q?J=C3=B6rg?= <a@b>", b'(("=?utf-8?q?J=C3=B6rg?=" NIL "a" "b"))'),
        (b"<@r1,@r2:a@b>", b'((NIL "@r1,@r2" "a" "b"))'),
        (
            b"friends: a@b, C <c@d>;",
            b'((NIL NIL "friends" NIL)(NIL NIL "a" "b")("C" NIL "c" "d")(NIL NIL NIL NIL))',
        ),
        (b"undisclosed-recipients:;", b'((NIL NIL "undisclosed-recipients" NIL)(NIL NIL NIL NIL))'),
        (b"", b"NIL"),
    ],
)
def test_address_lists(field: bytes, wanted: bytes) -> None:
    assert (
        envelope(b"Cc: " + field + b"\n\n").split(b"NIL NIL NIL NIL NIL NIL ", 1)[1]
        == wanted + b" NIL NIL NIL)"
    )


def test_two_fields_of_one_name_are_one_list() -> None:
    assert b'((NIL NIL "a" "b")(NIL NIL "c" "d"))' in envelope(b"To: a@b\nTo: c@d\n\n")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"\n", b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'),
        (
            b"Content-Type: TEXT/Plain; charset=UTF-8\nContent-Transfer-Encoding: quoted-printable\n\na\nb",
            b'("TEXT" "Plain" ("charset" "UTF-8") NIL NIL "quoted-printable" 4 1 NIL NIL NIL NIL)',
        ),
        (
            b'Content-Type: image/png; name="a b.png"\nContent-Id: <1@x>\nContent-Description: a picture\n'
            b'Content-MD5: Q2hlY2s=\nContent-Disposition: attachment; filename="a b.png"; size=4\n'
            b"Content-Language: de, en\nContent-Location: http://x/\nContent-Transfer-Encoding: base64\n\nAAAA\n",
            b'("image" "png" ("name" "a b.png") "<1@x>" "a picture" "base64" 6 "Q2hlY2s=" '
            b'("attachment" ("filename" "a b.png" "size" "4")) ("de" "en") "http://x/")',
        ),
        (
            b"Content-Type: multipart/alternative; boundary=x\n\n--x\n\na\n--x\nContent-Type: text/html\n\n<b>\n--x--\n",
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0 NIL NIL NIL NIL)'
            b'("text" "html" ("charset" "us-ascii") NIL NIL "7bit" 3 0 NIL NIL NIL NIL) '
            b'"alternative" ("boundary" "x") NIL NIL NIL)',
        ),
        (
            b"Content-Type: message/rfc822\n\nSubject: in\n\nhi\n",
            b'("message" "rfc822" NIL NIL NIL "7bit" 19 (NIL "in" NIL NIL NIL NIL NIL NIL NIL NIL) '
            b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 4 1 NIL NIL NIL NIL) 3 NIL NIL NIL NIL)',
        ),
        (
            b"Content-Type: multipart/mixed; boundary=x\n\nno part\n",
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL) "mixed" ("boundary" "x") NIL NIL NIL)',
        ),
    ],
)
def test_bodystructure(text: bytes, wanted: bytes) -> None:
    assert structure(text) == wanted


def test_body_is_bodystructure_without_extensions() -> None:
    text = crlf(
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: application/pdf; name=a\n\nx\n--x--\n"
    )
    body, _ = render_body(Message(text))
    assert body == b'(("application" "pdf" ("name" "a") NIL NIL "7bit" 1) "mixed")'


def balanced(text: bytes) -> bool:
    """One parenthesised list of strings, literals, atoms: what a client's parser needs."""
    depth = at = 0
    while at < len(text):
        char = text[at : at + 1]
        if char == b'"':
            at += 1
            while text[at : at + 1] != b'"':
                at += 2 if text[at : at + 1] == b"\\" else 1
        elif char == b"{":
            end = text.index(b"}\r\n", at)
            at = end + 2 + int(text[at + 1 : end])
        elif char == b"(":
            depth += 1
        elif char == b")":
            depth -= 1
            if depth == 0:
                return at == len(text) - 1
        elif not char.isalnum() and char not in b" .-":
            return False
        at += 1
    return False


PIECES = (
    b"Content-Type: multipart/mixed; boundary=a\r\n", b"--a\r\n", b"--a--\r\n", b"\r\n", b"Content-Type: message/rfc822\r\n",
    b'Content-Type: text/"x; charset="\xff\0\r\n', b"From: (((\"\\ <@>,;:\r\n", b"To: a:b:c;;@\r\n", b"Subject: \xe4\0\"\\\r\n",
    b"Content-Disposition: ;;=\"\r\n", b"Content-Language: ,,(\r\n", b"junk", b"\r", b"\n", b" folded\r\n", b"Content-Id: \"\r\n",
)  # fmt: skip


def test_whatever_comes_the_answer_parses() -> None:
    pick = random.Random(5)
    for _ in range(400):
        message = Message(b"".join(pick.choices(PIECES, k=pick.randint(0, 25))))
        body, extended = render_body(message)
        assert balanced(render_envelope(message))
        assert balanced(body)
        assert balanced(extended)


def test_hostile_messages_cost_little() -> None:
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(500)
    )
    inside = b"Content-Type: message/rfc822\r\n\r\n" * 20_000
    many = b"To: " + b"a@b,\r\n " * 100_000 + b"c@d\r\n\r\n"
    parts = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\n" * 50_000
    for data in (deep, inside, many, parts):
        started = time.process_time()
        message = Message(data)
        render_envelope(message)
        render_body(message)
        assert time.process_time() - started < 2.0


def test_header_cache() -> None:
    message = Message(
        crlf(
            b"Received: by x\nX-Custom: 1\nSUBJECT: a\n folded\nFrom : b@c\nTo: d@e\nsubject: again\n\nbody\nTo: no\n"
        )
    )
    headers = cached_headers(message)
    assert header_lines(headers) == crlf(
        b"Received: by x\nSUBJECT: a\n folded\nFrom : b@c\nTo: d@e\nsubject: again\n"
    )
    assert Projection({b"subject", b"to"}).of(headers) == crlf(
        b"SUBJECT: a\n folded\nTo: d@e\nsubject: again\n\n"
    )
    assert Projection({b"cc"}).of(headers) == b"\r\n"
    assert packed_values(headers, b"subject") == [b" a\r\n folded", b" again"]
    assert packed_values(headers, b"from") == [b" b@c"] and packed_values(headers, b"cc") == []
    assert (
        Projection({b"from", b"received", b"subject", b"to"}).of(headers) == header_lines(headers) + b"\r\n"
    )
    assert header_lines(cached_headers(Message(b"X-None: 1\r\n\r\n"))) == b""
    assert Projection({b"to"}).of(cached_headers(Message(b"To: x"))) == b"To: x\r\n\r\n"
    assert cached_headers(Message(b"To: a\0b\r\n\r\n")) == NOT_CACHED


def test_too_large_headers_are_not_cached() -> None:
    message = Message(b"To: " + b"a@b, " * 10_000 + b"\r\n\r\n")
    assert cached_headers(message) == NOT_CACHED


# -- beside Dovecot -----------------------------------------------------------------------------------------------------

DOVECOT = Path("/usr/lib/dovecot/imap")
NOBODY = 65534
# Known differences, left out here: of two fields with one name we show the first, Dovecot the last; text with a quote mark or that
# was folded is a quoted string for us, a literal for Dovecot; an address without domain has "" where Dovecot writes
# MISSING_DOMAIN; a Content-Type without subtype is text/plain (RFC 2045 5.2) where Dovecot shows an empty subtype.
FIELDS = (
    b"From: Joe <joe@x.org>", b'From: "A, B" <a@b>, c@d (comment)', b"To: a@b, =?utf-8?q?=C3=A4?= <c@d>", b"To: g: x@y, z@w;",
    b"Cc: undisclosed-recipients:;", b"Subject: =?utf-8?b?w6Q=?= x", b"Subject: plain", b"Sender: s@t", b"Reply-To: r@s, u@v",
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000", b"Message-ID: <a@b>", b"In-Reply-To: <q@w>", b"Bcc: <@route,@two:x@y>",
)  # fmt: skip
TYPES = (
    b"text/plain; charset=utf-8", b'TEXT/HTML; charset="us-ascii"; format=flowed', b'image/png; name="x y.png"',
    b"application/octet-stream; name*0*=utf-8''a%20; name*1=b", b"application/pdf", b'foo/bar; a=1; b="2"; c', b"message/partial",
)  # fmt: skip
EXTRAS = (
    b'Content-Disposition: attachment; filename="a b"', b"Content-Disposition: INLINE", b"Content-Transfer-Encoding: base64",
    b"Content-ID: <1@2>", b"Content-Description: text", b"Content-MD5: abc=", b"Content-Language: en, de", b"Content-Location: x",
)  # fmt: skip


def some_fields(pick: random.Random, fields: tuple[bytes, ...], most: int) -> list[bytes]:
    """Each name once."""
    return list(
        {field.split(b":")[0]: field for field in pick.sample(fields, pick.randint(0, most))}.values()
    )


def some_part(pick: random.Random, depth: int) -> bytes:
    fields = some_fields(pick, EXTRAS, 3)
    kind = pick.random()
    if depth < 3 and kind < 0.3:
        mark = b"b%d" % pick.randint(0, 10**6)
        parts = b"".join(
            b"--" + mark + b"\r\n" + some_part(pick, depth + 1) + b"\r\n" for _ in range(pick.randint(1, 3))
        )
        fields = [field for field in fields if b"Transfer" not in field]
        fields.append(
            b"Content-Type: multipart/%b; boundary=%b" % (pick.choice([b"mixed", b"ALTERNATIVE"]), mark)
        )
        return b"\r\n".join(fields) + b"\r\n\r\npreamble\r\n" + parts + b"--" + mark + b"--\r\nepilogue\r\n"
    if depth < 3 and kind < 0.45:
        fields = [field for field in fields if b"Transfer" not in field]
        return (
            b"\r\n".join([*fields, b"Content-Type: message/rfc822"])
            + b"\r\n\r\n"
            + some_message(pick, depth + 1)
        )
    if pick.random() < 0.8:
        fields.append(b"Content-Type: " + pick.choice(TYPES))
    return b"".join(field + b"\r\n" for field in fields) + b"\r\n" + b"line\r\n" * pick.randint(0, 4)


def some_message(pick: random.Random, depth: int = 0) -> bytes:
    fields = [*some_fields(pick, FIELDS, 8), b"MIME-Version: 1.0"]
    return b"".join(field + b"\r\n" for field in fields) + some_part(pick, depth)


def dovecots_answers(messages: list[bytes]) -> bytes:
    """What Dovecot's own imap program says about them, run as an unprivileged user without a server."""
    root = Path(tempfile.mkdtemp(prefix="filterd-peer-"))
    try:
        for place in ("cur", "new", "tmp"):
            (root / "mail" / place).mkdir(parents=True)
        for number, data in enumerate(messages):
            (root / "mail" / "cur" / f"{1_700_000_000 + number}.x:2,").write_bytes(data)
        (root / "conf").write_text(
            f"base_dir = {root}\nlog_path = {root}/log\nmail_location = maildir:{root}/mail\nfirst_valid_uid = 1\n"
            f"first_valid_gid = 1\nmail_uid = {NOBODY}\nmail_gid = {NOBODY}\nssl = no\n"
        )
        for path in (root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        commands = (
            b"a SELECT INBOX\r\nb FETCH 1:* (ENVELOPE BODYSTRUCTURE)\r\nc FETCH 1:* BODY\r\nd LOGOUT\r\n"
        )
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        environment = {"HOME": str(root), "USER": "nobody", "PATH": os.environ["PATH"]}
        command = [*drop, str(DOVECOT), "-c", str(root / "conf")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(commands)
            process.stdin.flush()
            out = b""
            while b"\r\nd OK" not in out and (piece := process.stdout.read1(1 << 16)):
                out += piece
        return out
    finally:
        shutil.rmtree(root)


@pytest.mark.peer
@pytest.mark.skipif(not DOVECOT.exists(), reason="Dovecot is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot's imap must be started as root to become nobody")
def test_the_same_as_dovecot() -> None:
    pick = random.Random(11)
    messages = [some_message(pick) for _ in range(150)]
    out = dovecots_answers(messages).lower()  # the letters' case of types means nothing
    for number, data in enumerate(messages, 1):
        message = Message(data)
        body, extended = render_body(message)
        for wanted in (
            b"ENVELOPE " + render_envelope(message) + b" BODYSTRUCTURE " + extended,
            b"BODY " + body,
        ):
            assert b"\r\n* %d fetch (%b)\r\n" % (number, wanted.lower()) in out, (number, wanted)
