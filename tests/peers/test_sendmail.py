"""Debian's Sendmail as the server that asks us: what Postfix shows us (test_milter.py), by the other implementation.

Sendmail conflicts with Postfix as a package; it runs unpacked (tests/unpacked.py), from a folder of its own, with a
configuration of three rulesets and the usual header lines (they count where a field goes), in a UTS namespace whose host name
has a dot (else it sleeps a minute at its start).
"""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.demo.lab import Arrival, NextHop, free_ports
from pipeline.adapters.crypto import generate
from rules.mail.header import scan
from tests import unpacked
from tests.e2e.server import DOMAIN, ZONE, Server, wait_for
from tests.milterlab import MAIL, arrived, greets, milter_door, rewritten_and_back, ten_in_one_session
from tests.programs import no_namespaces

pytestmark = [pytest.mark.peer, pytest.mark.slow]

SENDMAIL = unpacked.program("sendmail-bin", "usr/libexec/sendmail/sendmail")
NAME = "mta.home.example"
SCRIPT = """require ["editheader", "reject", "copy", "vnd.filterd.quarantine", "envelope"];
if header :contains "subject" "lottery" { reject "We do not play\\r\\nand never will"; stop; }
if header :contains "subject" "nowhere" { discard; stop; }
if header :contains "subject" "audit" { redirect :copy "audit@home.example"; }
if header :contains "subject" "moved" { redirect "new@home.example"; stop; }
if header :contains "subject" "strange" { quarantine "looks strange"; }
addheader "X-Policy" "seen";
addheader :last "X-Y" "1";
addheader :last "X-Z" "2";
deleteheader "X-Remove";
"""


@pytest.fixture(scope="module")
def sendmail() -> str:
    """The program."""
    if not SENDMAIL:
        pytest.skip("Sendmail is not here (Debian: sendmail-bin, unpacked by `make test`)")
    if os.geteuid() != 0:
        pytest.skip("not root: Sendmail becomes other users")
    if libraries := unpacked.lacking(SENDMAIL):
        pytest.skip(f"Sendmail's libraries are not here: {libraries}")
    if said := no_namespaces("--uts"):
        pytest.skip(f"no UTS namespace for a host name of Sendmail's own: {said}")
    return SENDMAIL


