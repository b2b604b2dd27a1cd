"""Other people's clients, unmodified, against the real server: swaks, curl, mutt, mbsync, sieve-connect, Python's, sievelib's."""

from __future__ import annotations

import os
import poplib
import re
import shutil
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imapclient
import pytest
from sievelib import managesieve

from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Server, mail, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

LOGIN = f"ann@{DOMAIN}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob"), server="workers = 2") as running:
        yield running


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def run(
    *words: str, stdin: bytes = b"", environment: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """LANG=C so that the programs' words are known."""
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        cwd=cwd,
        check=False,
    )


def subjects(server: Server, person: str, folder: str = "INBOX") -> list[bytes]:
    return [
        found[1]
        for data in server.read(person).get(folder, {}).values()
        if (found := re.search(rb"(?m)^Subject: ([^\r\n]*)", data))
    ]


def muttrc(server: Server, *more: str) -> str:
    """What mutt and neomutt are told, both in batch."""
    lines = (
        f'set imap_user="{LOGIN}"',
        f'set imap_pass="{PASSWORD}"',
        f'set folder="imaps://localhost:{server.ports["imaps"]}/"',
        'set spoolfile="+INBOX"',
        f'set certificate_file="{server.data / "tls" / "self-signed.crt"}"',
        *(
            "set ssl_force_tls=yes",
            "set ssl_verify_host=no",
            "set ssl_verify_dates=no",
            "set confirmappend=no",
        ),
        *("set delete=yes", "set move=no", "set quit=yes", "set wait_key=no"),
        *more,
    )
    return "".join(f"{line}\n" for line in lines)


def press(program: str, rc: Path, keys: str, home: Path) -> bytes:
    """What it showed on a terminal of its own."""
    words = ("script", "-qec", f'{program} -F {rc} -e "push \\"{keys}\\""', "/dev/null")
    return run(*words, environment={"HOME": str(home), "TERM": "dumb"}).stdout


def moved_by(program: str, server: Server, rc: Path, home: Path, *again: str) -> None:
    """It flags the message "for PROGRAM to read" and moves it to Archive; ``again``: what is pressed afterwards."""
    subject = f"for {program} to read".encode()
    keys = (
        f"<limit>~s 'for {program}'<enter><first-entry><flag-message><sync-mailbox>"
        "<save-message>+Archive<enter><sync-mailbox><quit>"
    )
    for pressed in (keys, *again):
        shown = press(program, rc, pressed, home)
        wait_for(
            lambda: subject in subjects(server, "ann", "Archive"), 10, f"{program}'s move {shown[-600:]!r}"
        )
    assert subject not in subjects(server, "ann")
    assert subjects(server, "ann", "Archive").count(subject) == 1


def in_files(inbox: Path) -> list[Path]:
    return [path for name in ("new", "cur") for path in (inbox / name).iterdir()]


def changed_on_both_sides(server: Server, inbox: Path) -> None:
    """Of bob's messages "to sync 0" and on: here one is flagged, one deleted and one new; there one is answered and one new."""
    files = in_files(inbox)
    flagged, deleted = (
        next(path for path in files if f"to sync {number}".encode() in path.read_bytes())
        for number in range(2)
    )
    flagged.rename(inbox / "cur" / f"{flagged.name.partition(':2,')[0]}:2,FS")
    deleted.unlink()
    (inbox / "cur" / "1.new.here:2,S").write_bytes(mail("made here").replace(b"\r\n", b"\n"))
    with server.imap("bob") as imap:
        imap.select("INBOX")
        found = imap.uid("SEARCH", "SUBJECT", '"to sync 2"')[1][0].decode()
        imap.uid("STORE", found, "+FLAGS", "(\\Answered)")
    server.send(mail("late"), f"bob@{DOMAIN}")


def agreed(server: Server, inbox: Path, count: int, sync: Callable[[], None]) -> None:
    """After a synchronisation of what was ``changed_on_both_sides``; two more change nothing and double nothing."""
    now = sorted(subjects(server, "bob"))
    rest = [b"to sync %d" % number for number in range(count) if number != 1]
    ours = [one for one in now if one in (b"late", b"made here") or one.startswith(b"to sync ")]
    assert ours == sorted([b"late", b"made here", *rest])
    with server.imap("bob") as imap:
        imap.select("INBOX", readonly=True)
        assert imap.uid("SEARCH", "FLAGGED", "SUBJECT", '"to sync 0"')[1][0]
        assert imap.uid("SEARCH", "ANSWERED", "SUBJECT", '"to sync 2"')[1][0]
    assert any("R" in path.name.partition(":2,")[2] for path in in_files(inbox))
    sync()
    sync()
    assert sorted(subjects(server, "bob")) == now


