"""What the shell adds to the core; the conversations themselves are in tests/scripts."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Sequence

import pytest

from filterd.accounts.directory import Account
from filterd.net.limits import Admission, AdmissionLimits
from filterd.proto.sasl import Evidence, Proof
from filterd.proto.smtp_limits import SmtpConfig
from filterd.servers.ports import LoginService, SmtpSession, SmtpTransaction
from filterd.servers.smtp import SmtpConnection, SmtpDoor
from pipeline.envelope import Client, Profile
from pipeline.reply import Reply
from tests.dialog import Door
from tests.doors import SmtpApplication, smtp_door

HELLO = b"EHLO c.example\r\n"
MAIL = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n"


class Recorder(SmtpApplication):
    """Keeps the client facts of each MAIL; ``gate`` holds messages back until it is set."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.clients: list[Client] = []
        self.sessions: list[SmtpSession] = []
        self.gate: asyncio.Event | None = None

    async def mail(self, session: SmtpSession, transaction: SmtpTransaction) -> Reply:
        self.clients.append(session.client)
        self.sessions.append(session)
        return await super().mail(session, transaction)

    async def message(
        self, session: SmtpSession, transaction: SmtpTransaction, data: bytes
    ) -> Sequence[Reply]:
        if self.gate is not None:
            await self.gate.wait()
        return await super().message(session, transaction, data)


