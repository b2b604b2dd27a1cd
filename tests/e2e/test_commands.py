"""The commands as programs: accounts, configuration, delivery by command, sendmail; with the server away and with it running."""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, ENVIRONMENT, INSECURE, PASSWORD, Server, mail, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(
        people=("ann", "bob", "tiny", "dora"),
        quota={"tiny": 1000},
        scripts={"dora": 'require ["reject"]; reject "Not for me.";'},
        server="workers = 1",
        extra='[limits]\nmessage_size = "1 MiB"\nconnections = { total = 500, per_ip = 200 }\n',
    ) as running:
        yield running


def subjects(server: Server, person: str) -> list[bytes]:
    found = server.read(person)["INBOX"].values()
    return [data.partition(b"Subject: ")[2].partition(b"\r\n")[0] for data in found]


def logs_in(server: Server, person: str, password: str) -> bool:
    imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
    with contextlib.closing(imap.sock):
        try:
            imap.login(f"{person}@{DOMAIN}", password)
        except imaplib.IMAP4.error:
            return False
        imap.logout()
        return True


# -- accounts ---------------------------------------------------------------------------------------------


def test_accounts_before_the_server_ever_ran() -> None:
    server = Server(people=(), server="workers = 1")
    try:
        done = server.command("account", "add", f"first@{DOMAIN}", "--password-stdin", stdin="s3cret word\n")
        assert done.returncode == 0, done.stderr
        done = server.command("account", "add", f"second@{DOMAIN}")
        assert done.returncode == 0
        made_up = done.stdout.decode().partition("password: ")[2].split()[0]
        shown = json.loads(server.command("account", "show", f"first@{DOMAIN}", "--json").stdout)
        maildir = Path(shown["maildir"])
        assert maildir.is_dir() and all((maildir / name).is_dir() for name in ("new", "cur", "tmp"))
        listed = server.command("account", "list", "--json")
        assert {f"first@{DOMAIN}", f"second@{DOMAIN}"} == {
            one["address"] for one in json.loads(listed.stdout)
        }
        for bad in (
            f"first@{DOMAIN}",
            "someone@not-ours.example",
            "no-at-sign",
            f"a/b@{DOMAIN}",
            f"../x@{DOMAIN}",
            f"a+b@{DOMAIN}",
        ):
            done = server.command("account", "add", bad, "--password-stdin", stdin="x y z 1\n")
            assert done.returncode in (1, 2), (bad, done)
            assert b"Traceback" not in done.stderr and done.stderr
        server.start()
        assert logs_in(server, "first", "s3cret word") and logs_in(server, "second", made_up)
        assert not logs_in(server, "first", "s3cret")
        with server.smtp() as smtp:  # and it has its folders
            smtp.sendmail("a@shop.example", [f"first@{DOMAIN}"], mail("welcome"))
        imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=20)
        imap.login(f"first@{DOMAIN}", "s3cret word")
        rows = b"\n".join(row for row in imap.list()[1] if isinstance(row, bytes))
        for use in (b"\\Drafts", b"\\Sent", b"\\Junk", b"\\Trash", b"\\Archive"):
            assert use in rows
        imap.logout()
        assert any(mail("welcome") in path.read_bytes() for path in maildir.glob("new/*"))
    finally:
        server.close()


def test_accounts_while_the_server_runs(server: Server) -> None:
    done = server.command("account", "add", f"late@{DOMAIN}", "--password-stdin", stdin="one two 3\n")
    assert done.returncode == 0, done.stderr
    server.send(mail("hello late"), f"late@{DOMAIN}")
    assert logs_in(server, "late", "one two 3")
    done = server.command("account", "passwd", f"late@{DOMAIN}", "--password-stdin", stdin="four five 6\n")
    assert done.returncode == 0
    wait_for(lambda: logs_in(server, "late", "four five 6"), 5, "the new password")
    assert not logs_in(server, "late", "one two 3")
    done = server.command("account", "remove", f"late@{DOMAIN}", "--purge", "--yes")
    assert done.returncode == 0
    with server.smtp() as smtp:
        smtp.mail("a@shop.example")

        def unknown() -> bool:
            return smtp.rcpt(f"late@{DOMAIN}")[0] == 550

        wait_for(unknown, 5, "the account to be gone")


# -- configuration ------------------------------------------------------------------------------------------


def test_config_check_tells_all_mistakes_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "filterd.toml"
    file.write_text(
        """version = 1
[server]
hostname = "mx.home.example"
workerz = 2
[[domain]]
name = "home.example"
[stage.clamav]
found = "rejct"
[limits]
message_size = "50 MegaByte"
recipients = "many"
[pipeline]
incoming = ["sieve", "spf"]
"""
    )
    done = run("filterd", "config", "check", "-c", str(file))
    text = (done.stdout + done.stderr).decode()
    assert done.returncode in (1, 2, 78) and "Traceback" not in text
    for place in (":4:1", ":8:", ":10:", ":11:", ":13:"):
        assert f"{file}{place}" in text or f"filterd.toml{place}" in text, (place, text)
    assert '"workers"' in text and "reject" in text
    file.write_text("version = 1\n[server\nhostname = 1\n")
    done = run("filterd", "config", "check", "-c", str(file))
    assert done.returncode and b":2:" in done.stdout + done.stderr and b"Traceback" not in done.stderr
    file.write_text(
        'version = 1\n[server]\nhostname = "mx.home.example"\n[[domain]]\nname = "home.example"\n'
    )
    done = run("filterd", "config", "check", "-c", str(file))
    assert done.returncode == 0, done