# -- swaks ------------------------------------------------------------------------------------------------


def swaks(server: Server, door: str, *words: str) -> str:
    port = str(server.ports[door])
    done = run(need("swaks"), "--server", "127.0.0.1", "--port", port, "--ehlo", "client.example", *words)
    text = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, text
    return text


def test_swaks_on_port_25_with_and_without_tls(server: Server) -> None:
    for tls in ((), ("--tls",)):
        swaks(
            server,
            "smtp",
            "--from",
            "a@shop.example",
            "--to",
            LOGIN,
            "--header",
            f"Subject: swaks {len(tls)}",
            *tls,
        )
    assert {b"swaks 0", b"swaks 1"} <= set(subjects(server, "ann"))


@pytest.mark.parametrize("way", ("PLAIN", "LOGIN"))
@pytest.mark.parametrize(("door", "tls"), (("submission", "--tls"), ("submissions", "--tls-on-connect")))
def test_swaks_logs_in_and_submits(server: Server, door: str, tls: str, way: str) -> None:
    before = len(server.hop.arrivals)
    text = swaks(
        server, door, tls, "--auth", way, "--auth-user", LOGIN, "--auth-password", PASSWORD, "--from", LOGIN, "--to",
        f"bob@{DOMAIN},friend@elsewhere.example", "--header", f"Subject: swaks {way} {door}",
    )  # fmt: skip
    assert "235" in text
    server.arrived(before + 1)
    assert f"swaks {way} {door}".encode() in subjects(server, "bob")


def test_swaks_speaks_lmtp_and_pipelines(server: Server) -> None:
    both = ("--from", "a@shop.example", "--to", f"{LOGIN},bob@{DOMAIN}", "--header")
    swaks(server, "lmtp", "--protocol", "LMTP", *both, "Subject: by lmtp")
    swaks(server, "smtp", "--pipeline", *both, "Subject: piped")
    for person in ("ann", "bob"):
        assert {b"by lmtp", b"piped"} <= set(subjects(server, person))


def test_swaks_sends_an_attachment_and_xclient(server: Server, tmp_path: Path) -> None:
    octets = bytes(range(256)) * 300
    (tmp_path / "data.bin").write_bytes(octets)
    text = swaks(
        server, "smtp", "--xclient", "ADDR=198.51.100.7 NAME=mx.shop.example", "--from", "a@shop.example", "--to", LOGIN,
        "--header", "Subject: attached", "--attach", f"@{tmp_path / 'data.bin'}",
    )  # fmt: skip
    assert "XCLIENT" in text
    found = next(data for data in server.read("ann")["INBOX"].values() if b"Subject: attached" in data)
    assert b"198.51.100.7" in found.split(b"\r\n\r\n")[0]
    from email import message_from_bytes

    parts = [part.get_payload(decode=True) for part in message_from_bytes(found).walk()]
    assert octets in parts


# -- curl -------------------------------------------------------------------------------------------------


def curl(server: Server, url: str, *words: str, stdin: bytes = b"") -> bytes:
    done = run(need("curl"), "-sS", "-k", "--max-time", "30", url, *words, stdin=stdin)
    assert done.returncode == 0, (url, done.stderr)
    return done.stdout


