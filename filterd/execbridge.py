"""Programs for scripts, as the delivery sees them: pipe when the actions are carried out, filter and execute while a script runs.

A script first runs as always; when it asks for a program, ``AccountHost.needed_program`` is set and it runs once more, from the
beginning, in a thread of its own, where it may wait: there the store's facts are asked of the account's job one by one, so
that no account and no thread of others is held meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from filterd.execclient import AT_ONCE, ExecClient
from filterd.servers.ports import Jobs
from filterd.sieve_host import AccountHost
from filterd.store.base import AccountStore, MailboxInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoopStore:
    """The facts of an account's store, for a thread that is no job of the account."""

    loop: asyncio.AbstractEventLoop
    jobs: Jobs
    account: str

    def _ask(self, question: Callable[[AccountStore], T]) -> T:
        return asyncio.run_coroutine_threadsafe(self.jobs.run(self.account, question), self.loop).result()

    def mailboxes(self) -> tuple[MailboxInfo, ...]:
        return self._ask(lambda store: store.mailboxes())

    def remembered(self, key: bytes, now: float) -> bool:
        return self._ask(lambda store: store.remembered(key, now))

    def get_metadata(self, mailbox: str | None, name: str) -> str | None:
        return self._ask(lambda store: store.get_metadata(mailbox, name))


def facts_of(account: str, sender: str, recipient: str) -> dict[str, str]:
    """What every program is told of the message, in its environment."""
    return {"USER": account, "SENDER": sender, "RECIPIENT": recipient}


@dataclass(slots=True)
class Programs:
    """One a worker."""

    client: ExecClient
    jobs: Jobs
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(AT_ONCE, thread_name_prefix="programs")
    )

    async def run(
        self, account: str, host: AccountHost, facts: Mapping[str, str], work: Callable[[], T]
    ) -> T:
        """``work`` runs a script whose host may wait for programs."""
        loop = asyncio.get_running_loop()
        host.needed_program = host.needed_store = False
        host.store = LoopStore(loop, self.jobs, account)
        host.programs = self.client.blocking(loop, facts)
        return await loop.run_in_executor(self._pool, work)

    async def pipe(
        self, program: str, arguments: Sequence[str], data: bytes, facts: Mapping[str, str]
    ) -> str:
        """ "" when the program took the message, else why it did not."""
        answer = await self.client.run(program, arguments, data, facts)
        if answer is None:
            return f"there is no program {program}, or it cannot be run now"
        status, _ = answer
        if status < 0:
            return f"the program {program} was ended before its own end"
        return f"the program {program} failed with status {status}" if status else ""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
