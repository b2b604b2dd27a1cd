"""The milter protocol against the programs that speak it: Debian's Postfix asks us, we ask OpenDKIM and a pymilter filter,
and OpenDKIM's `miltertest` plays an MTA.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import smtplib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.demo.lab import free_ports
from filterd.ports import SystemClock, SystemIds
from pipeline.adapters.crypto import generate
from pipeline.dkim.verify import Verification
from pipeline.edits import apply
from pipeline.envelope import Client, Envelope, Profile, Recipient
from pipeline.registry import StageContext
from pipeline.stages.milters import MilterSettings, MiltersSettings, MiltersStage
from pipeline.transaction import Transaction
from pipeline.verdict import Disposition, Verdict
from pipeline.zone import Zone, ZoneResolver
from rules.mail.header import scan
from rules.mail.message import Message
from tests.e2e.server import DOMAIN, ENVIRONMENT, ROOT, ZONE, Server, wait_for
from tests.milterlab import (
    MAIL,
    SBIN,
    Postfix,
    milter_door,
    needs_postfix,
    rewritten_and_back,
    ten_in_one_session,
)

pytestmark = pytest.mark.peer

OPENDKIM = shutil.which("opendkim", path=SBIN)
MILTERTEST = shutil.which("miltertest", path=SBIN)
needs_opendkim = pytest.mark.skipif(OPENDKIM is None, reason="opendkim is not installed")
needs_miltertest = pytest.mark.skipif(MILTERTEST is None, reason="miltertest is not installed")


def python_with_pymilter() -> str:
    """This interpreter, or Debian's with the package python3-milter."""
    if importlib.util.find_spec("Milter") is not None:
        return sys.executable
    debian = "/usr/bin/python3"
    if Path(debian).exists():
        done = subprocess.run([debian, "-c", "import Milter"], capture_output=True, check=False)
        return debian if done.returncode == 0 else ""
    return ""


PYMILTER = python_with_pymilter()
needs_pymilter = pytest.mark.skipif(not PYMILTER, reason="pymilter is not installed (extra [pymilter])")
SCRIPT = """require ["editheader", "reject", "copy", "vnd.filterd.quarantine"];
if header :contains "subject" "strange" { quarantine "looks strange"; }
if header :contains "subject" "lottery" { reject "We do not play"; stop; }
if header :contains "subject" "nowhere" { discard; stop; }
if header :contains "subject" "audit" { redirect :copy "audit@home.example"; }
addheader "X-Policy" "seen";
"""


def key_zone(key_record: str) -> str:
    return ZONE + f"\ns1._domainkey.shop.example TXT {key_record}\ns1._domainkey.{DOMAIN} TXT {key_record}\n"


@pytest.fixture(scope="module", params=["tcp", "unix"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Postfix]]:
    """filterd with a milter door, and a Postfix that asks it."""
    folder = tmp_path_factory.mktemp("milter")
    key = generate("rsa", 1024)
    pem = folder / "key.pem"
    pem.write_bytes(key.pem())
    (folder / "policy.sieve").write_text(SCRIPT)
    extra = f'[stage.sieve]\nbefore = ["{folder}/policy.sieve"]\n[milter]\nsrs = true\n'
    domain = f'dkim = {{ selector = "s1", key = "{pem}" }}\n'
    unix = request.param == "unix"
    with milter_door(unix, extra, key_zone(key.record()), domain) as (server, where):
        with Postfix(f"unix:{where}" if unix else f"inet:127.0.0.1:{where}") as postfix:
            postfix.key = key  # type: ignore[attr-defined]
            yield server, postfix


