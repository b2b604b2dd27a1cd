"""ManageSieve against the real server: a whole session line by line, warnings, and the gate before a script goes live."""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import Iterator

import pytest

from rules.registry import capabilities
from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Server

pytestmark = pytest.mark.e2e
LAST = re.compile(rb"(OK|NO|BYE)( |\r\n)")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann",), doors=("sieve",)) as running:
        yield running


class Talk:
    """One connection; ``say`` sends a command and returns the answer up to its last line."""

    def __init__(self, port: int) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.file = self.sock.makefile("rb")
        self.greeting = self.answer()

    def answer(self) -> bytes:
        out = b""
        while True:
            line = self.file.readline()
            assert line, out
            out += line
            literal = re.search(rb"\{(\d+)\}\r\n$", line)
            if literal:
                out += self.file.read(int(literal[1])) + self.file.readline()
            if LAST.match(line):
                return out

    def say(self, text: str) -> bytes:
        self.sock.sendall(text.encode() + b"\r\n")
        return self.answer()

    def put(self, name: str, script: str, verb: str = "PUTSCRIPT") -> bytes:
        where = f'{verb} "{name}"' if name else verb
        return self.say(f"{where} {{{len(script.encode())}+}}\r\n{script}")

    def tls(self) -> None:
        assert self.say("STARTTLS").startswith(b"OK")
        context: ssl.SSLContext = INSECURE
        self.sock = context.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")
        self.greeting = self.answer()

    def log_in(self) -> bytes:
        plain = base64.b64encode(f"\0ann@{DOMAIN}\0{PASSWORD}".encode()).decode()
        return self.say(f'AUTHENTICATE "PLAIN" "{plain}"')


def test_a_whole_session(server: Server) -> None:
    talk = Talk(server.ports["sieve"])
    assert b'"SASL" ""\r\n' in talk.greeting and b'"STARTTLS"\r\n' in talk.greeting
    assert talk.say('AUTHENTICATE "PLAIN" "AAAA"').startswith(b"NO (ENCRYPT-NEEDED)")
    talk.tls()
    assert b'"SASL" "PLAIN SCRAM-SHA-256"\r\n' in talk.greeting and b"STARTTLS" not in talk.greeting
    announced = re.search(rb'"SIEVE" "([^"]*)"', talk.greeting)
    assert announced and announced[1].decode().split() == list(capabilities())
    for line in (b'"NOTIFY" "mailto"', b'"EXTLISTS" "urn tag"', b'"VERSION" "1.0"', b'"UNAUTHENTICATE"'):
        assert line + b"\r\n" in talk.greeting
    assert {"imapsieve", "vnd.dovecot.report"} <= set(capabilities())
    assert talk.log_in().startswith(b"OK")

    answer = talk.put(
        "one", 'redirect "ann@home.example";\nstop;\nkeep;\nif header :contains "x" "" { keep; }\n'
    )
    assert answer.startswith(b"OK (WARNINGS) {")
    for word in (b"one-self", b"dead"):
        assert word in answer or b"script:1:" in answer
    assert answer.count(b"warning:") >= 3 and b"script:3:1" in answer and b"^" in answer
    answer = talk.put("", 'foo;\nfileinto "x";\n', "CHECKSCRIPT")
    assert answer.startswith(b"NO {") and answer.count(b"error:") == 2
    assert b'"one"\r\nOK' in talk.say("LISTSCRIPTS")
    assert talk.put("bad", "foo;").startswith(b"NO")
    assert talk.say('RENAMESCRIPT "one" "two"').startswith(b"OK")
    assert talk.say('SETACTIVE "two"').startswith(b"OK")
    assert b'"two" ACTIVE\r\n' in talk.say("LISTSCRIPTS")
    assert talk.say('RENAMESCRIPT "two" "three"').startswith(b"OK")
    assert b'"three" ACTIVE\r\n' in talk.say("LISTSCRIPTS")
    assert talk.say('DELETESCRIPT "three"').startswith(b"NO (ACTIVE)")
    assert talk.say('HAVESPACE "x" 99999999').startswith(b"NO (QUOTA/MAXSIZE)")
    assert talk.say('NOOP "tag-7"') == b'OK (TAG "tag-7") "Done"\r\n'
    assert talk.say("UNAUTHENTICATE").startswith(b"OK")
    assert talk.say("LISTSCRIPTS").startswith(b"NO")
    assert talk.log_in().startswith(b"OK")
    assert talk.say("LOGOUT").startswith(b"OK")


def test_a_failing_rule_test_refuses_setactive(server: Server) -> None:
    mails = server.folder / "mails"
    mails.mkdir()
    (mails / "bill.eml").write_text("From: shop@shop.example\nSubject: bill 7\n\nPay.\n")
    (mails / "expect.toml").write_text('["bill.eml"]\nfiled = ["Bills"]\n')
    ann = f"ann@{DOMAIN}"
    done = server.command("sieve", "tests", ann, "--put", str(mails))
    assert done.returncode == 0 and b"1 tests are in place" in done.stdout, done.stderr
    talk = Talk(server.ports["sieve"])
    talk.tls()
    talk.log_in()
    good = 'require "fileinto"; if header :contains "subject" "bill" { fileinto "Bills"; }'
    assert talk.put("good", good).startswith(b"OK")
    assert talk.put("poor", "keep;").startswith(b"OK")
    answer = talk.say('SETACTIVE "poor"')
    assert answer.startswith(b"NO") and b"test bill.eml: filed: " in answer
    assert talk.say('SETACTIVE "good"').startswith(b"OK")
    assert talk.put("good", "discard;").startswith(b"NO")
    assert good.encode() in talk.say('GETSCRIPT "good"')
    done = server.command("sieve", "activate", ann, "poor")
    assert done.returncode == 1 and b"test bill.eml" in done.stderr
    done = server.command("sieve", "tests", ann)
    assert done.returncode == 0 and done.stdout == b"bill.eml\n"
    assert server.command("sieve", "tests", ann, "--rm").returncode == 0
    assert talk.say('SETACTIVE "poor"').startswith(b"OK")
