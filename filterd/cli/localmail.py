"""What ``filterd-deliver`` and ``filterd-sendmail`` share: the message handed to the reception without a socket, and sysexits.

The codes of sysexits.h are read by other mail servers: 75 means "try again" and is the answer to everything unexpected, so
that nothing is ever lost by a fault of ours; 1 is never used, senders would read it as a bounce.
"""

from __future__ import annotations

import os
import smtplib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from filterd.accounts.directory import Account
from filterd.cli import CliError
from filterd.cli.options import config_path
from filterd.config.errors import ConfigErrors, render
from filterd.config.load import load
from filterd.config.schema import Config
from filterd.local_text import DELIVER_SOCKET, MAILBOX, NO_ADDRESS, NO_PARAMS, crlf, is_path
from pipeline.reply import Reply

EX_OK, EX_USAGE, EX_DATAERR, EX_NOUSER, EX_UNAVAILABLE = 0, 64, 65, 67, 69
EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 75, 77, 78
CHUNK = 1 << 20
SOCKET_SECONDS = 300.0


class ExitWith(Exception):
    """Ends the command with a code of sysexits.h and a line on standard error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def guarded(program: str, work: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a command so that whatever happens ends in a code of sysexits.h."""
    try:
        return work(arguments)
    except ExitWith as stop:
        print(f"{program}: {stop.text}", file=sys.stderr)
        return stop.code
    except SystemExit as stop:  # argparse: --help
        return stop.code if isinstance(stop.code, int) else EX_USAGE
    except BaseException as error:
        print(f"{program}: {type(error).__name__}: {error}; try again later", file=sys.stderr)
        if os.environ.get("FILTERD_DEBUG"):
            traceback.print_exc()
        return EX_TEMPFAIL


def configuration(named: str | None) -> Config:
    """Raises ExitWith 78."""
    try:
        return load(config_path(named))
    except CliError as error:
        raise ExitWith(EX_CONFIG, error.text) from None
    except ConfigErrors as error:
        raise ExitWith(EX_CONFIG, "the configuration has errors\n" + render(error.errors)) from None


def read_message(limit: int) -> bytes:
    """Standard input. Raises ExitWith 65 when it is larger than ``limit`` octets."""
    parts: list[bytes] = []
    size = 0
    while part := sys.stdin.buffer.read(CHUNK):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise ExitWith(EX_DATAERR, f"the message has more than {limit} octets (limits.message_size)")
    return b"".join(parts)


def with_domain(address: str, config: Config) -> str:
    """``ann`` -> ``ann@`` the first domain of ours; "" and ``<>`` stay the null path."""
    bare = address.strip().removeprefix("<").removesuffix(">")
    return f"{bare}@{config.domain[0].name}" if bare and "@" not in bare else bare


def hand_in(
    config: Config,
    sender: str,
    recipients: Sequence[str],
    data: bytes,
    account: Account | None = None,
    params: Mapping[str, str] = NO_PARAMS,
) -> list[Reply]:
    """One reply a recipient. ``account``: who is sending, when one of ours is; only then may mail leave, with ``params`` of
    SMTP (NOTIFY, RET, ENVID, BODY). XMAILBOX among them: where a recipient of ours keeps it.

    Arguments may be anything: what is no address is refused as a recipient, and as a sender counts as unknown, like ``<>``.
    """
    good = [address for address in recipients if is_path(address)]
    if not is_path(sender):
        print("the sender is no address: taken as <>", file=sys.stderr)
        sender = ""
    replies = iter(_hand_in(config, sender, good, data, account, params) if good else ())
    return [next(replies) if is_path(address) else NO_ADDRESS for address in recipients]


def _hand_in(
    config: Config,
    sender: str,
    recipients: Sequence[str],
    data: bytes,
    account: Account | None,
    params: Mapping[str, str],
) -> list[Reply]:
    if account is None:
        answered = by_socket(config, sender, recipients, data, params.get(MAILBOX, ""))
        if answered is not None:
            return answered
    return _by_ourselves(config, [(sender, recipients)], data, account, params)[0]