@needs_postfix
class TestPostfix:
    def test_fields_are_written_and_forged_ones_go(self, both: tuple[Server, Postfix]) -> None:
        server, postfix = both
        before = len(postfix.hop.arrivals)
        forged = b"Authentication-Results: mx.home.example; spf=fail\r\nX-Filterd-Trace: 00000-00000\r\n"
        other = b"Authentication-Results: elsewhere.example; spf=fail\r\n"
        code, text = postfix.send(forged + other + MAIL % 1)
        assert code == 250, text
        arrived = postfix.arrived(before + 1)
        block = scan(arrived)
        results = block.get_all(b"authentication-results")
        assert len(results) == 2
        assert results[0].startswith(b"mx.home.example; ") and b"spf=pass" in results[0]
        assert results[1].startswith(b"elsewhere.example")
        names = [field.lname for field in block.fields]
        assert names.index(b"received") < names.index(b"authentication-results")
        assert block.get_all(b"x-policy") == [b"seen"]
        (trace,) = block.get_all(b"x-filterd-trace")
        assert trace != b"00000-00000"
        story = server.explain(trace.decode())
        assert story["profile"] == "milter" and story["outcome"] == "accepted"
        assert story["client_ip"] == "198.51.100.7" and story["helo"] == "mx.shop.example"
        stages = {span["stage"]: span["result"] for span in story["spans"]}  # type: ignore[attr-defined]
        assert stages["spf"] == "pass" and "sieve" in stages
        queue_id = text.split()[-1].decode()
        assert server.explain(queue_id)["id"] == story["id"]

    def test_a_signature_over_exact_bytes_passes(self, both: tuple[Server, Postfix]) -> None:
        from pipeline.adapters.dkimpy import sign

        _server, postfix = both
        before = len(postfix.hop.arrivals)
        plain = MAIL.replace(b"Subject: Your", b"Subject:\tYour \t  exact\r\n   ") % 2
        signed = sign(plain, "shop.example", "s1", postfix.key, canonicalization="simple/simple") + plain  # type: ignore[attr-defined]
        assert postfix.send(signed)[0] == 250
        (result, *_) = scan(postfix.arrived(before + 1)).get_all(b"authentication-results")
        assert b"dkim=pass" in result, result

    def test_refusals_are_the_mtas(self, both: tuple[Server, Postfix]) -> None:
        server, postfix = both
        before = len(postfix.hop.arrivals)
        code, text = postfix.send(MAIL.replace(b"Your order", b"You won the lottery") % 3)
        assert (code, text) == (550, b"5.7.1 We do not play")
        assert postfix.send(MAIL.replace(b"Your order", b"nowhere") % 4)[0] == 250
        assert postfix.send(MAIL % 5)[0] == 250
        assert b"<5@shop" in postfix.arrived(before + 1)
        story = server.explain("<3@shop.example>")
        assert story["outcome"] == "rejected"
        assert server.explain("<4@shop.example>")["outcome"] == "discarded"

    def test_recipients_are_added(self, both: tuple[Server, Postfix]) -> None:
        _server, postfix = both
        before = len(postfix.hop.arrivals)
        assert postfix.send(MAIL.replace(b"Your order", b"audit me") % 6)[0] == 250
        wait_for(lambda: {r for a in postfix.hop.arrivals[before:] for r in a.recipients} >= {
            f"ann@{DOMAIN}", f"audit@{DOMAIN}"}, 20, "both recipients")  # fmt: skip

    def test_a_script_has_a_message_held(self, both: tuple[Server, Postfix]) -> None:
        server, postfix = both
        assert postfix.send(MAIL.replace(b"Your order", b"strange") % 60)[0] == 250
        hold = postfix.folder / "spool" / "hold"
        wait_for(lambda: list(hold.iterdir()), 20, "the held message")
        assert server.explain("<60@shop.example>")["outcome"] == "quarantined"
        assert not any(b"<60@shop" in one.data for one in postfix.hop.arrivals)

    def test_the_sender_of_what_goes_on_is_rewritten(self, both: tuple[Server, Postfix]) -> None:
        _server, postfix = both
        rewritten_and_back(lambda data, to, sender: postfix.send(data, to, sender)[0], postfix.hop)

    def test_mail_of_our_people_is_cleaned_and_signed(self, both: tuple[Server, Postfix]) -> None:
        _server, postfix = both
        before = len(postfix.hop.arrivals)
        data = (
            b"X-Mailer: Secret 1.0\r\nFrom: ann@home.example\r\nTo: x@elsewhere.example\r\nSubject: Hi\r\n"
            b"X-PHP-Script: /home/ann\r\nMessage-ID: <7@home.example>\r\n\r\nHello\r\n"
        )
        code, text = postfix.send(data, ("x@elsewhere.example",), f"ann@{DOMAIN}", login="ann")
        assert code == 250, text
        arrived = postfix.arrived(before + 1)
        assert b"Secret" not in arrived and b"X-PHP" not in arrived and b"X-Filterd" not in arrived
        zone = Zone()
        zone.add(f"s1._domainkey.{DOMAIN}", "TXT", postfix.key.record())  # type: ignore[attr-defined]
        block = scan(arrived)
        verification = Verification(block, time.time())
        for name in verification.wanted():
            verification.give(name, zone.lookup(name, "TXT"))
        if verification.needs_body():
            verification.feed(arrived[block.body_start :])
        assert [one.result for one in verification.results()] == ["pass"], arrived

    def test_many_messages_in_one_session(self, both: tuple[Server, Postfix]) -> None:
        _server, postfix = both
        ten_in_one_session(postfix.port, postfix.hop)

    def test_latency(self, both: tuple[Server, Postfix], record_property: pytest.FixtureRequest) -> None:
        """A session with 20 messages; Nagle and delayed ACKs would cost 40 ms and more each."""
        _server, postfix = both
        with smtplib.SMTP("127.0.0.1", postfix.port, "localhost", timeout=30) as smtp:
            smtp.ehlo("x.example")
            times = []
            for number in range(20):
                smtp.mail("a@shop.example")
                smtp.rcpt(f"ann@{DOMAIN}")
                began = time.perf_counter()
                assert smtp.data(MAIL % (200 + number))[0] == 250
                times.append(time.perf_counter() - began)
        median = sorted(times)[10] * 1000
        print(f"\nDATA to 250 through Postfix and our milter: median {median:.1f} ms")
        assert median < 250  # two shared cores; the figure is printed


