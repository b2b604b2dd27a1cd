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

BLOCK = 1 << 16


def converse(config: Config, account: Account) -> int:
    """Until QUIT or the end of the input; ``account`` is who is asking: mail may leave in this name."""
    from filterd import app
    from filterd.proto.smtp import SmtpCore
    from filterd.proto.smtp_limits import SmtpConfig, SmtpLimits
    from filterd.servers.smtp import SmtpConnection, SmtpDoor
    from pipeline.envelope import Profile

    class Caller(SmtpConnection):
        """A connection whose client is known already."""

        def begin(self) -> SmtpCore:
            core = super().begin()
            self.session.account, self.session.profile = account, Profile.DELIVER
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
        finally:
            parts.close()
        return EX_OK

    prepare(config)
    return app.run_loop(work())


def _feed(end: socket.socket) -> None:
    """Standard input to the server; its end is the client's QUIT."""
    try:
        while block := os.read(sys.stdin.fileno(), BLOCK):
            end.sendall(block)
        end.shutdown(socket.SHUT_WR)
    except OSError:  # the server said good-bye first
        return


def _print(end: socket.socket) -> None:
    while block := end.recv(BLOCK):
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