def test_curl_by_every_protocol(server: Server, tmp_path: Path) -> None:
    user, ports = f"{LOGIN}:{PASSWORD}", server.ports
    text = mail("by curl", "Hello")
    smtp = f"smtp://127.0.0.1:{ports['smtp']}/client.example"
    curl(server, smtp, "--mail-from", "a@shop.example", "--mail-rcpt", LOGIN, "-T", "-", stdin=text)
    curl(
        server, f"smtps://127.0.0.1:{ports['submissions']}/client.example", "--user", user, "--mail-from", LOGIN,
        "--mail-rcpt", f"bob@{DOMAIN}", "-T", "-", stdin=mail("curl submits", "x", LOGIN),
    )  # fmt: skip
    assert b"curl submits" in subjects(server, "bob")
    for url in (f"imaps://127.0.0.1:{ports['imaps']}", f"imap://127.0.0.1:{ports['imap']}"):
        tls = ("--ssl-reqd",) if url.startswith("imap://") else ()
        assert b"INBOX" in curl(server, f"{url}/", "--user", user, *tls)
        assert b"Drafts" in curl(server, f"{url}/", "--user", user, *tls, "-X", 'LIST "" *')
        found = curl(server, f"{url}/INBOX", "--user", user, *tls, "-X", 'SEARCH SUBJECT "by curl"')
        number = found.split()[-1].decode()
        whole = curl(server, f"{url}/INBOX;MAILINDEX={number}", "--user", user, *tls)
        assert whole.endswith(text)
        header = curl(
            server, f"{url}/INBOX;MAILINDEX={number};SECTION=HEADER.FIELDS%20(SUBJECT)", "--user", user, *tls
        )
        assert header == b"Subject: by curl\r\n\r\n"
    draft = tmp_path / "draft.eml"
    draft.write_bytes(mail("a draft"))
    curl(server, f"imaps://127.0.0.1:{ports['imaps']}/Drafts", "--user", user, "-T", str(draft))
    assert subjects(server, "ann", "Drafts") == [b"a draft"]
    for url, tls in (
        (f"pop3s://127.0.0.1:{ports['pop3s']}", ()),
        (f"pop3://127.0.0.1:{ports['pop3']}", ("--ssl-reqd",)),
    ):
        listing = curl(server, f"{url}/", "--user", user, *tls)
        first = listing.split()[0].decode()
        assert b"Subject:" in curl(server, f"{url}/{first}", "--user", user, *tls)
    done = run(need("curl"), "-sS", "-k", f"imaps://127.0.0.1:{ports['imaps']}/", "--user", f"{LOGIN}:wrong")
    assert done.returncode == 67  # CURLE_LOGIN_DENIED


# -- mutt -------------------------------------------------------------------------------------------------


def test_mutt_reads_moves_and_sends_in_batch(server: Server, tmp_path: Path) -> None:
    need("mutt")
    server.send(mail("for mutt to read"), LOGIN)
    rc = tmp_path / "muttrc"
    smtp = f"smtps://{LOGIN.replace('@', '%40')}@localhost:{server.ports['submissions']}/"
    rc.write_text(
        muttrc(
            server,
            'set record="+Sent"',
            "set ssl_starttls=yes",
            f'set smtp_url="{smtp}"',
            f'set smtp_pass="{PASSWORD}"',
            f'set from="{LOGIN}"',
            "set use_from=yes",
            'set realname="Ann"',
        )
    )
    home = {"HOME": str(tmp_path), "TERM": "dumb"}
    done = run(
        "mutt", "-F", str(rc), "-s", "sent by mutt", f"bob@{DOMAIN}", stdin=b"Hello Bob\n", environment=home
    )
    assert done.returncode == 0, done.stderr
    assert b"sent by mutt" in subjects(server, "bob")
    assert b"sent by mutt" in subjects(server, "ann", "Sent")
    moved_by("mutt", server, rc, tmp_path)


# -- mbsync -----------------------------------------------------------------------------------------------