# -- we ask ----------------------------------------------------------------------------------------------------------


def stage_says(
    where: str, data: bytes, login: str = "", timeout: float = 10.0, zone: Zone | None = None
) -> Verdict:
    """One message through our milters stage."""
    clock = SystemClock()
    context = StageContext(clock, SystemIds(), ZoneResolver(zone or Zone()), "mx.home.example")
    stage = MiltersStage(MiltersSettings((MilterSettings("peer", where, timeout),)), context)
    client = Client("198.51.100.7", 4711, "mx.shop.example", "mx.shop.example", auth=login)
    envelope = Envelope(
        "ann@home.example" if login else "billing@shop.example",
        (Recipient("ann@home.example"),),
        client,
        Profile.SUBMISSION if login else Profile.MX,
    )
    work = Transaction(Message(data), envelope, "7K3QM-2XNPA", clock.monotonic() + 20)
    return asyncio.run(stage.check(work))


def answers(family: int, address: str | tuple[str, int]) -> bool:
    """A filter that has taken a connection may still be starting; one that negotiates has begun to work."""
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)
        sock.sendall(struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF))
        return sock.recv(5)[4:] == b"O"


@contextlib.contextmanager
def running(*command: str, port: int = 0, path: Path | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)

    def listens() -> bool:
        assert process.poll() is None, "the filter ended"
        try:
            if path is not None:
                return answers(socket.AF_UNIX, str(path))
            return answers(socket.AF_INET, ("127.0.0.1", port))
        except OSError:
            return False

    try:
        wait_for(listens, 20, command[0])
        yield
    finally:
        process.terminate()
        process.wait(10)