def hand_in_all(
    config: Config,
    envelopes: Sequence[tuple[str, Sequence[str]]],
    data: bytes,
    account: Account,
    params: Mapping[str, str],
) -> list[list[Reply]]:
    """As ``hand_in``, one text with several envelopes; the senders are addresses or ""."""
    good = [(sender, [one for one in recipients if is_path(one)]) for sender, recipients in envelopes]
    ends = map(iter, _by_ourselves(config, good, data, account, params))
    return [
        [next(replies) if is_path(one) else NO_ADDRESS for one in recipients]
        for (_, recipients), replies in zip(envelopes, ends, strict=True)
    ]


def _by_ourselves(
    config: Config,
    envelopes: Sequence[tuple[str, Sequence[str]]],
    data: bytes,
    account: Account | None,
    params: Mapping[str, str],
) -> list[list[Reply]]:
    """Without the server: what it would do is done here."""
    if not any(recipients for _, recipients in envelopes):
        return [[] for _ in envelopes]
    from filterd import app
    from filterd.local_delivery import LocalDelivery
    from pipeline.envelope import Profile

    async def work() -> int:
        parts = app.build(config, f"deliver-{os.getpid()}")
        try:
            local = LocalDelivery(parts.reception, parts.delivery)
            for sender, recipients in envelopes:
                replies.append(
                    await local.deliver(sender, list(recipients), data, Profile.DELIVER, account, params)
                )
        finally:
            parts.close()
        return 0

    replies: list[list[Reply]] = []
    prepare(config)
    app.run_loop(work())
    return replies


def prepare(config: Config) -> None:
    """Become the server's user, and make the folders that the server would have made."""
    from filterd import app

    app.drop_rights(config)
    for name in ("", "run", "queue", "mail"):
        os.makedirs(os.path.join(config.server.data_dir, name), mode=0o700, exist_ok=True)


def by_socket(
    config: Config, sender: str, recipients: Sequence[str], data: bytes, mailbox: str = ""
) -> list[Reply] | None:
    """Hand the message to the running server by its own LMTP socket: much cheaper than starting all of it here.

    None: there is no server, it did not even take the sender, or it is older than ``mailbox``; nothing was done.
    """
    socket_path = os.path.join(config.server.data_dir, "run", DELIVER_SOCKET)
    try:
        with smtplib.LMTP(socket_path, local_hostname="localhost", timeout=SOCKET_SECONDS) as lmtp:
            lmtp.ehlo_or_helo_if_needed()
            if mailbox and not lmtp.has_extn(MAILBOX):
                return None
            utf8 = not all(map(str.isascii, (sender, *recipients)))
            lmtp.command_encoding = "utf-8"
            code, _ = lmtp.docmd("MAIL", f"FROM:<{sender}>{' SMTPUTF8' if utf8 else ''}")
            return _dialogue(lmtp, recipients, data, mailbox) if code == 250 else None
    except (OSError, smtplib.SMTPConnectError, smtplib.SMTPHeloError):
        return None


def _dialogue(lmtp: smtplib.LMTP, recipients: Sequence[str], data: bytes, mailbox: str) -> list[Reply]:
    """From the text on whatever breaks is 'try again': the server may have stored the message."""
    where = f" {MAILBOX}={mailbox}" if mailbox else ""
    replies = [_reply(*lmtp.docmd("RCPT", f"TO:<{address}>{where}")) for address in recipients]
    if not any(reply.positive for reply in replies):
        return replies
    try:
        code, words = lmtp.docmd("DATA")
        if code != 354:
            return [_reply(code, words) if reply.positive else reply for reply in replies]
        text = crlf(data).replace(b"\r\n.", b"\r\n..")
        lmtp.send((b"." + text if text.startswith(b".") else text) + b".\r\n")
        return [_reply(*lmtp.getreply()) if reply.positive else reply for reply in replies]
    except (OSError, smtplib.SMTPException) as error:
        raise ExitWith(EX_TEMPFAIL, f"the server went away: {error}; try again later") from None


def _reply(code: int, text: bytes) -> Reply:
    enhanced, _, words = text.decode("utf-8", "replace").partition(" ")
    return Reply(code, enhanced, words)


def exit_code(reply: Reply) -> int:
    """What a reply means to a program that reads exit codes."""
    if reply.positive:
        return EX_OK
    if reply.temporary:
        return EX_TEMPFAIL
    if reply.enhanced_code.startswith("5.1."):
        return EX_NOUSER
    return EX_UNAVAILABLE if reply.enhanced_code.startswith("5.2.") else EX_NOPERM
