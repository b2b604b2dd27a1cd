"""`filterd probe smtp` against hosts on the loopback; with Debian's unbound for DNSSEC, the whole chain is real."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.dnssec
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dns.dnssectypes import Algorithm

from tests import programs
from tests.tlslab import Cert, MailHost, listening

ROOT = Path(__file__).resolve().parents[2]
UNBOUND = shutil.which("unbound") or shutil.which("unbound", path="/usr/sbin:/usr/local/sbin")
LEAF = Cert("mx.signed.test", names=("mx.signed.test",), now=time.time())
OTHER = Cert("other", names=("other.test",), now=time.time())


def probe(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "filterd", "probe", "smtp", *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def zone(tmp_path: Path, *lines: str) -> list[str]:
    file = tmp_path / "zone"
    file.write_text("\n".join(lines) + "\n")
    return ["--zone", str(file)]


@pytest.mark.slow
def test_a_host_without_policy(tmp_path: Path) -> None:
    with listening(MailHost(OTHER.context(tmp_path), keywords=("PIPELINING", "SIZE 1000"))) as host:
        where = zone(tmp_path, "x.test MX 10 mx.x.test", "mx.x.test A 127.0.0.1")
        code, text = probe(tmp_path, "x.test", "--port", str(host.port), *where)
        assert code == 0, text
        assert "the mail goes: to mx.x.test over TLSv1.3" in text and "PIPELINING, SIZE 1000" in text
        assert "not secured by DNSSEC" in text and "CN=other" in text
        assert not host.taken
        code, text = probe(tmp_path, "x.test", "--port", str(host.port), "--json", *where)
        found = json.loads(text)
        assert (code, found["outcome"], found["hosts"][0]["demand"]) == (0, "goes", "opportunistic")


@pytest.mark.slow
def test_what_does_not_go(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    where = zone(tmp_path, "null.test MX 0 .", "later.test MX SERVFAIL", "dead.test A 127.0.0.1")
    assert probe(tmp_path, "null.test", *where)[0] == 1
    assert probe(tmp_path, "nobody.test", *where)[0] == 1
    assert probe(tmp_path, "later.test", *where)[0] == 75
    code, text = probe(tmp_path, "dead.test", "--port", port, *where)
    assert code == 75 and "cannot connect" in text
    assert probe(tmp_path, "not a domain", *where)[0] == 2


def test_mail_waits_when_the_operator_wants_more(tmp_path: Path) -> None:
    (tmp_path / "filterd.toml").write_text(
        '[server]\nhostname = "us.test"\n[[domain]]\nname = "us.test"\n[queue]\ntls = "secure"\n'
    )
    with listening(MailHost(OTHER.context(tmp_path))) as host:
        where = zone(tmp_path, "x.test A 127.0.0.1")
        code, text = probe(tmp_path, "x.test", "--port", str(host.port), "-c", "filterd.toml", *where)
    assert code == 75 and "certificate is not good" in text, text


def signed_zone(port: int) -> tuple[str, str]:
    """(master file, trust anchor): the host's own record is good, b's is another's."""
    records = f"""
@ 300 IN SOA ns hostmaster 1 3600 600 86400 300
@ 300 IN NS ns
@ 300 IN MX 10 mx
bad 300 IN MX 10 b
ns 300 IN A 127.0.0.1
mx 300 IN A 127.0.0.1
b 300 IN A 127.0.0.1
_{port}._tcp.mx 300 IN TLSA {LEAF.tlsa(3, 1, 1)}
_{port}._tcp.b 300 IN TLSA {OTHER.tlsa(3, 1, 1)}
"""
    key = Ed25519PrivateKey.generate()
    made = dns.zone.from_text(records, origin="signed.test.", relativize=False)
    public = dns.dnssec.make_dnskey(key.public_key(), Algorithm.ED25519, flags=257)
    with made.writer() as writer:
        dns.dnssec.sign_zone(
            made, writer, keys=[(key, public)], dnskey_ttl=300, inception=time.time() - 3600, lifetime=86_400
        )
    return made.to_text(relativize=False), f"signed.test. 300 IN DNSKEY {public}"


@contextmanager
def unbound(tmp_path: Path, port: int) -> Iterator[int]:
    text, anchor = signed_zone(port)
    (tmp_path / "signed.test.zone").write_text(text + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    (tmp_path / "unbound.conf").write_text(
        f'server:\n  interface: 127.0.0.1\n  port: {number}\n  do-daemonize: no\n  use-syslog: no\n  username: ""\n  chroot: ""\n'
        f'  pidfile: ""\n  directory: "{tmp_path}"\n  module-config: "validator iterator"\n'
        '  access-control: 127.0.0.0/8 allow\n  do-not-query-localhost: no\n  local-zone: "test." nodefault\n'
        f'  trust-anchor: "{anchor}"\nremote-control:\n  control-enable: no\n'
        'auth-zone:\n  name: "signed.test"\n  zonefile: "signed.test.zone"\n'
        "  for-downstream: no\n  for-upstream: yes\n  fallback-enabled: no\n"
    )
    command = [str(UNBOUND), "-c", str(tmp_path / "unbound.conf")]
    with programs.running(command, number, tmp_path / "log"):
        yield number


@pytest.mark.peer
@pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed")
def test_dane_from_the_trust_anchor_to_the_certificate(tmp_path: Path) -> None:
    with listening(MailHost(LEAF.context(tmp_path))) as host, unbound(tmp_path, host.port) as number:
        asked = ["--nameserver", f"127.0.0.1:{number}", "--port", str(host.port)]
        code, text = probe(tmp_path, "signed.test", *asked)
        assert code == 0 and "secured by DNSSEC" in text and "dane" in text, text
        assert "the certificate is the one of TLSA 3 1 1" in text, text
        code, text = probe(tmp_path, "bad.signed.test", *asked, "--json")
        found = json.loads(text)
        assert code == 75 and found["hosts"][0]["result"] == "validation-failure", text