def connect(
    profile: Profile = Profile.MX, *, peer: tuple[str, int] | str = ("192.0.2.7", 4000), tls: bool = False
) -> tuple[Door, Recorder]:
    submission = profile is Profile.SUBMISSION
    config = SmtpConfig("mx.example.org", profile, starttls=True, auth=submission, auth_required=submission)
    log: list[str] = []
    application = Recorder(log)
    door = SmtpDoor(
        config,
        application,
        context=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        xclient_trusted=[ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")],
    )
    return Door(lambda: SmtpConnection(door), log, peer=peer, tls=tls), application


def test_client_facts() -> None:
    door, application = connect()
    door.feed(
        HELLO + b"MAIL FROM:<a@example.net>\r\nRSET\r\nHELO old\r\nMAIL FROM:<a@example.net>\r\nRSET\r\n"
    )
    door.feed(b"STARTTLS\r\n")
    door.tls()
    door.feed(HELLO + b"MAIL FROM:<a@example.net>\r\nRSET\r\n")
    door.feed(b"XCLIENT ADDR=198.51.100.9 PORT=77 NAME=x.example\r\n")
    door.feed(HELLO + b"MAIL FROM:<a@example.net>\r\n")
    assert application.clients == [
        Client("192.0.2.7", 4000, "c.example"),
        Client("192.0.2.7", 4000, "old", esmtp=False),
        Client("192.0.2.7", 4000, "c.example", tls="TLSv1.3 TLS_AES_256_GCM_SHA384"),
        Client(
            "198.51.100.9",
            77,
            "c.example",
            "x.example",
            tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
            told="XCLIENT by 192.0.2.7",
        ),
    ]
    door.close()


def test_facts_of_a_hop_of_ours_are_not_the_senders() -> None:
    for profile, peer in ((Profile.LMTP, ("192.0.2.7", 1)), (Profile.MX, "/run/socket")):
        door, application = connect(profile, peer=peer)
        door.feed((b"LHLO" if profile is Profile.LMTP else b"EHLO") + b" c\r\nMAIL FROM:<a@example.net>\r\n")
        assert not application.clients[0].facts_trusted
        assert application.clients[0].ip == (None if isinstance(peer, str) else "192.0.2.7")
        door.close()
    door, application = connect(Profile.LMTP)
    door.feed(b"XCLIENT ADDR=198.51.100.9\r\nLHLO c\r\nMAIL FROM:<a@example.net>\r\n")
    assert application.clients[0].facts_trusted
    door.close()


def test_by_lmtp_what_a_proxy_tells_is_the_senders_unless_it_is_a_hop_of_ours() -> None:
    admission = Admission(AdmissionLimits())
    for told, trusted in (
        (("203.0.113.9", 4711), True),
        (("192.0.2.7", 4711), False),  # in xclient_trusted
        (("10.1.2.3", 4711), False),
        (("127.0.0.1", 4711), False),
        (("fd00::1", 4711), False),
        (None, False),
    ):
        log: list[str] = []
        application = Recorder(log)
        config = SmtpConfig("mx.example.org", Profile.LMTP)
        networks = [ipaddress.ip_network("192.0.2.0/24")]
        made = SmtpDoor(config, application, xclient_trusted=networks)
        ticket = admission.admit("192.0.2.99")
        assert ticket is not None
        ticket.introduce(told, "PROXY v2 by 192.0.2.99")
        door = Door(lambda made=made, ticket=ticket: made.connection(ticket), log, peer=("192.0.2.99", 1))  # type: ignore[misc]  # bound now
        door.feed(b"LHLO c\r\nMAIL FROM:<a@example.net>\r\n")
        client = application.clients[0]
        assert (client.ip, client.facts_trusted) == (told[0] if told else "192.0.2.99", trusted), told
        assert client.told == "PROXY v2 by 192.0.2.99"
        door.close()


def test_ipv6_clients_and_xclient_networks() -> None:
    door, application = connect(peer=("2001:db8::5", 9))
    door.feed(b"EHLO c\r\nXCLIENT ADDR=192.0.2.99\r\nEHLO c\r\nMAIL FROM:<a@example.net>\r\n")
    assert application.clients[0].ip == "192.0.2.99"
    door.close()


def test_login_sets_account_and_client() -> None:
    door, application = connect(Profile.SUBMISSION, tls=True)
    door.feed(HELLO + b"AUTH PLAIN AGFubkBleGFtcGxlLm9yZwBzZWNyZXQ=\r\nMAIL FROM:<ann@example.org>\r\n")
    session = application.sessions[0]
    assert session.account is not None and session.account.id == "ann@example.org"
    assert session.client.auth == "ann@example.org"
    door.close()


def test_what_a_server_of_ours_passes_through_us_is_not_its_own() -> None:
    """Without XFORWARD we know nothing of the sender: no SPF about the server in front."""
    networks = [ipaddress.ip_network("192.0.2.0/24")]
    for peer, told, trusted in (
        ("192.0.2.7", b"", False),
        ("203.0.113.5", b"", True),
        ("192.0.2.7", b"XCLIENT ADDR=198.51.100.9\r\nEHLO c\r\n", True),
    ):
        log: list[str] = []
        application = Recorder(log)
        made = SmtpDoor(
            SmtpConfig("mx.example.org", Profile.MX),
            application,
            relay_trusted=networks,
            xclient_trusted=networks,
        )
        door = Door(lambda made=made: SmtpConnection(made), log, peer=(peer, 1))  # type: ignore[misc]  # bound now
        door.feed(HELLO + told + b"MAIL FROM:<a@example.net>\r\n")
        assert application.clients[0].facts_trusted is trusted, peer
        door.close()


class Judges(LoginService):
    """Knows one account."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def authenticate(self, login: str, password: str, client: Client, service: str) -> Account | None:
        return None

    async def judge(self, evidence: Evidence, client: Client, service: str) -> Account | None:
        self.asked.append((evidence, client.ip, service))
        assert isinstance(evidence, Proof) and evidence.good
        return Account("ann@example.org") if evidence.login.lower() == "ann@example.org" else None


@pytest.mark.parametrize(
    ("profile", "login", "account", "auth"),
    [
        (Profile.SUBMISSION, "Ann@example.org", "ann@example.org", "ann@example.org"),
        (Profile.SUBMISSION, "stranger", "", ""),
        (Profile.SUBMISSION, "[UNAVAILABLE]", "", ""),
        (Profile.MX, "ann@example.org", "", "ann@example.org"),  # a fact about the sender, no right here
    ],
)
def test_a_proxy_tells_who_has_logged_in_there(profile: Profile, login: str, account: str, auth: str) -> None:
    config = SmtpConfig("mx.example.org", profile, auth=True, auth_required=profile is Profile.SUBMISSION)
    log: list[str] = []
    application, judges = Recorder(log), Judges()
    networks = [ipaddress.ip_network("192.0.2.0/24")]
    made = SmtpDoor(config, application, "submission", xclient_trusted=networks, logins=judges)
    door = Door(lambda: SmtpConnection(made), log, peer=("192.0.2.7", 1), tls=True)
    door.feed(HELLO + f"XCLIENT ADDR=198.51.100.9 LOGIN={login}\r\n".encode() + HELLO)
    door.take()
    door.feed(b"MAIL FROM:<ann@example.org>\r\n")
    if profile is Profile.SUBMISSION and not account:
        assert door.take().startswith(b"530 5.7.0 ") and not application.sessions
    else:
        session = application.sessions[0]
        assert (session.account.id if session.account else "") == account
        assert (session.client.auth, session.client.ip) == (auth, "198.51.100.9")
    assert len(judges.asked) == (profile is Profile.SUBMISSION and login[0] != "[")
    door.close()


def test_a_message_under_way_survives_the_cut_and_is_no_abort() -> None:
    door, application = connect()
    application.gate = asyncio.Event()
    door.feed(HELLO + MAIL)
    door.feed(b"hi\r\n.\r\n")
    door.cut()
    assert "abort" not in door.log
    application.gate.set()
    door.loop.run_until_complete(asyncio.sleep(0.01))
    assert door.log[-1].startswith("message")
    assert "acknowledged" not in door.log
    door.close()


def test_replies_before_the_text_do_not_wait_for_the_filters() -> None:
    door, application = connect()
    application.gate = asyncio.Event()
    door.feed(HELLO + MAIL + b"hi\r\n.\r\n")
    assert b"354" in door.take()
    application.gate.set()
    door.feed(b"")
    assert door.take() == b"250 2.0.0 Stored\r\n"
    door.close()


def test_the_server_stops_between_two_commands() -> None:
    door, application = connect()
    connection = door.protocol
    assert isinstance(connection, SmtpConnection)
    application.gate = asyncio.Event()
    door.feed(HELLO + MAIL + b"hi\r\n.\r\n")
    door.take()
    connection.shut_down()
    door.feed(b"")
    assert not door.closed
    application.gate.set()
    door.feed(b"")
    assert door.take() == b"250 2.0.0 Stored\r\n421 4.3.2 Service shutting down\r\n"
    assert door.closed
    door.close()


def test_a_flood_behind_a_slow_message_stops_reading() -> None:
    door, application = connect()
    paused: list[str] = []
    door.transport.pause_reading = lambda: paused.append("pause")  # type: ignore[method-assign]  # a spy
    door.transport.resume_reading = lambda: paused.append("resume")  # type: ignore[method-assign]  # a spy
    application.gate = asyncio.Event()
    door.feed(HELLO + MAIL + b"hi\r\n.\r\n")
    for _ in range(10):
        door.feed(b"NOOP x\r\n" * 8192)
    assert paused == ["pause"]
    application.gate.set()
    door.feed(b"")
    assert paused[-1] == "resume" or door.closed
    door.close()


def test_a_client_that_reads_nothing_stops_the_work() -> None:
    door, _ = connect()
    connection = door.protocol
    assert isinstance(connection, SmtpConnection)
    connection.pause_writing()
    door.feed(HELLO * 3)
    answered = door.transport.out.count(b"250-mx.example.org")
    assert answered < 3
    connection.resume_writing()
    door.feed(b"")
    assert door.transport.out.count(b"250-mx.example.org") == 3
    connection.pause_writing()
    door.feed(HELLO * 3)
    door.wait(400)
    assert door.closed
    door.close()


def test_the_ticket_settles_and_is_released() -> None:
    admission = Admission(AdmissionLimits())
    ticket = admission.admit("192.0.2.7")
    assert ticket is not None
    log: list[str] = []
    made = SmtpDoor(SmtpConfig("mx.example.org", Profile.MX), SmtpApplication(log))
    door = Door(lambda: made.connection(ticket), log)
    assert admission.newcomers
    door.feed(HELLO + b"MAIL FROM:<a@example.net>\r\n")
    assert not admission.newcomers
    assert admission.total == 1
    door.cut()
    assert admission.total == 0
    assert log[-1] == "abort"
    door.close()


def test_an_evicted_connection_is_gone_at_once() -> None:
    admission = Admission(AdmissionLimits(total=1))
    ticket = admission.admit("192.0.2.7")
    assert ticket is not None
    made = SmtpDoor(SmtpConfig("mx.example.org", Profile.MX), SmtpApplication([]))
    door = Door(lambda: made.connection(ticket), [])
    assert admission.admit("192.0.2.8") is not None
    assert door.closed
    door.close()


def test_options_of_the_dialog_door() -> None:
    door = smtp_door({"profile": "lmtp"})
    assert door.take() == b"220 mx.example.org LMTP\r\n"
    door.close()
