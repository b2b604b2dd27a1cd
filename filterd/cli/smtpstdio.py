"""``sendmail -bs``: SMTP on standard input and output, for programs that speak it to a command instead of a port.

The same core and shell as the doors, on one end of a socket pair; the other end is copied from and to the terminal.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

from filterd.accounts.directory import Account
from filterd.cli.localmail import EX_OK, prepare
from filterd.config.schema import Config
from rules.mail.lineends import with_crlf

BLOCK = 1 << 16


def converse(config: Config, account: Account) -> int:
    """Until QUIT or the end of the input; ``account`` is who is asking: mail may leave in this name."""
    from filterd import app
    from filterd.proto.smtp import SmtpCore
    from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
    from filterd.servers.ports import SmtpSession
    from filterd.servers.smtp import SmtpConnection, SmtpDoor
    from pipeline.envelope import Profile

    sessions: list[SmtpSession] = []

    class Caller(SmtpConnection):
        """A connection whose client is known already."""

        def begin(self) -> SmtpCore:
            core = super().begin()
            self.session.account, self.session.profile = account, Profile.DELIVER
            sessions.append(self.session)
            return core

    async def work() -> int:
        parts = app.build(config, f"deliver-{os.getpid()}")
        try:
            limits = SmtpLimits(recipients=config.limits.recipients)
            settings = SmtpConfig(
                config.server.hostname,
                Profile.SUBMISSION,
                size_limit=config.limits.message_size,
                limits=limits,
            )
            door = SmtpDoor(settings, parts.reception, listener="stdin")
            ours, theirs = socket.socketpair()
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Caller(door), ours)
            # a daemon: a client that keeps our input open after 221 must not keep us
            threading.Thread(target=_feed, args=(theirs,), daemon=True).start()
            await asyncio.to_thread(_print, theirs)
            theirs.close()
            for session in sessions:  # all of it was printed: the same words again are another message
                parts.reception.acknowledged(session)
        finally:
            parts.close()
        return EX_OK

    prepare(config)
    return app.run_loop(work())


class LineEnds:
    """Who ends the first line with LF alone, as scripts do, means it in all of them; a terminal is no network, nothing can be
    smuggled past somebody else. Who begins with CRLF is held to it."""

    def __init__(self) -> None:
        self._lenient: bool | None = None
        self._kept = b""

    def crlf(self, block: bytes) -> bytes:
        block = self._kept + block
        self._kept = b""
        if self._lenient is None and (at := block.find(b"\n")) >= 0:
            self._lenient = block[at - 1 : at] != b"\r"
        if not self._lenient:
            if self._lenient is None:
                self._kept, block = block, b""
            return block
        if block.endswith(b"\r"):
            self._kept, block = b"\r", block[:-1]
        return with_crlf(block)


def _feed(end: socket.socket) -> None:
    """Standard input to the server; its end is the client's QUIT."""
    lines = LineEnds()
    try:
        while block := os.read(sys.stdin.fileno(), BLOCK):
            end.sendall(lines.crlf(block))
        end.shutdown(socket.SHUT_WR)
    except OSError:  # the server said good-bye first
        return


def _print(end: socket.socket) -> None:
    while block := end.recv(BLOCK):
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
