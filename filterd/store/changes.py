"""Who must look again: change notices between the processes, and from other programs (HOUSE item 17).

* After a commit ``changed`` tells the watchers of this process and sends one Unix datagram (account, mailbox, modseq) to each
  other process of the server. A receiver that does not keep up gets it a little later, many notices of a mailbox as one.
* One inotify instance watches ``new`` and ``cur`` of the mailboxes that somebody here watches (``follow`` says where they are).
* A sweep every SWEEP_SECONDS compares the mtimes of the same directories: the net below both.

A notice is only a hint to look. Sockets lie in the run directory as ``notice-<process>``; a dead one is removed by who finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filterd.store import names
from filterd.store.inotify import Inotify

PREFIX = "notice-"
SWEEP_SECONDS = 30.0
PEERS_SECONDS = 1.0  # the list of other processes is believed so long
RETRY_SECONDS = 0.02
MAX_DATAGRAM = 4096

Key = tuple[str, str]  # account, mailbox


@dataclass(slots=True)
class _Watched:
    """One mailbox that somebody here looks at."""

    wakes: list[Callable[[], None]] = field(default_factory=list)
    paths: tuple[str, ...] = ()
    watches: tuple[int, ...] = ()
    times: tuple[int, ...] = ()


class NoticeHub:
    """``servers.ports.Notices``. Made on the running loop; without one (a command) it only sends."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = PREFIX + name
        self._lock = threading.Lock()  # of the peers and what waits for them
        self._peers: list[str] = []
        self._peers_until = 0.0
        self._peers_times: tuple[int, ...] = ()
        self._waiting: dict[str, set[bytes]] = {}
        self._watched: dict[Key, _Watched] = {}
        self._by_watch: dict[int, Key] = {}
        self._path_of: Callable[[str], str] | None = None
        self._places_of: Callable[[str, str], tuple[str, ...]] | None = None
        self._inotify: Inotify | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._bound = False  # until somebody here watches: nobody else need send us anything
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _bind(self) -> None:
        """From now on the others tell us: somebody here watches. Until they have seen it, inotify does."""
        if self._bound or self._loop is None:
            return
        self._bound = True
        path = str(self._directory / self._name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket.bind(path)
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def follow(
        self, path_of: Callable[[str], str], places_of: Callable[[str, str], tuple[str, ...]] | None = None
    ) -> None:
        """Where accounts have their mail: needed to see what other programs do. ``places_of``: what to watch of (account,
        mailbox); without it ``new`` and ``cur`` of its Maildir folder."""
        self._path_of = path_of
        self._places_of = places_of

    def close(self) -> None:
        if self._loop is not None and self._bound:
            self._bound = False
            self._loop.remove_reader(self._socket.fileno())
            with contextlib.suppress(OSError):
                os.unlink(self._directory / self._name)
        self._socket.close()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._inotify is not None:
            if self._loop is not None and self._inotify.fd >= 0:
                self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    # -- watching, on the loop ------------------------------------------------------------------------------------------------
    def watch(self, account: str, mailbox: str, wake: Callable[[], None]) -> Callable[[], None]:
        """``wake`` is called on the loop when the mailbox may have changed; the returned function ends the watch. The mailbox ""
        is the account: which mailboxes there are, subscriptions, metadata."""
        self._bind()
        key = (account, names.normalise_known(mailbox) if mailbox else "")
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched()
            self._look_at(key, watched)
        watched.wakes.append(wake)
        if self._sweep is None and self._loop is not None:
            self._sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep_all)
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                watched.wakes.remove(wake)
                if not watched.wakes and self._watched.get(key) is watched:
                    del self._watched[key]
                    self._look_away(watched)

        return end

    def _look_at(self, key: Key, watched: _Watched) -> None:
        if self._path_of is None or self._loop is None:
            return
        if self._inotify is None:
            self._inotify = Inotify()
            if self._inotify.fd >= 0:
                self._loop.add_reader(self._inotify.fd, self._foreign)
        account, mailbox = key
        if not mailbox:  # what other programs do to the folders: the sweep sees it
            watched.paths = (self._path_of(account),)
            watched.times = _times(watched.paths)
            return
        folder = os.path.join(self._path_of(account), names.encode_directory(mailbox))
        watched.paths = (os.path.join(folder, "new"), os.path.join(folder, "cur"))
        if self._places_of is not None:
            watched.paths = self._places_of(account, mailbox)
        watched.times = _times(watched.paths)
        watched.watches = tuple(self._inotify.add(path) for path in watched.paths)
        for number in watched.watches:
            self._by_watch[number] = key

    def _look_away(self, watched: _Watched) -> None:
        for number in watched.watches:
            self._by_watch.pop(number, None)
            if self._inotify is not None:
                self._inotify.remove(number)

    def _foreign(self) -> None:
        if self._inotify is None:
            return
        watches, over = self._inotify.events()
        keys = set(self._watched) if over else {self._by_watch[n] for n in watches if n in self._by_watch}
        for key in keys:
            self._wake(key)

    def _sweep_all(self) -> None:
        self._sweep = None
        if self._watched and self._loop is not None:
            self._sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep_all)
        for key, watched in list(self._watched.items()):
            times = _times(watched.paths)
            if times != watched.times or not watched.paths:
                watched.times = times
                self._wake(key)

    def _wake(self, key: Key) -> None:
        watched = self._watched.get(key)
        if watched is not None:
            for wake in list(watched.wakes):
                wake()

    # -- telling, from any thread -----------------------------------------------------------------------------------------------
    def changed(self, account: str, mailbox: str, modseq: int) -> None:
        """A commit was made here."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody here wants to know
                self._loop.call_soon_threadsafe(self._wake, (account, mailbox))
        message = b"\0".join((account.encode(), mailbox.encode(), b"%d" % modseq))
        with self._lock:
            for peer in self._others():
                self._send(peer, message)

    def _others(self) -> list[str]:
        """Paths of the other processes' sockets. Under the lock."""
        now = self._loop.time() if self._loop is not None else 0.0
        times = _times((str(self._directory),))  # somebody who came a moment ago shall hear of this already
        if now >= self._peers_until or times != self._peers_times:
            self._peers_until, self._peers_times = now + PEERS_SECONDS, times
            with contextlib.suppress(FileNotFoundError):
                self._peers = [
                    str(self._directory / name)
                    for name in os.listdir(self._directory)
                    if name.startswith(PREFIX) and name != self._name
                ]
        return self._peers

    def _send(self, peer: str, message: bytes) -> None:
        if peer in self._waiting:
            self._waiting[peer].add(message.rpartition(b"\0")[0])
            return
        try:
            self._socket.sendto(message, peer)
        except BlockingIOError:
            self._waiting[peer] = {message.rpartition(b"\0")[0]}
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._loop.call_later, RETRY_SECONDS, self._send_waiting)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(peer)
        except OSError:
            self._peers_until = 0.0  # gone: list anew

    def _send_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            for peer, messages in waiting.items():
                for message in messages:
                    self._send(peer, message + b"\0" + b"0")

    def _receive(self) -> None:
        keys: set[Key] = set()
        with contextlib.suppress(BlockingIOError):
            for _ in range(256):
                parts = self._socket.recv(MAX_DATAGRAM).split(b"\0")
                if len(parts) == 3:
                    keys.add((parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")))
        for key in keys:
            self._wake(key)


def _times(paths: tuple[str, ...]) -> tuple[int, ...]:
    out = []
    for path in paths:
        try:
            out.append(os.stat(path).st_mtime_ns)
        except OSError:
            out.append(0)
    return tuple(out)
