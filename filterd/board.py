"""What the processes of one server tell each other at once, in shared memory: a board with one desk for each process.

The board is made before the workers are forked; each process takes a desk and writes on it alone, all read all desks, so
nothing is ever locked. Whatever is on a desk counts as long as its process lives. The board holds only what may be forgotten
when everything ends: a crash of all leaves the rules of the database (HOUSE item 11).

On a desk:
* ``living``: delivery keys of messages whose sessions live. An equal message of another session is no retry of such a one;
* ``heard``: delivery keys that clients have acknowledged, the newest of them. It closes the gap until the databases say so;
* ``clients``: how many connections each network has here (two rows of cells chosen by a keyed hash; the smaller one counts);
* ``logins``: failed log-ins of networks, one cell each; two networks with the same cell displace each other.

Fields of 8 octets and less are written in one piece; a reader that meets a change under way sees the old or the new one, or for
a moment a count too few. All that hangs on it is a delay, one connection more, or one more look.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path

from filterd import metrics
from filterd.store import durable
from pipeline.ports import Clock

DESKS = 64  # processes at once: workers, the sender, those that were replaced and still serve
LIVING = 4096  # keys
HEARD = 4096
CELLS = 4096  # of a row of clients, and of logins
HEARD_SECONDS = 60.0  # an acknowledgement is in the database long before
LOCK_FILE = "board.lock"
LOCK_SECONDS = 5.0

_HEAD = 64  # pid, number of living slots ever used, heard so far
_LIVING_AT = _HEAD
_HEARD_AT = _LIVING_AT + 8 * LIVING
_CLIENTS_AT = _HEARD_AT + 16 * HEARD
_LOGINS_AT = _CLIENTS_AT + 2 * 2 * CELLS
_LOGIN = struct.Struct("<IHHdd")
DESK_SIZE = _LOGINS_AT + _LOGIN.size * CELLS
_NUMBER = struct.Struct("<I")
_COUNT = struct.Struct("<H")
_STAMP = struct.Struct("<d")
_PID, _TOP, _HEARD_COUNT = 0, 4, 8
FREE = bytes(8)


def alive(pid: int) -> bool:
    """Is there such a process?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _mark(key: bytes) -> bytes:
    """What stands for a delivery key, which is chance all through."""
    return key[:8].ljust(8, b"\1")


class Board:
    """Made once, before the fork."""

    def __init__(self, desks: int = DESKS, started: float = 0.0) -> None:
        """``started``: when the server was, seconds since the epoch."""
        self.desks = desks
        self.started = started
        self.memory = mmap.mmap(
            -1, desks * DESK_SIZE + _NUMBER.size
        )  # at the end: how many desks were ever taken
        self.secret = secrets.token_bytes(16)
        self.meters = mmap.mmap(-1, desks * metrics.PAGE)

    @property
    def taken(self) -> int:
        """No desk from this number on was ever taken."""
        return int(_NUMBER.unpack_from(self.memory, self.desks * DESK_SIZE)[0])

    def take(self, clock: Clock, directory: Path) -> Desk:
        """A desk for this process, under a lock in ``directory``; one of its own, that nobody sees, when all are taken."""
        disk = durable.RealDisk()
        with durable.opened(disk, str(directory)) as at:
            lock = disk.open_lock(at, LOCK_FILE)
        try:
            lock.acquire(LOCK_SECONDS)
            try:
                return self._free(clock)
            finally:
                lock.release()
        finally:
            lock.close()

    def _free(self, clock: Clock) -> Desk:
        for number in range(self.desks):
            at = number * DESK_SIZE
            pid = _NUMBER.unpack_from(self.memory, at + _PID)[0]
            if pid == 0 or not alive(pid):
                self.memory[at : at + DESK_SIZE] = bytes(DESK_SIZE)
                _NUMBER.pack_into(self.memory, at + _PID, os.getpid())
                _NUMBER.pack_into(self.memory, self.desks * DESK_SIZE, max(self.taken, number + 1))
                return Desk(self, number, clock)
        return alone(clock)


def alone(clock: Clock) -> Desk:
    """A desk for a process without neighbours."""
    board = Board(1)
    _NUMBER.pack_into(board.memory, _PID, os.getpid())
    return Desk(board, 0, clock)


