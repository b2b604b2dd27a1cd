"""Mail that an alias or a .forward gives to a program or puts into a file (``filterd.accounts.outlets``).

At the door it becomes an item of the queue, which is its commit record: it has a delivery key, so a client that lost our reply and
sends again adds nothing; its text is made then, once. The sending process does the rest, tries again and tells the sender when
nothing helps, as with mail that leaves; a failing program never holds up a door.

A file gets the message once (``filterd.store.mailfile``). A program runs again only when the machine or the server dies between
its end and the moment that is written down, as SMTP leaves such a moment, too, or when the server is told to end and the program
takes longer than ``queue.sender.STOP_SECONDS``. Its exit status counts as sysexits.h says: 0 is
success; 75 (and 71, which blames the system) means later; all else is a permanent failure. What is our own failure (no
filterd-exec, no such program, a program that was ended before its own end, a file that must not be written) is tried again
until ``queue.max_age``. Programs get what Postfix's local(8) gives them: a From_ line, Return-Path, Delivered-To, LF line ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from filterd.accounts.outlets import NOTHING, Outlet, Permits, decoded
from filterd.config.schema import Config
from filterd.execbridge import facts_of
from filterd.execclient import ExecClient, answers
from filterd.queue.base import Outgoing
from filterd.queue.replies import RemoteReply
from filterd.queue.rows import OUTLET, Item
from filterd.store import mailfile
from filterd.store.base import StoreUnavailable
from filterd.store.durable import Disk, LockRules
from filterd.stores import mbox_settings
from pipeline.ports import Clock

log = logging.getLogger("filterd.outlets")

T = TypeVar("T")
THREADS = 4  # of the sending process, which write files: some wait for the locks of an mbox

DONE = RemoteReply(250, ("2.0.0 done",))
NOT_NOW = RemoteReply(451, ("4.3.5 it cannot be delivered now",))
LATER_STATUS = (71, 75)  # EX_OSERR, EX_TEMPFAIL
NOT_STARTED = 127  # filterd-exec could not start it, or a shell script's command is missing
# sysexits.h -> RFC 3463, as other servers have it; 5.3.0 for the rest
STATUS = {65: "5.6.0", 67: "5.1.1", 68: "5.1.2", 73: "5.2.0", 77: "5.7.0"}


def fields(reverse_path: str, address: str, trace: str) -> bytes:
    """RFC 5321 4.4: the final delivery adds Return-Path; Delivered-To cuts loops."""
    return f"Return-Path: <{reverse_path}>\r\nDelivered-To: {address}\r\nX-Filterd-Trace: {trace}\r\n".encode(
        "utf-8", "surrogateescape"
    )


def queued(outlet: Outlet, out: Outgoing) -> Outgoing:
    """``out`` as it waits for its program or file."""
    kind = "program" if outlet.program else "file"
    return replace(out, kind=kind, params={**out.params, OUTLET: outlet.encode()}, lane=outlet.lane)


async def ready(path: str, wanted: Sequence[Outlet | None]) -> bool:
    """Asked at RCPT: where a program is wanted, does filterd-exec (``path``) run? Else the mail is asked to come later."""
    if not any(one is not None and one.program for one in wanted):
        return True
    if path and await answers(path):
        return True
    log.warning(
        "exec.socket %s does not answer: mail for a program is asked to come later", path or "is not set"
    )
    return False


@dataclass(slots=True)
class OutletDelivery:
    """The sending process's end of it. ``client`` None: no service for programs is configured. ``started``: when the process began,
    seconds since the epoch: what came before may have been delivered by the one before."""

    permits: Permits
    client: ExecClient | None
    disk: Disk
    locks: LockRules
    started: float
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="outlets")
    )

    def close(self) -> None:
        """What runs is let go to its end: it waits for the locks of an mbox so long as ``locks`` says."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _beside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def deliver(self, item: Item, data: bytes) -> tuple[RemoteReply, str]:
        """One try. Raises nothing that the world is to blame for."""
        outlet = decoded(item.params.get(OUTLET, ""))
        if outlet is None:
            log.error("%s: nobody knows the program or file it is for", item.id)
            return NOT_NOW, ""
        why = self.permits.holds(outlet)
        if why:
            log.warning("%s for %s, %s: %s", item.id, item.recipient, outlet, why)
            return NOT_NOW, f"{outlet} ({why})"
        if outlet.path == NOTHING:
            return DONE, NOTHING
        if outlet.program:
            return await self._program(item, outlet, data)
        return await self._file(item, outlet, data)

    async def _file(self, item: Item, outlet: Outlet, data: bytes) -> tuple[RemoteReply, str]:
        doubtful = item.created < self.started or item.attempts > 0
        mail = mailfile.FileMail(item.reverse_path, data, item.id, item.created, doubtful)
        folder = self.permits.folder(outlet)
        try:
            await self._beside(partial(mailfile.deliver, self.disk, outlet.path, folder, mail, self.locks))
        except StoreUnavailable as error:
            log.warning("%s for %s: %s", item.id, item.recipient, error)
            return NOT_NOW, f"{outlet} ({error})"
        return DONE, str(outlet)

    async def _program(self, item: Item, outlet: Outlet, data: bytes) -> tuple[RemoteReply, str]:
        head = mailfile.from_line(item.reverse_path, item.created)
        text = await self._beside(lambda: head + mailfile.unix_text(data))
        facts = facts_of(outlet.owner or item.recipient, item.reverse_path, item.recipient)
        answer = None
        if self.client is not None:
            answer = await self.client.run(outlet.program, outlet.arguments, text, facts)
        if answer is None:
            return NOT_NOW, f"{outlet} (there is no such program, or filterd-exec does not run)"
        status = answer[0]
        reply, why = reply_of(status)
        if why:
            log.info("%s for %s, %s: %s", item.id, item.recipient, outlet, why)
        return reply, f"{outlet} ({why})" if why else str(outlet)


def outlets_of(config: Config, disk: Disk, clock: Clock) -> OutletDelivery:
    """As the configuration has it. ``filterd-exec`` may come and go."""
    chosen = config.exec
    client = ExecClient(chosen.socket, chosen.timeout, chosen.output) if chosen.socket else None
    return OutletDelivery(Permits.of(config), client, disk, mbox_settings(config).locks, clock.time())


def written(path: str, folder: str) -> str:
    """What keeps us from writing this file, as far as can be seen; "" for nothing."""
    try:
        mailfile.checked(path, folder)
    except StoreUnavailable as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""


def reply_of(status: int) -> tuple[RemoteReply, str]:
    """What a program's exit status says to the sender, and to the operator."""
    if status == 0:
        return DONE, ""
    if status < 0:
        return NOT_NOW, "it was ended before its own end"
    if status in (*LATER_STATUS, NOT_STARTED):
        return RemoteReply(
            451, ("4.3.0 the program for this address cannot take it now",)
        ), f"status {status}"
    code = STATUS.get(status, "5.3.0")
    return RemoteReply(550, (f"{code} the program for this address does not take it",)), f"status {status}"