def test_the_names_that_outside_tools_rely_on_are_known(tmp_path: Path) -> None:
    """Issue 2, word for word: every key named there is accepted."""
    file = tmp_path / "filterd.toml"
    file.write_text(
        f"""version = 1
[server]
hostname = "mx.home.example"
data_dir = "{tmp_path / "data"}"
xclient_trusted = ["127.0.0.1"]
[tls]
mode = "self-signed"
[[domain]]
name = "home.example"
[listen]
smtp = ["127.0.0.1:2525"]
submission = ["127.0.0.1:2587"]
submissions = ["127.0.0.1:2465"]
lmtp = ["127.0.0.1:2424"]
imap = ["127.0.0.1:2143"]
imaps = ["127.0.0.1:2993"]
pop3 = ["127.0.0.1:2110"]
pop3s = ["127.0.0.1:2995"]
sieve = ["127.0.0.1:2419"]
milter = []
web = []
metrics = []
[limits]
message_size = "20 MiB"
[queue]
relay = "smtp://127.0.0.1:2526"
[stage.clamav]
enabled = "auto"
socket = "unix:/run/clamav/clamd.ctl"
[stage.spamassassin]
enabled = "auto"
socket = "inet:783@127.0.0.1"
[dns]
resolver = ["127.0.0.1:5353"]
"""
    )
    done = run("filterd", "config", "check", "-c", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for form in (
        "127.0.0.1:783",
        "inet:127.0.0.1:783",
        "unix:/run/spamd.sock",
        "/run/spamd.sock",
    ):
        text = file.read_text().replace("inet:783@127.0.0.1", form)
        (tmp_path / "other.toml").write_text(text)
        done = run("filterd", "config", "check", "-c", str(tmp_path / "other.toml"))
        assert done.returncode == 0, (form, done.stdout + done.stderr)


# -- delivery by command --------------------------------------------------------------------------------------


def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A program of ours, without a configuration of ours."""
    path = str(Path(sys.executable).parent / words[0])
    return subprocess.run(
        [path, *words[1:]], input=stdin, capture_output=True, env=ENVIRONMENT, timeout=30, check=False
    )


def deliver(server: Server, *words: str, stdin: bytes = mail("by command")) -> int:
    done = server.command(*words, program="filterd-deliver", stdin=stdin)
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode


def test_filterd_deliver_ends_with_the_codes_of_sysexits(server: Server) -> None:
    assert deliver(server, "-f", "a@shop.example", f"ann@{DOMAIN}") == 0
    assert deliver(server, "-f", "a@shop.example", "-d", "ann") == 0
    assert deliver(server, "-f", "", "-a", f"ann+box@{DOMAIN}") == 0
    assert b"by command" in subjects(server, "ann")
    assert deliver(server, "-d", "ann", "-m", "Lists/rust", stdin=mail("into a folder")) == 0
    assert [b"into a folder" in text for text in server.read("ann")["Lists/rust"].values()] == [True]
    assert deliver(server, f"nobody@{DOMAIN}", "-m", "Lists/rust") == 67
    assert deliver(server, f"nobody@{DOMAIN}") == 67
    assert deliver(server, "somebody@elsewhere.example") in (67, 77)
    assert deliver(server, f"tiny@{DOMAIN}", stdin=mail("big", "x" * 2000)) == 75
    assert deliver(server, f"dora@{DOMAIN}", "-f", "a@shop.example") in (0, 77)
    assert deliver(server, "--nonsense", f"ann@{DOMAIN}") == 64
    assert deliver(server) == 64
    assert deliver(server, f"ann@{DOMAIN}", stdin=mail("huge", ("x" * 70 + "\n") * 16_000)) == 65
    done = server.command("deliver", f"ann@{DOMAIN}", stdin=mail("as a subcommand"))
    assert done.returncode == 0, done.stderr
    assert b"as a subcommand" in subjects(server, "ann")
    bad = server.folder / "broken.toml"
    bad.write_text("nonsense = 1\n")
    done = run("filterd-deliver", "-c", str(bad), f"ann@{DOMAIN}", stdin=mail())
    assert done.returncode == 78
    bad.write_text(server.config.read_text().replace(str(server.data), "/proc/nowhere"))
    done = run("filterd-deliver", "-c", str(bad), f"ann@{DOMAIN}", stdin=mail())
    assert done.returncode in (75, 78), done


def test_filterd_deliver_takes_an_mbox_line_lf_and_odd_input(server: Server) -> None:
    assert (
        deliver(
            server,
            f"bob@{DOMAIN}",
            stdin=b"From a@shop.example  Thu Aug 22 12:36:23 2002\nSubject: mbox\n\nx\n",
        )
        == 0
    )
    assert deliver(server, f"bob@{DOMAIN}", stdin=b"Subject: no end") == 0
    assert deliver(server, f"bob@{DOMAIN}", stdin=b"Subject: nul\n\nx\0y\n") == 0
    assert deliver(server, f"bob@{DOMAIN}", stdin=b"no header at all\n") in (0, 65)
    assert deliver(server, f"bob@{DOMAIN}", stdin=b"") in (0, 65)
    found = [data for folder in server.read("bob").values() for data in folder.values()]
    text = next(data for data in found if b"Subject: mbox" in data)
    assert text.startswith(b"Return-Path: <a@shop.example>\r\n") and text.endswith(
        b"Subject: mbox\r\n\r\nx\r\n"
    )
    assert b"\nFrom a@" not in text


def sendmail(server: Server, *words: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    program = str(Path(sys.executable).parent / "filterd-sendmail")
    return subprocess.run(
        [program, *words], input=stdin, capture_output=True, timeout=30, check=False,
        env={**ENVIRONMENT, "FILTERD_CONFIG": str(server.config)}, cwd=server.folder,
    )  # fmt: skip


def test_filterd_sendmail_takes_the_usual_flags(server: Server) -> None:
    before = len(server.hop.arrivals)
    to = f"To: Bob <bob@{DOMAIN}>, friend@elsewhere.example\nBcc: dora@{DOMAIN}"
    text = f"From: ann@{DOMAIN}\n{to}\nSubject: by sendmail\n\n.\nafter the dot\n"
    done = sendmail(server, "-t", "-i", "-f", f"ann@{DOMAIN}", stdin=text.encode())
    assert done.returncode == 0, done.stderr
    server.arrived(before + 1)
    arrival = server.hop.arrivals[-1]
    assert arrival.recipients == ("friend@elsewhere.example",) and arrival.reverse_path == f"ann@{DOMAIN}"
    assert b"after the dot" in arrival.data
    sent = arrival.data.lower()
    assert b"\nbcc" not in sent and b"dora@" not in sent  # the letters "bcc" may be in an id
    assert b"by sendmail" in subjects(server, "bob")
    done = sendmail(server, "-i", "-f", f"ann@{DOMAIN}", f"bob@{DOMAIN}", stdin=b"Subject: named\n\nx\n")
    assert done.returncode == 0, done.stderr
    assert b"named" in subjects(server, "bob")
    done = sendmail(
        server, "-f", f"ann@{DOMAIN}", f"bob@{DOMAIN}", stdin=b"Subject: dotted\n\nx\n.\nnot this\n"
    )
    assert done.returncode == 0, done.stderr
    assert b"not this" not in next(
        data for data in server.read("bob")["INBOX"].values() if b"Subject: dotted" in data
    )
    assert sendmail(server, "-t", "-i", stdin=b"Subject: to nobody\n\nx\n").returncode != 0


def test_help_is_quick_and_everything_has_one() -> None:
    usage = os.times()
    done = run("filterd", "--help")
    spent = os.times()
    assert done.returncode == 0
    assert spent.children_user - usage.children_user < 0.5
    names = [
        line.split()[0]
        for line in done.stdout.decode().partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    ]
    assert {"serve", "demo", "account", "explain", "sieve", "config", "deliver"} <= set(names)
    for name in names:
        done = run("filterd", name, "--help")
        assert done.returncode == 0 and done.stdout, (name, done)
    for name in (
        "account add",
        "account list",
        "config check",
        "config show",
        "sieve list",
        "sieve put",
        "queue list",
    ):
        done = run("filterd", *name.split(), "--help")
        assert done.returncode == 0 and done.stdout and not done.stderr, (name, done)


def test_sieve_put_list_activate_check_run(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "s.sieve"
    script.write_text(
        'require "fileinto";\nif header :contains "subject" "archive me" { fileinto "Archive"; }\n'
    )
    account = f"bob@{DOMAIN}"
    assert server.command("sieve", "check", str(script), config=False).returncode == 0
    for words in (
        ("put", account, str(script), "--name", "main"),
        ("activate", account, "main"),
        ("list", account),
    ):
        done = server.command("sieve", *words)
        assert done.returncode == 0, (words, done)
    server.send(mail("archive me"), account)
    assert any(b"archive me" in data for data in server.read("bob")["Archive"].values())
    message = tmp_path / "m.eml"
    message.write_bytes(mail("archive me"))
    done = server.command(
        "sieve", "run", "--script", str(script), "--message", str(message), "--json", config=False
    )
    assert done.returncode == 0 and b"Archive" in done.stdout, done
    json.loads(done.stdout)
    script.write_text('if nonsense { keep; }\nfileinto "x";\n')
    done = server.command("sieve", "check", str(script), config=False)
    assert done.returncode == 1, done
    assert b":1:4" in done.stdout + done.stderr and b":2:1" in done.stdout + done.stderr


def test_the_password_is_not_in_the_log(server: Server) -> None:
    assert logs_in(server, "ann", PASSWORD)
    assert PASSWORD not in server.log() and "by command" not in server.log()