class Sendmail:
    """With one INPUT_MAIL_FILTER = ours; what it accepts goes to a next hop of ours."""

    def __init__(self, milter: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="filterd-sendmail-"))
        self.hop = NextHop()
        self.hop.start()
        (self.port,) = free_ports(1)
        self.queue = self.folder / "queue"
        self.queue.mkdir(mode=0o700)
        self.process: subprocess.Popen[bytes] | None = None
        facts = (
            "{auth_type}, {auth_authen}, {auth_ssf}, {auth_author}, {mail_mailer}, {mail_host}, {mail_addr}"
        )
        (self.folder / "sendmail.cf").write_text(f"""V10/Berkeley
Cwlocalhost
Dj{NAME}
DnMAILER-DAEMON
Troot
O QueueDirectory={self.queue}
O PidFile={self.folder}/pid
O DaemonPortOptions=Name=MTA, Addr=127.0.0.1, Port={self.port}, Family=inet
O DeliveryMode=background
O SuperSafe=True
O DontBlameSendmail=GroupWritableDirPathSafe,TrustStickyBit
O Timeout.ident=0s
O ResolverOptions=-DNSRCH
O QueueLA=1000
O RefuseLA=1000
O DelayLA=0
O InputMailFilters=filterd
O Milter.macros.connect=j, _, {{daemon_name}}, {{if_name}}, {{if_addr}}
O Milter.macros.helo={{tls_version}}, {{cipher}}, {{cipher_bits}}, {{cert_subject}}, {{cert_issuer}}
O Milter.macros.envfrom=i, {facts}
O Milter.macros.envrcpt={{rcpt_mailer}}, {{rcpt_host}}, {{rcpt_addr}}
O Milter.macros.eom={{msg_id}}
Xfilterd, S={milter}, F=T, T=C:10s;S:30s;R:30s;E:2m
H?P?Return-Path: <$g>
HReceived: $?sfrom $s $.$?_($?s$|from $.$_) $.by $j with $r id $i; $b
H?D?Resent-Date: $a
H?D?Date: $a
H?F?Resent-From: $?x$x <$g>$|$g$.
H?F?From: $?x$x <$g>$|$g$.
H?x?Full-Name: $x
H?M?Resent-Message-Id: <$t.$i@$j>
H?M?Message-Id: <$t.$i@$j>
Scanonify=3
R$@\t\t$@ <@>
R<>\t\t$@ <@>
R$* < $+ > $*\t$@ $2
Sfinal=4
R<@>\t\t$@
Sparse=0
R<@>\t\t$#local $: <@>
R$*\t\t$#relay $@ [127.0.0.1] $: $1
Mlocal,\t\tP=/bin/true, F=lsDFMAw5:/|@q, T=DNS/RFC822/X-Unix, A=true
Mprog,\t\tP=/bin/true, F=lsDFMoqeu9, T=X-Unix/X-Unix/X-Unix, A=true
Mrelay,\t\tP=[IPC], F=mDFMuXa8, E=\\r\\n, L=2040, T=DNS/RFC822/SMTP, A=TCP $h {self.hop.port}
""")

    def __enter__(self) -> Sendmail:
        command = ["unshare", "--uts", "sh", "-c", f'hostname {NAME} && exec "$@"', "sh", SENDMAIL]
        command += ["-C", str(self.folder / "sendmail.cf"), "-bD"]
        try:
            with (self.folder / "out").open("wb") as out:
                self.process = subprocess.Popen(command, stdout=out, stderr=out)
            wait_for(self._serves, 30, "Sendmail")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
        self.hop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "out").read_text()
        return greets(self.port)

    def send(
        self, data: bytes, *to: str, sender: str = "billing@shop.example", more: str = ""
    ) -> tuple[int, bytes]:
        """The final reply."""
        with smtplib.SMTP("127.0.0.1", self.port, "localhost", timeout=60) as smtp:
            smtp.ehlo("mx.shop.example")
            code, text = smtp.docmd(f"MAIL FROM:<{sender}>{more}")
            assert code == 250, text
            for recipient in to or (f"ann@{DOMAIN}",):
                code, text = smtp.rcpt(recipient)
                assert code == 250, text
            return smtp.data(data)

    def arrived(self, text: bytes) -> Arrival:
        """The message at the next hop that has this in it."""
        return arrived(self.hop, text)


@pytest.fixture(scope="module", params=["inet", "local"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Sendmail]]:
    folder = tmp_path_factory.mktemp("sendmail")
    (folder / "policy.sieve").write_text(SCRIPT)
    key = generate("rsa", 1024)
    (folder / "key.pem").write_bytes(key.pem())
    extra = f'[milter]\nsrs = true\nscripts = ["{folder}/policy.sieve"]\n'
    zone = ZONE + f"\ns1._domainkey.shop.example TXT {key.record()}\n"
    unix = request.param == "local"
    with milter_door(unix, extra, zone) as (server, where):
        with Sendmail(f"local:{where}" if unix else f"inet:{where}@127.0.0.1") as sendmail:
            sendmail.key = key  # type: ignore[attr-defined]
            yield server, sendmail