@needs_opendkim
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
def test_opendkim_signs_through_us(unix: bool, form: str, tmp_path: Path) -> None:
    key = generate("rsa", 1024)
    (tmp_path / "key.pem").write_bytes(key.pem())
    (tmp_path / "key.pem").chmod(0o600)
    (port,) = free_ports(1)
    path = tmp_path / "socket"
    where, spelled = (
        (f"local:{path}", f"unix:{path}") if unix else (f"inet:{port}@127.0.0.1", f"inet:{port}@127.0.0.1")
    )
    conf = tmp_path / "opendkim.conf"
    conf.write_text(
        f"Mode s\nDomain home.example\nSelector s1\nKeyFile {tmp_path}/key.pem\nSocket {where}\nBackground no\n"
        f"Syslog no\nRequireSafeKeys no\nCanonicalization {form}\nPidFile {tmp_path}/pid\n"
    )
    data = MAIL.replace(b"billing@shop", b"ann@home").replace(b"Subject: ", b"Subject:\t two \r\n\t ") % 1
    with running(str(OPENDKIM), "-f", "-x", str(conf), port=port, path=path if unix else None):
        verdict = stage_says(spelled, data, login="ann")
        assert verdict.disposition is Disposition.CONTINUE, verdict
        signed = apply(data, verdict.edits)
        assert signed.endswith(data) and signed.startswith(b"DKIM-Signature:")
        zone, block = Zone(), scan(signed)
        zone.add("s1._domainkey.home.example", "TXT", key.record())
        verification = Verification(block, time.time())
        for name in verification.wanted():
            verification.give(name, zone.lookup(name, "TXT"))
        assert verification.needs_body()
        verification.feed(signed[block.body_start :])
        assert [one.result for one in verification.results()] == ["pass"], signed
        times = []
        for _ in range(10):
            began = time.perf_counter()
            stage_says(spelled, data, login="ann")
            times.append(time.perf_counter() - began)
    median = sorted(times)[5] * 1000
    print(f"\nOpenDKIM over {'unix' if unix else 'tcp'}: median {median:.1f} ms a message")
    assert median < 100


