"""The AD flag as Debian's unbound sets it: a zone that we sign, with its key as unbound's own trust anchor.

Unbound serves the zones itself (auth-zone, upstream only) and validates them as it would foreign ones. Signed: authentic.
Unsigned: an answer, not authentic. Signed by another key: SERVFAIL, which is TEMPORARY and never "no such name".
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import dns.dnssec
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dns.dnssectypes import Algorithm

from filterd.ports import SystemClock, SystemIds
from pipeline.adapters.dnspython import DnsResolver
from pipeline.ports import DnsAnswer, DnsStatus
from tests import programs

UNBOUND = shutil.which("unbound") or shutil.which("unbound", path="/usr/sbin:/usr/local/sbin")
pytestmark = [pytest.mark.peer, pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed")]
RECORDS = """
@ 300 IN SOA ns hostmaster 1 3600 600 86400 300
@ 300 IN NS ns
ns 300 IN A 127.0.0.1
mx 300 IN A 192.0.2.1
_25._tcp.mx 300 IN TLSA 3 1 1 {digest}
alias 300 IN CNAME mx
@ 300 IN TXT "v=spf1 -all"
""".replace("{digest}", "ab" * 32)


def zone_text(name: str, key: Ed25519PrivateKey | None) -> tuple[str, str]:
    """The master file of a zone, signed when there is a key, and its DNSKEY record."""
    zone = dns.zone.from_text(RECORDS, origin=name + ".", relativize=False)
    if key is None:
        return zone.to_text(relativize=False), ""
    public = dns.dnssec.make_dnskey(key.public_key(), Algorithm.ED25519, flags=257)
    with zone.writer() as writer:
        dns.dnssec.sign_zone(
            zone, writer, keys=[(key, public)], dnskey_ttl=300, inception=time.time() - 3600, lifetime=86_400
        )
    return zone.to_text(relativize=False), f"{name}. 300 IN DNSKEY {public}"


def configuration(folder: Path, port: int, anchors: list[str], names: list[str]) -> str:
    server = [
        "server:",
        "  interface: 127.0.0.1",
        f"  port: {port}",
        '  do-daemonize: no\n  use-syslog: no\n  username: ""\n  chroot: ""\n  pidfile: ""',
        f'  directory: "{folder}"',
        '  module-config: "validator iterator"',
        '  access-control: 127.0.0.0/8 allow\n  do-not-query-localhost: no\n  local-zone: "test." nodefault',
        *(f'  trust-anchor: "{anchor}"' for anchor in anchors),
        "remote-control:\n  control-enable: no",
    ]
    for name in names:
        server.append(
            f'auth-zone:\n  name: "{name}"\n  zonefile: "{name}.zone"\n'
            "  for-downstream: no\n  for-upstream: yes\n  fallback-enabled: no"
        )
    return "\n".join(server) + "\n"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Unbound's port, while it runs."""
    keys = {"signed.test": Ed25519PrivateKey.generate(), "bogus.test": Ed25519PrivateKey.generate()}
    anchors = []
    for name in ("signed.test", "plain.test", "bogus.test"):
        text, anchor = zone_text(name, keys.get(name))
        if name == "bogus.test":
            anchor = zone_text(name, Ed25519PrivateKey.generate())[1]
        (tmp_path / f"{name}.zone").write_text(text + "\n")
        anchors += [anchor] if anchor else []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    conf = tmp_path / "unbound.conf"
    conf.write_text(configuration(tmp_path, number, anchors, ["signed.test", "plain.test", "bogus.test"]))
    with programs.running([str(UNBOUND), "-c", str(conf)], number, tmp_path / "log"):
        yield number


def ask(port: int, *questions: tuple[str, str]) -> list[DnsAnswer]:
    async def go() -> list[DnsAnswer]:
        resolver = DnsResolver(SystemClock(), SystemIds(), [("127.0.0.1", port)])
        try:
            return [await resolver.query(name, rdtype) for name, rdtype in questions]
        finally:
            await resolver.close()

    return asyncio.run(go())


def test_what_is_authentic(port: int) -> None:
    tlsa, alias, gone, plain, bogus = ask(
        port,
        ("_25._tcp.mx.signed.test", "TLSA"),
        ("alias.signed.test", "A"),
        ("nobody.signed.test", "A"),
        ("mx.plain.test", "A"),
        ("mx.bogus.test", "A"),
    )
    assert (tlsa.status, tlsa.records, tlsa.authentic) == (DnsStatus.OK, ("3 1 1 " + "ab" * 32,), True)
    assert (alias.status, alias.records, alias.authentic) == (DnsStatus.OK, ("192.0.2.1",), True)
    assert (gone.status, gone.authentic) == (DnsStatus.NXDOMAIN, True)
    assert (plain.status, plain.records, plain.authentic) == (DnsStatus.OK, ("192.0.2.1",), False)
    assert (bogus.status, bogus.authentic) == (DnsStatus.TEMPORARY, False)
