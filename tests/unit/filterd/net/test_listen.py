from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest

from filterd.net.limits import Admission, AdmissionLimits
from filterd.net.listen import ListenAddress, Server, bind, bound_address, parse
from filterd.net.tls import TlsFiles, ensure_self_signed
from filterd.proto.smtp_limits import SmtpConfig, SmtpPatience
from filterd.servers.smtp import SmtpDoor
from pipeline.envelope import Profile
from tests.doors import SmtpApplication


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:25", ListenAddress("127.0.0.1", 25)),
        ("localhost:0", ListenAddress("localhost", 0)),
        ("[::]:587", ListenAddress("::", 587)),
        (":25", ListenAddress("", 25)),
        ("*:25", ListenAddress("", 25)),
        ("unix:/run/filterd/lmtp", ListenAddress(path="/run/filterd/lmtp")),
    ],
)
def test_addresses(text: str, address: ListenAddress) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    "text", ["", "25", "host", "host:", "host:x", "host:65536", "::1:25", "unix:run", "unix:/" + "x" * 120]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_addresses_are_shown_as_they_are_written() -> None:
    for text in ("127.0.0.1:25", "[::1]:587", "unix:/run/x"):
        assert str(parse(text)) == text


def door(log: list[str], files: TlsFiles | None = None) -> SmtpDoor:
    config = SmtpConfig("mx.example.org", Profile.MX, starttls=files is not None)
    return SmtpDoor(config, SmtpApplication(log), context=None if files is None else files.current)


def reply(client: socket.socket) -> bytes:
    """One whole reply; what came before the end when the server closed."""
    out = b""
    while not (out.endswith(b"\r\n") and out.split(b"\r\n")[-2][3:4] == b" "):
        piece = client.recv(65536)
        if not piece:
            break
        out += piece
    return out


def talk(client: socket.socket, *lines: bytes, greeted: bool = False) -> bytes:
    out = b"" if greeted else reply(client)
    for line in lines:
        client.sendall(line + b"\r\n")
        out += reply(client)
    return out


@pytest.mark.e2e
def test_flooding_one_address_does_not_delay_another() -> None:
    """RELIABILITY 7: 300 idle connections of one address; another is greeted at once, TLS and unix sockets too."""

    async def body() -> None:
        admission = Admission(AdmissionLimits(total=200, per_address=20))
        listener = bind(parse("127.0.0.1:0"))
        server = Server(listener, door([]).connection, admission, refusal=SmtpDoor.REFUSAL)
        server.start()
        port = bound_address(listener).port

        def flood() -> tuple[int, float]:
            idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(300)]
            began = time.perf_counter()
            with socket.create_connection(("127.0.0.1", port), 5, source_address=("127.0.0.2", 0)) as good:
                assert good.recv(100).startswith(b"220 ")
                waited = time.perf_counter() - began
            refused = 0
            for client in idle:
                client.settimeout(5)
                refused += client.recv(100).startswith(b"421 ")
                client.close()
            return refused, waited

        refused, waited = await asyncio.to_thread(flood)
        server.stop()
        await asyncio.sleep(0.05)
        listener.close()
        assert refused == 280
        assert waited < 1.0

    asyncio.run(body())


