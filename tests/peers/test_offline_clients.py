"""Clients that keep a copy, unmodified, against the real server: offlineimap both ways, neomutt with its cache."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, PASSWORD, Server, mail, wait_for
from tests.peers.test_clients import need, run, subjects

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

LOGIN = f"ann@{DOMAIN}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob"), server="workers = 2") as running:
        yield running


def test_offlineimap_synchronises_both_ways(server: Server, tmp_path: Path) -> None:
    program = need("offlineimap")
    here = tmp_path / "Mail"
    certificate = ssl.PEM_cert_to_DER_cert((server.data / "tls" / "self-signed.crt").read_text())
    rc = tmp_path / "offlineimaprc"
    rc.write_text(
        f"""[general]
accounts = home
metadata = {tmp_path}/meta
ui = basic
[Account home]
localrepository = here
remoterepository = there
[Repository here]
type = Maildir
localfolders = {here}
[Repository there]
type = IMAP
remotehost = 127.0.0.1
remoteport = {server.ports["imaps"]}
ssl = yes
cert_fingerprint = {hashlib.sha512(certificate).hexdigest()}
remoteuser = bob@{DOMAIN}
remotepass = {PASSWORD}
"""
    )

    def sync() -> None:
        done = run(program, "-o", "-c", str(rc), environment={"HOME": str(tmp_path)})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    for number in range(4):
        server.send(mail(f"to keep {number}"), f"bob@{DOMAIN}")
    sync()
    files = [path for name in ("new", "cur") for path in (here / "INBOX" / name).iterdir()]
    found = {
        number: next(p for p in files if f"to keep {number}".encode() in p.read_bytes())
        for number in range(4)
    }
    base = found[0].name.partition(":2,")[0]
    found[0].rename(here / "INBOX" / "cur" / f"{base}:2,FS")
    found[1].unlink()
    (here / "INBOX" / "cur" / "1.new.here:2,S").write_bytes(mail("made here").replace(b"\r\n", b"\n"))
    with server.imap("bob") as imap:
        imap.select("INBOX")
        number = imap.uid("SEARCH", "SUBJECT", '"to keep 2"')[1][0].decode()
        imap.uid("STORE", number, "+FLAGS", "(\\Answered)")
    server.send(mail("late"), f"bob@{DOMAIN}")
    sync()
    now = subjects(server, "bob")
    assert sorted(now) == [b"late", b"made here", b"to keep 0", b"to keep 2", b"to keep 3"]
    with server.imap("bob") as imap:
        imap.select("INBOX", readonly=True)
        assert imap.uid("SEARCH", "FLAGGED", "SUBJECT", '"to keep 0"')[1][0]
    names = [path.name for name in ("new", "cur") for path in (here / "INBOX" / name).iterdir()]
    assert any("R" in name.partition(":2,")[2] for name in names)
    sync()
    sync()  # nothing changes any more, nothing is doubled
    assert sorted(subjects(server, "bob")) == sorted(now)


def test_neomutt_reads_moves_and_finds(server: Server, tmp_path: Path) -> None:
    need("neomutt")
    server.send(mail("for neomutt to read"), LOGIN)
    rc = tmp_path / "neomuttrc"
    rc.write_text(
        f"""set imap_user="{LOGIN}"
set imap_pass="{PASSWORD}"
set folder="imaps://localhost:{server.ports["imaps"]}/"
set spoolfile="+INBOX"
set header_cache="{tmp_path}/cache"
set imap_condstore=yes
set imap_qresync=yes
set ssl_force_tls=yes
set ssl_verify_host=no
set ssl_verify_dates=no
set certificate_file="{server.data / "tls" / "self-signed.crt"}"
set confirmappend=no
set delete=yes
set move=no
set quit=yes
set wait_key=no
"""
    )
    home = {"HOME": str(tmp_path), "TERM": "dumb"}
    keys = (
        "<limit>~s 'for neomutt'<enter><first-entry><flag-message><sync-mailbox>"
        "<save-message>+Archive<enter><sync-mailbox><quit>"
    )
    for pressed in (keys, "<sync-mailbox><quit>"):  # the second time with what it has cached, by QRESYNC
        done = run(
            "script", "-qec", f'neomutt -F {rc} -e "push \\"{pressed}\\""', "/dev/null", environment=home
        )
        wait_for(
            lambda: b"for neomutt to read" in subjects(server, "ann", "Archive"),
            10,
            f"neomutt's move {done.stdout[-600:]!r}",
        )
    assert b"for neomutt to read" not in subjects(server, "ann")
    assert subjects(server, "ann", "Archive").count(b"for neomutt to read") == 1