def test_mbsync_synchronises_both_ways(server: Server, tmp_path: Path) -> None:
    mbsync = need("mbsync")
    here = tmp_path / "Mail"
    here.mkdir()
    rc = tmp_path / "mbsyncrc"
    rc.write_text(
        f"""IMAPAccount home
Host 127.0.0.1
Port {server.ports["imaps"]}
User bob@{DOMAIN}
Pass "{PASSWORD}"
SSLType IMAPS
CertificateFile {server.data / "tls" / "self-signed.crt"}

IMAPStore there
Account home

MaildirStore here
Path {here}/
Inbox {here}/INBOX
SubFolders Verbatim

Channel all
Far :there:
Near :here:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
CopyArrivalDate yes
"""
    )

    def sync() -> None:
        done = run(mbsync, "-c", str(rc), "-a", environment={"HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr

    for number in range(5):
        server.send(mail(f"to sync {number}"), f"bob@{DOMAIN}")
    sync()
    texts = {path.read_bytes().replace(b"\r\n", b"\n") for path in in_files(here / "INBOX")}
    there = {data.replace(b"\r\n", b"\n") for data in server.read("bob")["INBOX"].values()}
    assert {re.sub(rb"(?m)^X-TUID: .*\n", b"", text) for text in texts} == there
    assert (here / "Drafts" / "cur").is_dir()
    changed_on_both_sides(server, here / "INBOX")
    for name in ("new", "cur", "tmp"):
        (here / "Projects" / name).mkdir(parents=True)
    (here / "Projects" / "cur" / "2.new.here:2,S").write_bytes(mail("a project").replace(b"\r\n", b"\n"))
    sync()
    assert subjects(server, "bob", "Projects") == [b"a project"]
    agreed(server, here / "INBOX", 5, sync)


# -- ManageSieve --------------------------------------------------------------------------------------------

SCRIPT = (
    'require ["fileinto"];\r\nif header :contains "subject" "file me" {\r\n    fileinto "Archive";\r\n}\r\n'
)


def test_sieve_connect_uploads_checks_and_activates(server: Server, tmp_path: Path) -> None:
    program = need("sieve-connect")
    script = tmp_path / "main.sieve"
    script.write_text(SCRIPT.replace("\r\n", "\n"))
    (tmp_path / "secret").write_text(PASSWORD)
    certificate = server.data / "tls" / "self-signed.crt"

    def connect(*words: str) -> subprocess.CompletedProcess[bytes]:
        with open(tmp_path / "secret", "rb") as secret:
            return subprocess.run(
                [program, "--server", "localhost", "--port", str(server.ports["sieve"]), "--user", LOGIN, "--nosslverify",
                 "--passwordfd", "0", *words],
                stdin=secret, capture_output=True, timeout=30, check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8", "SSL_CERT_FILE": str(certificate)},
            )  # fmt: skip

    done = connect("--localsieve", str(script), "--remotesieve", "main", "--upload")
    assert done.returncode == 0, done.stdout + done.stderr
    done = connect("--remotesieve", "main", "--activate")
    assert done.returncode == 0, done.stdout + done.stderr
    done = connect("--list")
    assert done.returncode == 0 and b'"main" ACTIVE' in done.stdout, done.stdout + done.stderr
    bad = tmp_path / "bad.sieve"
    bad.write_text("if nonsense { ")
    done = connect("--localsieve", str(bad), "--remotesieve", "bad", "--upload")
    assert b"line 1" in (done.stdout + done.stderr).lower() or done.returncode != 0
    server.send(mail("please file me"), LOGIN)
    assert b"please file me" in subjects(server, "ann", "Archive")
    assert connect("--deactivate").returncode == 0
    server.send(mail("do not file me"), LOGIN)
    assert b"do not file me" in subjects(server, "ann")


def test_sievelib_manages_scripts(server: Server) -> None:
    client = managesieve.Client("localhost", server.ports["sieve"])
    import ssl

    original = ssl.create_default_context

    def trusting(*_: object, **__: object) -> ssl.SSLContext:
        return INSECURE

    ssl.create_default_context = trusting  # type: ignore[assignment]  # the client cannot be told our certificate
    try:
        assert client.connect(f"bob@{DOMAIN}", PASSWORD, starttls=True)
    finally:
        ssl.create_default_context = original
    assert "fileinto" in client.get_sieve_capabilities()
    assert client.havespace("one", 5000)
    assert client.checkscript(SCRIPT)
    assert client.putscript("one", SCRIPT)
    assert client.getscript("one").splitlines() == SCRIPT.splitlines()
    assert not client.putscript("broken", 'fileinto "no require";')
    assert client.setactive("one")
    active, others = client.listscripts()
    assert active == "one" and others == []
    assert client.renamescript("one", "two")
    assert client.listscripts()[0] == "two"
    assert client.setactive("")
    assert client.deletescript("two")
    client.logout()


# -- Python's own -------------------------------------------------------------------------------------------


def test_imaplib_goes_through_all_it_has(server: Server) -> None:
    with server.imap("ann") as imap:
        assert {"IDLE", "ENABLE"} <= set(
            imap.capabilities
        )  # imaplib asks once, before the login, and believes it
        words = set(imap.capability()[1][0].decode().split())
        wanted = {
            "IMAP4rev1",
            "UIDPLUS",
            "IDLE",
            "MOVE",
            "NAMESPACE",
            "SPECIAL-USE",
            "UNSELECT",
            "ENABLE",
            "ID",
        }
        assert wanted <= words and {"LITERAL+", "LITERAL-"} & words
        assert imap.create("Work/2024")[0] == "OK"
        assert imap.subscribe("Work/2024")[0] == "OK"
        assert b"Work/2024" in b"".join(imap.lsub()[1])
        assert (
            imap.append("Work/2024", "(\\Seen $Label)", '"01-Jan-2024 12:00:00 +0100"', mail("appended"))[0]
            == "OK"
        )
        assert imap.select("Work/2024")[1] == [b"1"]
        assert imap.fetch("1", "(FLAGS INTERNALDATE)")[1][0].count(b"\\Seen") == 1
        date = imap.fetch("1", "(INTERNALDATE)")[1][0]
        assert b"01-Jan-2024 12:00:00 +0100" in date or b"01-Jan-2024 11:00:00 +0000" in date
        assert imap.copy("1", "Archive")[0] == "OK"
        assert imap.store("1", "+FLAGS", "(\\Deleted)")[0] == "OK"
        assert imap.expunge()[1] == [b"1"]
        assert imap.status("Archive", "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN)")[0] == "OK"
        assert imap.rename("Work/2024", "Work/2025")[0] == "OK"
        assert imap.search(None, "ALL")[0] == "OK"
        assert imap.unselect()[0] == "OK"
        assert imap.delete("Work/2025")[0] == "OK"
        assert imap.namespace()[0] == "OK"
        assert imap.noop()[0] == "OK"


def test_poplib_and_smtplib_with_starttls(server: Server) -> None:
    server.send(mail("for poplib"), f"bob@{DOMAIN}")
    pop = poplib.POP3("127.0.0.1", server.ports["pop3"], timeout=20)
    capabilities = pop.capa()
    assert {"TOP", "UIDL", "STLS", "USER"} & set(capabilities) >= {"TOP", "UIDL", "STLS"}
    pop.stls(INSECURE)
    pop.user(f"bob@{DOMAIN}")
    pop.pass_(PASSWORD)
    count = pop.stat()[0]
    assert count
    assert pop.retr(1)[1] and pop.top(1, 1)[1]
    pop.dele(1)
    pop.rset()
    pop.dele(count)
    pop.quit()
    assert len(server.read("bob")["INBOX"]) == count - 1
    with smtplib.SMTP("127.0.0.1", server.ports["submission"], "localhost", timeout=20) as smtp:
        smtp.starttls(context=INSECURE)
        smtp.login(LOGIN, PASSWORD)
        smtp.sendmail(LOGIN, [f"bob@{DOMAIN}"], mail("smtplib", "x", LOGIN))
        try:
            smtp.sendmail(LOGIN, ["nobody@home.example"], mail("to nobody", "x", LOGIN))
        except smtplib.SMTPRecipientsRefused as error:
            assert error.recipients["nobody@home.example"][0] == 550
        else:
            pytest.fail("a stranger was accepted")
    assert b"smtplib" in subjects(server, "bob")


def test_imapclient_idles_and_reads(server: Server) -> None:
    with imapclient.IMAPClient("127.0.0.1", port=server.ports["imaps"], ssl_context=INSECURE) as client:
        client.login(LOGIN, PASSWORD)
        folders = {name: flags for flags, _, name in client.list_folders()}
        assert b"\\Sent" in folders["Sent"] and b"\\Trash" in folders["Trash"]
        assert b"\\Drafts" in folders["Drafts"] and b"\\Junk" in folders["Junk"]
        client.create_folder("Grüße & Küsse")
        assert client.folder_exists("Grüße & Küsse")
        client.select_folder("INBOX")
        client.idle()
        server.send(mail("wake up"), LOGIN)
        assert any(b"EXISTS" in response for response in client.idle_check(timeout=5))
        client.idle_done()
        found = client.search(["SUBJECT", "wake up"])
        data = client.fetch(found, ["ENVELOPE", "BODYSTRUCTURE", "FLAGS", "RFC822.SIZE"])
        assert data[found[0]][b"ENVELOPE"].subject == b"wake up"
        client.add_flags(found, ["\\Seen", "urgent"])
        assert b"urgent" in client.get_flags(found)[found[0]]
        client.move(found, "Grüße & Küsse")
        client.select_folder("Grüße & Küsse")
        assert len(client.search()) == 1