@needs_pymilter
def test_the_example_filter(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running(PYMILTER, str(ROOT / "examples" / "pymilter_filter.py"), f"unix:{path}", path=path):
        verdict = stage_says(f"unix:{path}", MAIL % 1)
        assert b"X-Example: seen, 12 octets" in apply(MAIL % 1, verdict.edits)
        assert verdict.body is not None and verdict.body.endswith(b"Seen by the example filter.\r\n")
        refused = stage_says(f"unix:{path}", MAIL.replace(b"Your order", b"lottery") % 2)
        assert refused.reply is not None and refused.reply.code == 550


# -- miltertest plays the MTA ----------------------------------------------------------------------------------------

LUA = """
mt.set_timeout(30)
conn = mt.connect("SOCKET")
if conn == nil then error("connect failed") end
mt.negotiate(conn, VERSION, nil, nil)
mt.macro(conn, SMFIC_CONNECT, "j", "mta.example", "{daemon_name}", "test")
mt.conninfo(conn, "mx.shop.example", "198.51.100.7")
mt.helo(conn, "mx.shop.example")
for round = 1, 2 do
    mt.macro(conn, SMFIC_MAIL, "i", "Q" .. round)
    mt.mailfrom(conn, "<billing@shop.example>", "SIZE=100")
    mt.rcptto(conn, "<ann@home.example>")
    mt.header(conn, "From", "billing@shop.example")
    mt.header(conn, "Authentication-Results", "mx.home.example; spf=fail")
    mt.header(conn, "Subject", round == 1 and "hello" or "lottery")
    mt.header(conn, "Message-ID", "<" .. round .. "@shop.example>")
    mt.eoh(conn)
    mt.bodystring(conn, "body\\r\\n")
    mt.eom(conn)
    if round == 1 then
        if mt.getreply(conn) ~= SMFIR_CONTINUE then error("not continued") end
        if not mt.eom_check(conn, MT_HDRINSERT, "Authentication-Results") then error("no results") end
        if not mt.eom_check(conn, MT_HDRDELETE, "Authentication-Results") then error("forged results stay") end
        if not mt.eom_check(conn, MT_HDRINSERT, "X-Policy") then error("no X-Policy") end
    else
        if mt.getreply(conn) ~= SMFIR_REPLYCODE then error("not refused") end
        if not mt.eom_check(conn, MT_SMTPREPLY, "550", "5.7.1", "We do not play") then error("another reply") end
    end
end
mt.disconnect(conn)
"""


@needs_miltertest
@pytest.mark.parametrize("version", [2, 6])
def test_miltertest_as_the_mta(version: int, tmp_path: Path) -> None:
    (tmp_path / "policy.sieve").write_text(SCRIPT)
    (port,) = free_ports(1)
    extra = f'[stage.sieve]\nbefore = ["{tmp_path}/policy.sieve"]\n'
    server = Server(people=(), doors=("smtp",), extra=extra)
    try:
        command = (
            sys.executable,
            "-m",
            "filterd",
            "milter",
            f"inet:{port}@127.0.0.1",
            "-c",
            str(server.config),
        )
        with running(*command, port=port):
            script = tmp_path / "test.lua"
            script.write_text(
                LUA.replace("SOCKET", f"inet:{port}@127.0.0.1").replace("VERSION", str(version))
            )
            done = subprocess.run(
                [str(MILTERTEST), "-s", str(script)], capture_output=True, timeout=60, check=False
            )
            assert done.returncode == 0, (done.stdout + done.stderr).decode()
        assert server.explain("Q1")["outcome"] == "accepted"
    finally:
        server.close()


# -- the whole server asks -------------------------------------------------------------------------------------------


def submit(server: Server, data: bytes) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", server.ports["smtp"], "localhost", timeout=30) as smtp:
        smtp.ehlo("mx.shop.example")
        smtp.mail("billing@shop.example")
        smtp.rcpt(f"ann@{DOMAIN}")
        return smtp.data(data)


def with_filter(name: str, socket_: str, more: str = "") -> str:
    return f'[[stage.milters]]\nname = "{name}"\nsocket = "{socket_}"\n{more}\n'


@needs_pymilter
def test_the_example_filter_at_our_own_door(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        running(PYMILTER, str(ROOT / "examples" / "pymilter_filter.py"), f"unix:{path}", path=path),
        Server(
            people=("ann",), doors=("smtp", "imap"), extra=with_filter("example", f"local:{path}")
        ) as server,
    ):
        code, text = submit(server, MAIL % 1)
        assert code == 250, text
        (found,) = (server.data / "mail").rglob("new/*")
        stored = found.read_bytes()
        assert b"X-Example: seen, 12 octets\r\n" in stored and stored.endswith(
            b"Seen by the example filter.\r\n"
        )
        code, text = submit(server, MAIL.replace(b"Your order", b"lottery") % 2)
        assert (code, text) == (550, b"5.7.1 We do not play")
        spans = {span["stage"]: span for span in server.explain("<1@shop.example>")["spans"]}  # type: ignore[attr-defined]
        assert (
            spans["milters"]["result"] == "continue"
            and "a new body" in spans["milters"]["evidence"]["example"]
        )


def test_a_filterd_that_asks_itself() -> None:
    ports = free_ports(1)
    extra = with_filter("me", f"127.0.0.1:{ports[0]}", 'listeners = ["smtp", "milter"]')
    server = Server(people=("ann",), doors=("smtp",), extra=extra)
    text = server.config.read_text().replace("[listen]\n", f'[listen]\nmilter = ["127.0.0.1:{ports[0]}"]\n')
    server.config.write_text(text)
    with server:
        assert submit(server, MAIL % 1)[0] == 250
        spans = {span["stage"]: span for span in server.explain("<1@shop.example>")["spans"]}  # type: ignore[attr-defined]
        assert spans["milters"]["summary"] == "me accept"


def test_a_filter_that_is_not_there_defers() -> None:
    (port,) = free_ports(1)
    with Server(people=("ann",), doors=("smtp",), extra=with_filter("gone", f"127.0.0.1:{port}")) as server:
        assert submit(server, MAIL % 1)[0] == 451
        assert server.explain("<1@shop.example>")["outcome"] == "deferred"
