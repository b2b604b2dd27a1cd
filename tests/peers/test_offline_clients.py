"""Clients that keep a copy, unmodified, against the real server: offlineimap both ways, neomutt with its cache."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, PASSWORD, Server, mail
from tests.peers.test_clients import agreed, changed_on_both_sides, in_files, moved_by, muttrc, need, run

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

LOGIN = f"ann@{DOMAIN}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann", "bob"), server="workers = 2") as running:
        yield running


def offlineimap(server: Server, folder: Path, who: str, *here: str) -> Callable[[], None]:
    """Synchronises ``folder``/Mail with ``who``'s mailboxes, over and over. ``here``: more lines about the files."""
    program, rc = need("offlineimap"), folder / "offlineimaprc"
    certificate = ssl.PEM_cert_to_DER_cert((server.data / "tls" / "self-signed.crt").read_text())
    more = "".join(f"{line}\n" for line in here)
    rc.write_text(
        f"""[general]
accounts = home
metadata = {folder}/meta
ui = basic
[Account home]
localrepository = here
remoterepository = there
[Repository here]
type = Maildir
localfolders = {folder}/Mail
{more}[Repository there]
type = IMAP
remotehost = 127.0.0.1
remoteport = {server.ports["imaps"]}
ssl = yes
cert_fingerprint = {hashlib.sha512(certificate).hexdigest()}
remoteuser = {who}@{DOMAIN}
remotepass = {PASSWORD}
"""
    )

    def sync() -> None:
        done = run(program, "-o", "-c", str(rc), environment={"HOME": str(folder)})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    return sync


def test_offlineimap_synchronises_both_ways(server: Server, tmp_path: Path) -> None:
    here, sync = tmp_path / "Mail", offlineimap(server, tmp_path, "bob")
    for number in range(4):
        server.send(mail(f"to sync {number}"), f"bob@{DOMAIN}")
    sync()
    assert len(in_files(here / "INBOX")) == 4
    changed_on_both_sides(server, here / "INBOX")
    sync()
    agreed(server, here / "INBOX", 4, sync)


def test_neomutt_reads_moves_and_finds(server: Server, tmp_path: Path) -> None:
    need("neomutt")
    server.send(mail("for neomutt to read"), LOGIN)
    rc = tmp_path / "neomuttrc"
    rc.write_text(
        muttrc(
            server, f'set header_cache="{tmp_path}/cache"', "set imap_condstore=yes", "set imap_qresync=yes"
        )
    )
    # the second time with what it has cached, by QRESYNC
    moved_by("neomutt", server, rc, tmp_path, "<sync-mailbox><quit>")