@pytest.mark.e2e
def test_starttls_and_implicit_tls_over_sockets(tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    ensure_self_signed(cert, key, ["localhost"], time.time())
    trust = ssl.create_default_context(cafile=cert)
    log: list[str] = []

    async def body() -> None:
        files = TlsFiles(cert, key)
        admission = Admission(AdmissionLimits())
        plain, wrapped = bind(parse("127.0.0.1:0")), bind(parse("127.0.0.1:0"))
        local = bind(parse(f"unix:{tmp_path}/smtp"))
        made = door(log, files)
        servers = [
            Server(plain, made.connection, admission),
            Server(wrapped, made.connection, admission, context=files.current),
            Server(local, made.connection, admission),
        ]
        for server in servers:
            server.start()

        def clients() -> None:
            with socket.create_connection(("127.0.0.1", bound_address(plain).port), 5) as raw:
                assert b"220 2.0.0" in talk(raw, b"EHLO c", b"STARTTLS\r\nMAIL FROM:<injected@example.net>")
                with trust.wrap_socket(raw, server_hostname="localhost") as tls:
                    answers = talk(tls, b"EHLO c", b"MAIL FROM:<a@example.net>", b"QUIT", greeted=True)
                    assert b"STARTTLS" not in answers
                    assert b"250 2.1.0" in answers
            with socket.create_connection(("127.0.0.1", bound_address(wrapped).port), 5) as raw:
                with trust.wrap_socket(raw, server_hostname="localhost") as tls:
                    assert b"221" in talk(tls, b"EHLO c", b"QUIT")
            with socket.socket(socket.AF_UNIX) as unix:
                unix.settimeout(5)
                unix.connect(f"{tmp_path}/smtp")
                assert b"221" in talk(unix, b"QUIT")
            with socket.create_connection(("127.0.0.1", bound_address(wrapped).port), 5) as raw:
                raw.sendall(b"EHLO no tls here\r\n")
                raw.settimeout(5)
                while True:  # an alert perhaps, then the end
                    try:
                        if not raw.recv(100):
                            break
                    except ConnectionResetError:
                        break

        await asyncio.to_thread(clients)
        for server in servers:
            server.stop()
        for _ in range(100):
            if admission.total == 0:
                break
            await asyncio.sleep(0.02)
        assert (admission.total, admission.by_key, admission.newcomers) == (0, {}, {})
        for listener in (plain, wrapped, local):
            listener.close()

    asyncio.run(body())
    assert [entry for entry in log if entry.startswith("mail")] == ["mail <a@example.net>"]


@pytest.mark.e2e
def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    address = parse(f"unix:{tmp_path}/s")
    bind(address).close()
    live = bind(address)
    with pytest.raises(OSError):
        bind(address)
    live.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError):
        bind(parse(f"unix:{tmp_path}/file"))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.e2e
def test_broken_handshakes_and_resets_leave_nothing(tmp_path: Path) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    ensure_self_signed(cert, key, ["localhost"], time.time())
    log: list[str] = []

    async def body() -> None:
        files = TlsFiles(cert, key)
        admission = Admission(AdmissionLimits())
        config = SmtpConfig("mx", Profile.MX, starttls=True, patience=SmtpPatience(handshake=0.3))
        made = SmtpDoor(config, SmtpApplication(log), context=files.current)
        plain, wrapped = bind(parse("127.0.0.1:0")), bind(parse("127.0.0.1:0"))
        Server(plain, made.connection, admission).start()
        Server(wrapped, made.connection, admission, context=files.current, handshake_seconds=0.3).start()

        def clients() -> None:
            upgrade, direct = bound_address(plain).port, bound_address(wrapped).port
            for last_words in (b"garbage\r\n" * 10, b"", None):
                for port in (upgrade, direct):
                    client = socket.create_connection(("127.0.0.1", port), 5)
                    if port == upgrade:
                        talk(client, b"STARTTLS")
                    client.sendall(last_words or b"")
                    if last_words is not None:
                        client.close()
                    else:  # silent until the handshake's time is up
                        assert client.recv(100) == b""
                        client.close()
            reset = socket.create_connection(("127.0.0.1", upgrade), 5)
            talk(reset, b"EHLO c", b"MAIL FROM:<a@example.net>")
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reset.close()

        await asyncio.to_thread(clients)
        for _ in range(100):
            if admission.total == 0:
                break
            await asyncio.sleep(0.02)
        assert (admission.total, admission.by_key, admission.tickets) == (0, {}, set())
        for listener in (plain, wrapped):
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    asyncio.run(body())
    assert log == ["mail <a@example.net>", "abort"]
