"""The builtin classifier: reads messages and tables in one thread, so that the loop never waits.

Tables that were used lately stay open. An owner without a table has learned nothing; asking makes no files.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from filterd.accounts.names import split
from filterd.learning.lesson import FAILED, Lesson, Outcome
from filterd.learning.table import Table
from pipeline.errors import StageFault
from pipeline.ports import Clock
from pipeline.spam.bayes import Counts, Opinion, judge
from pipeline.spam.tokens import hashed, tokens
from rules.mail.message import Message

OPEN: Final = 64  # tables
DAY: Final = 86_400
SHARED: Final = "shared.db"
KNOWN: Final = 10_000  # owners whose having a table is remembered
KNOWN_SECONDS: Final = 2.0
NAMED: Final = 12  # telling tokens that are told by name


def table_path(root: Path, owner: str) -> Path:
    """``root``: the folder ``learning/bayes``. Owners are account ids: safe as names of folders (``names.account_id``)."""
    if not owner:
        return root / SHARED
    user, domain = split(owner)
    return root / domain / f"{user}.db"


class BayesClassifier:
    """``pipeline.spam.bayes.Classifier``, and the teacher of the same tables. One a process.

    ``shared``: what people teach counts for everybody too.
    """

    name = "builtin"

    def __init__(
        self,
        root: Path,
        secret: bytes,
        clock: Clock,
        least: int,
        shared: bool = False,
        max_size: int = 1 << 20,
    ) -> None:
        self.max_size = max_size
        self._root, self._secret, self._clock = root, secret, clock
        self._least, self._shared = least, shared
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._known: dict[str, tuple[float, bool]] = {}
        self._thread = ThreadPoolExecutor(1, "bayes")

    def knows(self, owner: str) -> bool:
        now = self._clock.monotonic()
        found = self._known.get(owner)
        if found is None or found[0] < now:
            if len(self._known) > KNOWN:
                self._known.clear()
            there = any(table_path(self._root, one).exists() for one in {owner, ""})
            found = self._known[owner] = (now + KNOWN_SECONDS, there)
        return found[1]

    async def ask(self, owners: Sequence[str], data: bytes) -> list[Opinion]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._ask, tuple(owners), data)
        except (sqlite3.Error, OSError) as error:
            raise StageFault("unavailable", f"the table of the classifier: {error}") from error

    async def teach(self, account: str, lessons: Sequence[Lesson]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._teach, account, tuple(lessons))
        except (sqlite3.Error, OSError) as error:
            return [Outcome(FAILED, f"the table of the classifier: {error}")] * len(lessons)

    async def close(self) -> None:
        """End the thread; what is under way is done first."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        while self._tables:
            self._tables.popitem()[1].close()

    # -- in the thread ---------------------------------------------------------------------------------------------------
    def _ask(self, owners: tuple[str, ...], data: bytes) -> list[Opinion]:
        names = tokens(Message(data))
        numbers = hashed(names, self._secret)
        shared = self._counts("", numbers)
        out = []
        for owner in owners:
            own = self._counts(owner, numbers) if owner else Counts()
            out.append(judge(numbers, own, shared, self._least).named(names, NAMED))
        return out

    def _counts(self, owner: str, numbers: Sequence[int]) -> Counts:
        table = self._table(owner, make=False)
        return table.counts(numbers) if table is not None else Counts()

    def _teach(self, account: str, lessons: tuple[Lesson, ...]) -> list[Outcome]:
        items = [(one.digest, one.kind, hashed(tokens(Message(one.data)), self._secret)) for one in lessons]
        day = int(self._clock.time() // DAY)
        own = self._table(account, make=True)
        assert own is not None
        done = own.learn(items, day)
        if self._shared and account:
            everybody = self._table("", make=True)
            assert everybody is not None
            everybody.learn(items, day)
        return [Outcome(what) for what in done]

    def _table(self, owner: str, make: bool) -> Table | None:
        table = self._tables.get(owner)
        path = table_path(self._root, owner)
        if table is not None and path.exists():  # an account that was purged takes its file along
            self._tables.move_to_end(owner)
            return table
        if table is not None:
            self._tables.pop(owner).close()
        if not make and not path.exists():
            return None
        table = self._tables[owner] = Table(path)
        while len(self._tables) > OPEN:
            self._tables.popitem(last=False)[1].close()
        return table
