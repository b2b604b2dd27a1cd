"""A Dovecot Maildir taken over and given back: mbsync and POP3 clients notice nothing (HOUSE item 18).

Dovecot runs with a configuration of its own on loopback. mbsync keeps a copy of everything; after each change of the server it
is run again and must find nothing to do: its own count of what it did, the files it has and the state it wrote are looked at.
"""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import poplib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from filterd.demo.lab import free_ports
from tests.e2e.server import DOMAIN, PASSWORD, Server, mail, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

LOGIN = f"ann@{DOMAIN}"
MAIL_UID = 5000  # of the mail when we are root: Dovecot refuses to serve root's
FOLDERS = ("Arbeit/Müll", "日本語", "Sent", "Tom & Jerry", "Arbeit/Ablage/2024")
_COUNTS = re.compile(
    r"B: (\d+)/(\d+)\s+F: \+\d+/(\d+) \*\d+/(\d+) #\d+/(\d+)\s+N: \+\d+/(\d+) \*\d+/(\d+) #\d+/(\d+)"
)


def encoded(name: str) -> str:
    from filterd.store.names import encode_component

    return "/".join(map(encode_component, name.split("/")))


@dataclass
class Dovecot:
    """Debian's, on ``maildir``, without root where need be. ``separator`` "." is the default of Maildir++."""

    maildir: Path
    more: str = ""
    separator: str = "."

    def __post_init__(self) -> None:
        if shutil.which("dovecot", path="/usr/sbin:/usr/bin") is None:
            pytest.skip("dovecot is not installed")
        if not Path("/usr/lib/dovecot/pop3").exists():  # without it, it does not start
            pytest.skip(
                "Dovecot's POP3 server, /usr/lib/dovecot/pop3, is not installed (Debian: dovecot-pop3d)"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-dovecot-"))
        self.folder.chmod(0o755)
        self.imap_port, self.pop3_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        root = os.geteuid() == 0
        me = pwd.getpwuid(os.geteuid()).pw_name
        users = (
            ""
            if root
            else f"default_internal_user = {me}\ndefault_login_user = {me}\ndefault_internal_group =\n"
            "service anvil {\n chroot =\n}\nservice stats {\n chroot =\n}\n"
        )
        chroot = "" if root else " chroot =\n"
        self.owner = (MAIL_UID, MAIL_UID) if root else (os.geteuid(), os.getegid())
        self.config = self.folder / "dovecot.conf"
        self.config.write_text(
            f"""protocols = imap pop3
listen = 127.0.0.1
base_dir = {self.folder}/run
state_dir = {self.folder}/state
log_path = {self.folder}/log
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{self.maildir}{self.more}
first_valid_uid = 1
{users}passdb {{
  driver = static
  args = password={PASSWORD.replace(" ", "")}
}}
userdb {{
  driver = static
  args = uid={self.owner[0]} gid={self.owner[1]} home={self.folder}/home allow_all_users=yes
}}
service imap-login {{
{chroot}  inet_listener imap {{
    port = {self.imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
{chroot}  inet_listener pop3 {{
    port = {self.pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
namespace inbox {{
  inbox = yes
  separator = {self.separator}
}}
"""
        )

    def __enter__(self) -> Dovecot:
        self.maildir.mkdir(parents=True, exist_ok=True)
        self.give(self.maildir)
        program = shutil.which("dovecot", path="/usr/sbin:/usr/bin")
        assert program is not None
        self.process = subprocess.Popen(
            [program, "-F", "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(self._answers, 20, "dovecot")
        except BaseException:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        try:
            with self.imap():
                return True
        except OSError:
            return False

    def give(self, path: Path) -> None:
        """To Dovecot's mail user."""
        if os.geteuid() == 0:
            for here, folders, files in os.walk(path):
                for name in (".", *folders, *files):
                    os.chown(os.path.join(here, name), *self.owner, follow_symlinks=False)

    def stop(self) -> None:
        """And its sessions too."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def imap(self) -> Iterator[imaplib.IMAP4]:
        client = imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=20)
        try:
            client.login(LOGIN, PASSWORD.replace(" ", ""))
            yield client
        finally:
            with contextlib.suppress(imaplib.IMAP4.error, OSError):
                client.logout()

    def uidls(self) -> list[bytes]:
        client = poplib.POP3("127.0.0.1", self.pop3_port, timeout=20)
        try:
            client.user(LOGIN)
            client.pass_(PASSWORD.replace(" ", ""))
            return client.uidl()[1]
        except poplib.error_proto as error:
            raise AssertionError((self.folder / "log").read_text()) from error
        finally:
            with contextlib.suppress(OSError):
                client.quit()


@dataclass
class Mbsync:
    """Its copy in ``here``. ``run`` returns what it did: (far, near), each (new, flags, trashed)."""

    here: Path

    def run(self, account: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        program = shutil.which("mbsync")
        if program is None:
            pytest.skip("mbsync is not installed")
        (self.here / "Mail").mkdir(exist_ok=True, parents=True)
        rc = self.here / "rc"
        rc.write_text(
            f"""IMAPAccount home
{account}

IMAPStore there
Account home

MaildirStore here
Path {self.here}/Mail/
Inbox {self.here}/Mail/INBOX
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
        done = subprocess.run(
            ["script", "-qec", f"{program} -c {rc} -a", "/dev/null"],  # it counts only for a terminal
            capture_output=True, timeout=120, check=False, env={**os.environ, "HOME": str(self.here), "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, text
        found = _COUNTS.findall(text)
        assert found, text
        done_boxes, boxes, *numbers = (int(number) for number in found[-1])
        assert done_boxes == boxes > len(FOLDERS), text
        return tuple(numbers[:3]), tuple(numbers[3:])

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.here / "Mail")): path.read_bytes()
            for path in sorted((self.here / "Mail").rglob("*"))
            if path.is_file() and path.parent.name in ("cur", "new")
        }

    def state(self, *folders: str) -> dict[str, list[str]]:
        """UIDVALIDITYs and the UIDs of both sides, of all folders or these."""
        found = {
            str(path.parent.relative_to(self.here / "Mail")): path.read_text().splitlines()
            for path in sorted((self.here / "Mail").rglob(".mbsyncstate"))
        }
        return {name: found[name] for name in folders or found}


NOTHING = ((0, 0, 0), (0, 0, 0))


def at_dovecot(dovecot: Dovecot) -> str:
    return (
        f'Host 127.0.0.1\nPort {dovecot.imap_port}\nUser {LOGIN}\nPass "{PASSWORD.replace(" ", "")}"\nSSLType None\n'
        "AuthMechs LOGIN"
    )


def at_filterd(server: Server) -> str:
    certificate = server.data / "tls" / "self-signed.crt"
    return (
        f'Host 127.0.0.1\nPort {server.ports["imaps"]}\nUser {LOGIN}\nPass "{PASSWORD}"\nSSLType IMAPS\n'
        f"CertificateFile {certificate}"
    )


def fill(dovecot: Dovecot) -> None:
    """Flags, keywords, dates, folders, holes in the UIDs, the last message expunged, one that Dovecot has not seen."""
    marks = ("\\Seen", "\\Answered", "\\Flagged", "$Forwarded", "NonJunk", "Projekt-7", "$Label1")
    with dovecot.imap() as imap:
        for name in FOLDERS:
            box = encoded(name).replace("/", dovecot.separator)
            created = imap.create(f'"{box}"')
            assert created[0] == "OK", (created, (dovecot.folder / "log").read_text())
            if name != "Sent":
                imap.subscribe(f'"{box}"')
        imap.subscribe("INBOX")
        for number in range(24):
            box = (
                "INBOX"
                if number < 14
                else encoded(FOLDERS[number % len(FOLDERS)]).replace("/", dovecot.separator)
            )
            flags = " ".join(mark for at, mark in enumerate(marks) if (number * 37) >> at & 1)
            date = imaplib.Time2Internaldate(1_500_000_000 + 86_400 * number)
            text = mail(f"number {number}", f"Body {number}\n.\nend")
            stored = imap.append(f'"{box}"', f"({flags})", date, text)
            assert stored[0] == "OK", (stored, (dovecot.folder / "log").read_text())
        imap.select("INBOX")
        imap.uid("STORE", "3,7,14", "+FLAGS", "(\\Deleted)")
        imap.expunge()
        imap.uid("STORE", "9", "+FLAGS", "(\\Deleted)")
        imap.close()
        imap.append("INBOX", "(\\Deleted)", None, mail("deleted but there"))


def statuses(imap: imaplib.IMAP4, separator: str) -> dict[str, tuple[bytes, ...]]:
    """(messages, uidnext, uidvalidity) of the folders of the test, and each message's uid, flags and date."""
    found = {}
    for name in ("INBOX", *FOLDERS):
        box = encoded(name).replace("/", separator)
        _, rows = imap.status(f'"{box}"', "(MESSAGES UIDNEXT UIDVALIDITY)")
        numbers = re.search(rb"MESSAGES (\d+) UIDNEXT (\d+) UIDVALIDITY (\d+)", rows[0])
        assert numbers is not None
        imap.select(f'"{box}"', readonly=True)
        _, parts = imap.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE RFC822.SIZE)")
        messages = []
        for part in parts:
            if not isinstance(part, bytes):
                continue
            uid = re.search(rb"UID (\d+)", part)
            date = re.search(rb'INTERNALDATE "([^"]*)"', part)
            size = re.search(rb"RFC822.SIZE (\d+)", part)
            flags = re.search(rb"FLAGS \(([^)]*)\)", part)
            assert uid and date and size and flags
            own = b" ".join(sorted(set(flags[1].split()) - {b"\\Recent"}))
            seconds = str(
                time.mktime(time.strptime(date[1].decode().strip()[:20], "%d-%b-%Y %H:%M:%S"))
            ).encode()
            messages.append(uid[1] + b" " + seconds + b" " + size[1] + b" " + own)
        found[name] = (*numbers.groups(), *messages)
    return found


def adopt(server: Server, *words: str) -> dict[str, object]:
    done = server.command("store", "adopt", *words, "--json")
    assert done.returncode == 0, (done.stdout, done.stderr)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", ("copy", "move", "in-place"))
def test_there_and_back(open_folder: Path, mode: str) -> None:
    server = Server(people=("ann", "bob"))
    own = server.data / "mail" / DOMAIN / "ann"
    for folder in (server.folder, server.data, server.data / "mail", own.parent):
        folder.chmod(0o755)
    if mode == "in-place":
        shutil.rmtree(own)
    source = own if mode == "in-place" else open_folder / "old" / "Maildir"
    mbsync = Mbsync(open_folder / "client")
    try:
        with Dovecot(source) as dovecot:
            fill(dovecot)
            mbsync.run(at_dovecot(dovecot))
            assert mbsync.run(at_dovecot(dovecot)) == NOTHING
            uidls = dovecot.uidls()
            with dovecot.imap() as imap:
                before = statuses(imap, ".")
                imap.select("INBOX")
                refused = server.command("store", "adopt", "dovecot", LOGIN, str(source), f"--{mode}")
                assert refused.returncode == 75 and b"still uses" in refused.stderr, refused.stderr
        files, state = mbsync.files(), mbsync.state()
        assert len(files) == 20 and len(uidls) == 10

        report = adopt(server, "dovecot", LOGIN, str(source), f"--{mode}")
        assert report["problems"] == [] and report["done"]
        server.start()
        assert mbsync.run(at_filterd(server)) == NOTHING
        assert (
            mbsync.files() == files and mbsync.state(*state) == state
        )  # there are new, empty folders beside
        with server.pop3("ann") as pop3:
            assert pop3.uidl()[1] == uidls
        with server.imap("ann") as imap:
            after = statuses(imap, "/")
            subscribed = {row.rpartition(b' "/" ')[2].strip(b'"').decode() for row in imap.lsub()[1] if row}
        assert after == before
        assert {encoded(name) for name in FOLDERS if name != "Sent"} | {"INBOX"} <= subscribed

        change(server)
        far, near = mbsync.run(at_filterd(server))
        assert far == (0, 0, 0) and near[0] == 3, (far, near)
        assert mbsync.run(at_filterd(server)) == NOTHING
        files, state = mbsync.files(), mbsync.state()
        with server.imap("ann") as imap:
            before = statuses(imap, "/")
        with server.pop3("ann") as pop3:
            uidls = pop3.uidl()[1]
        assert server.stop() == 0

        back = own if mode == "in-place" else open_folder / "back"
        words = ("--in-place",) if mode == "in-place" else (str(back),)
        done = server.command("store", "export", "dovecot", LOGIN, *words)
        assert done.returncode == 0, done.stderr
        with Dovecot(back) as dovecot:
            assert mbsync.run(at_dovecot(dovecot)) == NOTHING
            assert mbsync.files() == files and mbsync.state() == state
            assert dovecot.uidls() == uidls
            with dovecot.imap() as imap:
                assert statuses(imap, ".") == before
                assert imap.append("INBOX", "(\\Seen)", None, mail("at dovecot again"))[0] == "OK"
            assert mbsync.run(at_dovecot(dovecot)) == ((0, 0, 0), (1, 0, 0))
            log = (dovecot.folder / "log").read_text()
            assert "Error" not in log and "Panic" not in log, log
        if mode == "in-place":  # and once more here
            adopt(server, "dovecot", LOGIN, str(back))
            server.start()
            assert mbsync.run(at_filterd(server)) == NOTHING
    finally:
        server.close()


def change(server: Server) -> None:
    """What happens to mail: it comes, is read, marked, moved, removed; a folder is made."""
    for number in range(2):
        server.send(mail(f"came to filterd {number}"), LOGIN)
    with server.imap("ann") as imap:
        imap.select("INBOX")
        imap.uid("STORE", "1", "+FLAGS", "(\\Flagged NewKeyword)")
        imap.uid("STORE", "2", "-FLAGS", "(\\Seen)")
        imap.uid("STORE", "4", "+FLAGS", "(\\Deleted)")
        imap.uid("EXPUNGE", "4")
        assert imap.create("Neues/Fach")[0] == "OK"
        assert imap.append("Neues/Fach", "(\\Seen Frisch)", None, mail("in a new folder"))[0] == "OK"
        assert imap.subscribe("Neues/Fach")[0] == "OK"


def test_pop3_ids_of_another_format_and_the_other_layout(open_folder: Path) -> None:
    """``pop3_uidl_format`` was set, ids are saved with the mail; LAYOUT=fs, names in UTF-8."""
    server = Server(people=("ann",))
    mbsync = Mbsync(open_folder / "client")
    source = open_folder / "old"
    try:
        with Dovecot(source, ":LAYOUT=fs:UTF-8", "/") as dovecot:
            with open(dovecot.config, "a") as config:
                config.write("protocol pop3 {\n  pop3_uidl_format = %g\n  pop3_save_uidl = yes\n}\n")
            fill(dovecot)
            dovecot.stop()
            with dovecot:
                mbsync.run(at_dovecot(dovecot))
                uidls = dovecot.uidls()
                assert b".M" in uidls[0]
                with dovecot.imap() as imap:
                    before = statuses(imap, "/")
        source_options = ("--utf8", "--pop3-uidl", "%g")
        adopt(server, "dovecot", LOGIN, str(source), *source_options)
        server.start()
        assert mbsync.run(at_filterd(server)) == NOTHING
        with server.pop3("ann") as pop3:
            assert pop3.uidl()[1] == uidls
        with server.imap("ann") as imap:
            assert statuses(imap, "/") == before
        assert server.stop() == 0
        back = open_folder / "back"
        done = server.command("store", "export", "dovecot", LOGIN, str(back), "--layout", "fs")
        assert done.returncode == 0, done.stderr
        with Dovecot(back, ":LAYOUT=fs", "/") as dovecot:
            assert mbsync.run(at_dovecot(dovecot)) == NOTHING
            assert dovecot.uidls() == uidls
    finally:
        server.close()
