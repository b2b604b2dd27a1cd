"""Our client over real connections: TLS and its failure, servers that misbehave on the wire, Postfix's smtp-sink.

Loopback only; the ports are the kernel's choice. Scripted servers are for what no honest server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from filterd.queue.dialogue import Mail
from filterd.queue.link import Broken, Link
from filterd.queue.outbound import Dialer
from filterd.queue.replies import RemoteReply
from filterd.queue.route import Hop

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TEXT = b"Subject: x\r\n\r\nbody\r\n"


def letter(*recipients: str, data: bytes = TEXT) -> Mail:
    return Mail("ann@us.example", recipients or ("bob@x.example",), data, [{}] * max(1, len(recipients)))


@contextlib.asynccontextmanager
async def server(serve: Serve, path: str = "") -> AsyncIterator[Hop]:
    tasks: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    if path:
        running = await asyncio.start_unix_server(guarded, path)
        hop = Hop("localhost", "", 0, path, True)
    else:
        running = await asyncio.start_server(guarded, "127.0.0.1", 0, limit=1 << 22)
        hop = Hop("mx.x.example", "127.0.0.1", running.sockets[0].getsockname()[1])
    try:
        yield hop
    finally:
        running.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def script(*lines: str) -> Serve:
    """Greets with the first line, then answers each command (a text is one) with the next; "" says nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(lines[0].replace("|", "\r\n").encode() + b"\r\n")
        for line in lines[1:]:
            command = await reader.readuntil(b"\r\n")
            if not line:
                await asyncio.Event().wait()
            if command.startswith(b"DATA"):
                writer.write(line.encode() + b"\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                continue
            writer.write(line.replace("|", "\r\n").encode() + b"\r\n")
        await writer.drain()

    return serve


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    run = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=mx.x.example",
    ]
    subprocess.run([*run, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def dial(hop: Hop, login: tuple[str, str] | None = None) -> Link:
    return await Dialer("us.example", login).dial(hop)


@pytest.mark.slow
def test_tls_is_used_and_everything_is_said_again(certificate: ssl.SSLContext) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        seen.append(await reader.readline())
        writer.write(b"250-x\r\n250 STARTTLS\r\n")
        seen.append(await reader.readline())
        writer.write(b"220 go\r\n")
        await writer.start_tls(certificate)
        seen.append(await reader.readline())
        writer.write(b"250 x\r\n")
        for answer in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            seen.append(await reader.readline())
            writer.write(answer)
        seen.append(await reader.readuntil(b"\r\n.\r\n"))
        writer.write(b"250 2.0.0 taken\r\n")
        await reader.read()

    async def story() -> None:
        async with server(serve) as hop:
            link = await dial(hop)
            assert link.talk.secure
            mail = letter()
            await link.attempt(mail)
            assert mail.results["bob@x.example"].good and "* TLS" in link.take_transcript()
            await link.close()

    asyncio.run(story())
    assert seen[0] == seen[2] == b"EHLO us.example\r\n" and seen[-1] == TEXT + b".\r\n"


@pytest.mark.parametrize("login", [None, ("ann", "secret")])
def test_tls_that_fails_means_clear_text_but_never_for_a_password(login: tuple[str, str] | None) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-x\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n")
        if (await reader.readline()).startswith(b"STARTTLS"):
            writer.write(b"220 go\r\n")
            await writer.drain()
            await reader.read(10)
            writer.write(b"nonsense nonsense nonsense\r\n")
            await writer.drain()

    async def story() -> None:
        async with server(serve) as hop:
            if login is not None:
                with pytest.raises(Broken, match="TLS"):
                    await dial(hop, login)
                return
            link = await dial(hop)
            assert not link.talk.secure
            await link.close()

    asyncio.run(story())
    assert connections == (1 if login else 2)


def test_replies_smuggled_in_before_tls_are_not_believed(certificate: ssl.SSLContext) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-x\r\n250 STARTTLS\r\n")
        if (await reader.readline()).startswith(b"STARTTLS"):
            writer.write(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")
            await reader.read()

    async def story() -> None:
        async with server(serve) as hop:
            with pytest.raises(Broken, match="spoke before TLS"):
                await dial(hop, ("ann", "secret"))

    asyncio.run(story())


def test_refused_in_the_middle_of_the_text() -> None:
    """552 and hanging up while we still write: the refusal is heard, not the broken pipe."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        for answer in (b"250 x\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            await reader.readline()
            writer.write(answer)
        await reader.readexactly(100_000)
        writer.write(b"552 5.3.4 too much\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)

    async def story() -> None:
        async with server(serve) as hop:
            link = await dial(hop)
            mail = letter(data=b"x" * 70 + b"\r\n" + b"y" * 40_000_000)
            await link.attempt(mail)
            assert mail.results["bob@x.example"].code == 552 and link.talk.broken and not link.fresh
            await link.close()

    asyncio.run(story())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["220 hi", "250 x", "250 ok", "250 ok", "354 go"], "closed"),
        (["220 hi", "250 x", "250 ok", "250 ok", ""], "in time"),
        (["220 hi", "250 x", "250 ok", "250 ok", "HTTP/1.1 400"], "not a reply"),
        (["220 hi", "250 x", "250 ok"], "closed"),
    ],
)
def test_conversations_that_break(lines: list[str], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.queue.dialogue.DATA_SECONDS", 0.2)

    async def story() -> None:
        async with server(script(*lines)) as hop:
            link = await dial(hop)
            mail = letter()
            with pytest.raises(Broken, match=what):
                await link.attempt(mail)
            assert not any(reply.good for reply in mail.results.values())
            await link.close()

    asyncio.run(story())


def test_421_and_the_end_answer_what_was_open() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-x\r\n250 PIPELINING\r\n")
        await reader.readline()
        writer.write(b"250 ok\r\n421 4.3.2 going down\r\n")

    async def story() -> None:
        async with server(serve) as hop:
            link = await dial(hop)
            mail = letter("a@x", "b@x")
            await link.attempt(mail)
            assert [reply.code for reply in mail.results.values()] == [421, 421] and link.talk.broken

    asyncio.run(story())


def test_half_open_and_refused_hosts_are_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filterd.queue.dialogue.GREETING_SECONDS", 0.2)
    with socket.socket() as spare:
        spare.bind(("127.0.0.1", 0))
        closed = Hop("closed.example", "127.0.0.1", spare.getsockname()[1])

    async def story() -> None:
        async with (
            server(script("", "")) as silent,
            server(script("554 5.7.1 not you")) as rude,
            server(script("220 hi", "250 x")) as good,
        ):
            dialer = Dialer("us.example")
            found = await dialer.first([closed, silent, rude, good])
            assert isinstance(found, Link) and found.hop == good
            await found.close()
            failed = await dialer.first([closed, rude])
            assert isinstance(failed, RemoteReply) and failed.code == 451 and "not you" in failed.text
            failed = await dialer.first([closed])
            assert isinstance(failed, RemoteReply) and "cannot connect to closed.example" in failed.text

    asyncio.run(story())


def test_an_idle_connection_that_was_closed_is_noticed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250 x\r\n")
        writer.write(b"421 4.4.2 too slow\r\n")
        await writer.drain()

    async def story() -> None:
        async with server(serve) as hop:
            link = await dial(hop)
            async with asyncio.timeout(5):
                while link.fresh:
                    await asyncio.sleep(0.01)
            await link.close()

    asyncio.run(story())


@pytest.mark.slow
def test_lmtp_over_a_unix_socket(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        assert (await reader.readline()).startswith(b"LHLO ")
        writer.write(b"250-x\r\n250 PIPELINING\r\n")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 2.0.0 stored\r\n452 4.2.2 full\r\n")
        await reader.read()

    async def story() -> None:
        async with server(serve, str(tmp_path / "lmtp")) as hop:
            link = await dial(hop)
            mail = letter("a@x", "b@x", "c@x")
            await link.attempt(mail)
            assert [mail.results[a].code for a in ("a@x", "b@x", "c@x")] == [250, 550, 452]
            assert link.host == hop.path
            await link.close()

    asyncio.run(story())


def test_an_endless_talker_is_cut_off() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"220-" + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async def story() -> None:
        async with server(serve) as hop:
            with pytest.raises(Broken, match="endless"):
                await dial(hop)

    asyncio.run(story())


# -- a peer ----------------------------------------------------------------------------------------------------------
SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")


@pytest.mark.peer
@pytest.mark.skipif(SINK is None, reason="Postfix's smtp-sink is not installed")
@pytest.mark.parametrize(
    "options",
    [[], ["-p"], ["-e"], ["-L"], ["-8"]],
    ids=["all", "no-pipelining", "no-ehlo", "lmtp", "no-8bit"],
)
def test_postfix_smtp_sink(options: list[str], tmp_path: Path) -> None:
    with socket.socket() as spare:
        spare.bind(("127.0.0.1", 0))
        port = spare.getsockname()[1]
    assert SINK is not None
    process = subprocess.Popen(
        [SINK, "-u", "nobody", *options, "-c", f"127.0.0.1:{port}", "20"], stdout=subprocess.DEVNULL
    )
    hop = Hop("sink.example", "127.0.0.1", port, lmtp="-L" in options)

    async def story() -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    link = await dial(hop)
                    break
                except Broken:
                    await asyncio.sleep(0.05)
        for text in (TEXT, b".\r\n..\r\n", "Grüße\r\n".encode() * 100, b"x" * 200_000):
            mail = letter("a@x.example", "b@x.example", data=text)
            await link.attempt(mail)
            assert [reply.code for reply in mail.results.values()] == [250, 250]
        assert link.fresh
        await link.close()

    try:
        asyncio.run(story())
    finally:
        process.terminate()
        process.wait(5)