class Desk:
    """One process's. ``heard`` and ``elsewhere`` may be asked by any thread; all else on the loop."""

    def __init__(self, board: Board, number: int, clock: Clock) -> None:
        self._board = board
        self._memory = board.memory
        self._number = number
        self._at = number * DESK_SIZE
        self._clock = clock
        self.meter = metrics.Meter(board.meters, number * metrics.PAGE)
        self._slots: dict[bytes, list[int]] = {}  # of the living keys
        self._free: list[int] = []
        self._top = 0
        self._heard = 0

    def counted(self) -> dict[metrics.Series, float]:
        """What all processes have counted, those that ended too."""
        return metrics.totals(self._board.meters, max(self._board.taken, self._number + 1))

    @property
    def started(self) -> float:
        return self._board.started

    def leave(self) -> None:
        """The process ends in order: nothing on its desk counts any more."""
        _NUMBER.pack_into(self._memory, self._at + _PID, 0)

    def _others(self) -> Iterator[int]:
        """Where the desks of other living processes begin."""
        for number in range(self._board.taken):
            at = number * DESK_SIZE
            if number != self._number:
                pid = _NUMBER.unpack_from(self._memory, at + _PID)[0]
                if pid and alive(pid):
                    yield at

    # -- delivery keys ---------------------------------------------------------------------------
    def hold(self, key: bytes) -> None:
        """A message with this key has begun and its session lives."""
        if self._free:
            slot = self._free.pop()
        elif self._top < LIVING:
            slot, self._top = self._top, self._top + 1
            _NUMBER.pack_into(self._memory, self._at + _TOP, self._top)
        else:
            return
        mark = _mark(key)
        self._slots.setdefault(mark, []).append(slot)
        at = self._at + _LIVING_AT + 8 * slot
        self._memory[at : at + 8] = mark

    def let_go(self, key: bytes) -> None:
        """Its session is over, or went on."""
        mark = _mark(key)
        slots = self._slots.get(mark)
        if not slots:
            return
        slot = slots.pop()
        if not slots:
            del self._slots[mark]
        at = self._at + _LIVING_AT + 8 * slot
        self._memory[at : at + 8] = FREE
        self._free.append(slot)

    def elsewhere(self, key: bytes) -> bool:
        """Does a session of another process live that brought this key?"""
        mark = _mark(key)
        for at in self._others():
            top = _NUMBER.unpack_from(self._memory, at + _TOP)[0]
            start = at + _LIVING_AT
            if next(self._find(mark, start, start + 8 * top, 8), None) is not None:
                return True
        return False

    def hear(self, key: bytes) -> None:
        """The client has our reply. Called before ``let_go``."""
        at = self._at + _HEARD_AT + 16 * (self._heard % HEARD)
        self._memory[at : at + 8] = FREE  # the old mark must not meet the new time
        _STAMP.pack_into(self._memory, at + 8, self._clock.time())
        self._memory[at : at + 8] = _mark(key)
        self._heard += 1
        _NUMBER.pack_into(self._memory, self._at + _HEARD_COUNT, self._heard & 0xFFFFFFFF)

    def heard(self, key: bytes, since: float = 0.0) -> bool:
        """Was this key acknowledged a moment ago, and not before ``since``?"""
        mark = _mark(key)
        since = max(since, self._clock.time() - HEARD_SECONDS)
        for at in (self._at, *self._others()):
            used = min(HEARD, _NUMBER.unpack_from(self._memory, at + _HEARD_COUNT)[0])
            start = at + _HEARD_AT
            for place in self._find(mark, start, start + 16 * used, 16):
                if _STAMP.unpack_from(self._memory, place + 8)[0] >= since:
                    return True
        return False

    def _find(self, mark: bytes, start: int, end: int, step: int) -> Iterator[int]:
        place = self._memory.find(mark, start, end)
        while place >= 0:
            if (place - start) % step == 0:
                yield place
            place = self._memory.find(mark, place + 1, end)

    # -- networks ---------------------------------------------------------------------------
    def _cells(self, network: str) -> tuple[int, int, int]:
        """Two cells, and a tag that tells networks of one cell apart."""
        digest = hashlib.blake2b(network.encode(), digest_size=8, key=self._board.secret).digest()
        tag = int.from_bytes(digest[4:], "little") | 1
        return (
            int.from_bytes(digest[:2], "little") % CELLS,
            int.from_bytes(digest[2:4], "little") % CELLS,
            tag,
        )

    def count(self, network: str, change: int) -> None:
        """Connections of ``network`` to this process: one more, one less."""
        first, second, _ = self._cells(network)
        for cell in (first, CELLS + second):
            at = self._at + _CLIENTS_AT + 2 * cell
            held = _COUNT.unpack_from(self._memory, at)[0] + change
            _COUNT.pack_into(self._memory, at, min(0xFFFF, max(0, held)))

    def connections(self, network: str) -> int:
        """Connections of ``network`` to all processes; other networks may be counted in, very rarely."""
        first, second, _ = self._cells(network)
        rows = [0, 0]
        for at in (self._at, *self._others()):
            for row, cell in enumerate((first, CELLS + second)):
                rows[row] += _COUNT.unpack_from(self._memory, at + _CLIENTS_AT + 2 * cell)[0]
        return min(rows)

    def note_logins(self, network: str, failures: int, waiting: int, last: float, forgiven: float) -> None:
        """What this process knows of the log-ins of ``network``; times are monotonic ones of the machine."""
        cell, _, tag = self._cells(network)
        at = self._at + _LOGINS_AT + _LOGIN.size * cell
        _LOGIN.pack_into(self._memory, at, tag, min(failures, 0xFFFF), min(waiting, 0xFFFF), last, forgiven)

    def logins(self, network: str) -> list[tuple[int, int, float, float]]:
        """(failures, waiting, last, forgiven) as each other process knows them."""
        cell, _, tag = self._cells(network)
        found = []
        for at in self._others():
            theirs, failures, waiting, last, forgiven = _LOGIN.unpack_from(
                self._memory, at + _LOGINS_AT + _LOGIN.size * cell
            )
            if theirs == tag:
                found.append((failures, waiting, last, forgiven))
        return found