@pytest.mark.usefixtures("sendmail")
class TestSendmail:
    def test_fields_are_written_and_forged_ones_go(self, both: tuple[Server, Sendmail]) -> None:
        server, sendmail = both
        forged = b"Authentication-Results: mx.home.example; spf=fail\r\nX-Filterd-Trace: 00000-00000\r\n"
        other = b"Authentication-Results: elsewhere.example; spf=fail\r\nX-Remove: x\r\n"
        code, text = sendmail.send(forged + other + MAIL % 1)
        assert code == 250, text
        block = scan(sendmail.arrived(b"<1@shop").data)
        results = block.get_all(b"authentication-results")
        assert len(results) == 2 and results[0].startswith(b"mx.home.example; ")
        assert results[1].startswith(b"elsewhere.example")
        names = [field.lname for field in block.fields]
        assert names.index(b"received") < names.index(b"authentication-results") < names.index(b"from")
        assert names[-2:] == [b"x-y", b"x-z"]
        assert block.get_all(b"x-policy") == [b"seen"] and not block.get_all(b"x-remove")
        (trace,) = block.get_all(b"x-filterd-trace")
        story = server.explain(trace.decode())
        assert story["profile"] == "milter" and story["outcome"] == "accepted"
        assert story["helo"] == "mx.shop.example"
        queue_id = text.split()[1].decode()
        assert server.explain(queue_id)["id"] == story["id"]

    def test_a_signature_over_exact_bytes_passes(self, both: tuple[Server, Sendmail]) -> None:
        from pipeline.adapters.dkimpy import sign

        _server, sendmail = both
        plain = MAIL.replace(b"Subject: Your", b"Subject:\tYour \t  exact\r\n   ") % 2
        signed = sign(plain, "shop.example", "s1", sendmail.key, canonicalization="simple/simple") + plain  # type: ignore[attr-defined]
        assert sendmail.send(signed)[0] == 250
        (result, *_) = scan(sendmail.arrived(b"<2@shop").data).get_all(b"authentication-results")
        assert b"dkim=pass" in result, result

    def test_refusals_are_the_mtas(self, both: tuple[Server, Sendmail]) -> None:
        server, sendmail = both
        code, text = sendmail.send(MAIL.replace(b"Your order", b"You won the lottery") % 3)
        assert code == 550 and b"We do not play" in text and b"and never will" in text
        assert sendmail.send(MAIL.replace(b"Your order", b"nowhere") % 4)[0] == 250
        assert sendmail.send(MAIL % 5)[0] == 250
        sendmail.arrived(b"<5@shop")
        assert not any(b"<4@shop" in one.data or b"<3@shop" in one.data for one in sendmail.hop.arrivals)
        assert server.explain("<3@shop.example>")["outcome"] == "rejected"
        assert server.explain("<4@shop.example>")["outcome"] == "discarded"

    def test_recipients_are_added_and_replaced(self, both: tuple[Server, Sendmail]) -> None:
        _server, sendmail = both
        assert sendmail.send(MAIL.replace(b"Your order", b"audit me") % 6)[0] == 250
        wait_for(lambda: {r for a in list(sendmail.hop.arrivals) if b"<6@" in a.data for r in a.recipients} == {
            f"ann@{DOMAIN}", f"audit@{DOMAIN}"}, 60, "both recipients")  # fmt: skip
        assert sendmail.send(MAIL.replace(b"Your order", b"moved") % 7)[0] == 250
        assert sendmail.arrived(b"<7@shop").recipients == (f"new@{DOMAIN}",)

    def test_quarantine(self, both: tuple[Server, Sendmail]) -> None:
        server, sendmail = both
        assert sendmail.send(MAIL.replace(b"Your order", b"strange") % 8)[0] == 250
        wait_for(lambda: list(sendmail.queue.glob("hf*")), 30, "the held message")  # quarantined queue files
        (held,) = sendmail.queue.glob("hf*")
        assert b"looks strange" in held.read_bytes()
        assert not any(b"<8@shop" in one.data for one in sendmail.hop.arrivals)
        assert server.explain("<8@shop.example>")["outcome"] == "quarantined"
        held.unlink()

    def test_the_sender_of_what_goes_on_is_rewritten(self, both: tuple[Server, Sendmail]) -> None:
        _server, sendmail = both
        rewritten_and_back(lambda data, to, sender: sendmail.send(data, *to, sender=sender)[0], sendmail.hop)

    def test_many_messages_in_one_session(self, both: tuple[Server, Sendmail]) -> None:
        _server, sendmail = both
        ten_in_one_session(sendmail.port, sendmail.hop)
