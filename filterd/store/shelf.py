"""What a process keeps ready of its accounts' indexes, within one bound for all of them: the longest unused goes first.

Values are never changed once they are here, so whoever still has one may go on using it after it was put out; but for the rows
of ``rowcache``, which only whoever has the account reads and changes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

SHELF_OCTETS = 64 * 1024 * 1024
Key = tuple[str, str, str]  # account, mailbox id, what


@dataclass(slots=True)
class Shelf:
    """May be used by many threads."""

    limit: int = SHELF_OCTETS
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: OrderedDict[Key, tuple[object, int]] = field(default_factory=OrderedDict)
    _octets: int = 0

    def get(self, key: Key) -> object | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: object, octets: int) -> None:
        """``octets``: about what it takes. What is larger than the whole shelf is not kept."""
        with self._lock:
            self._drop(key)
            if octets > self.limit:
                return
            self._kept[key] = (value, octets)
            self._octets += octets
            while self._octets > self.limit:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._octets -= found[1]
