"""The process group: a small parent that binds, forks and restarts; workers that serve; one process that sends.

The parent runs no event loop and parses nothing. It binds every listener once, so that a dying worker loses no waiting
connection, writes the pid file, and restarts what dies (with growing pauses when it dies at once). SIGTERM and SIGINT end
everything in order; SIGHUP replaces the workers one generation by another: the old ones (told by SIGUSR1) take nobody new
and serve whom they have to the end. An exclusive role (the sender) never runs twice: the old one ends first. When the parent
is killed its children die with it, so that the next start finds the ports free.
No signal is lost while a process starts: the parent holds them back from before the fork until the child has let go of the
parent's handlers; what came meanwhile ends the child then, which has begun nothing yet. SIGHUP is the parent's alone: its
children ignore it, so that one sent to the whole group (a closed terminal, ``pkill -HUP``) cuts nobody off.
Ready is who serves, not who was forked: each child tells the parent, by its process id down a pipe, that it has built itself and
takes connections. When all have, or after READY_SECONDS those that can, ``ready`` is called and systemd is told READY through
NOTIFY_SOCKET (sd_notify protocol; also RELOADING, STOPPING, STATUS); who is missing is named in the log and in STATUS, anew when
that changes. Meanwhile the parent does what it always does: what never comes up is started again and again, and while nobody serves
nothing is announced. It never ends by itself, so that systemd and people see one state, with its reason in the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

log = logging.getLogger("filterd.workers")

STOP_SECONDS = 10.0  # after SIGTERM, before SIGKILL
READY_SECONDS = 60.0  # systemd waits 90 by default
SETTLE_SECONDS = 5.0  # between the first change of who serves and the word of it
REPLACE_SECONDS = (
    30.0  # an exclusive role that was told to end, and does not, is killed: nobody does its work
)
PID_OCTETS = 4
RESTART_PAUSE = (0.1, 0.5, 2.0, 5.0, 15.0)
STEADY_SECONDS = 30.0  # a process that lived this long starts again with the first pause
NEVER = float("inf")
RETIRE = signal.SIGUSR1  # to a worker of the last generation
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
M_MMAP_THRESHOLD = -3
ENDING = (signal.SIGTERM, signal.SIGINT, RETIRE)  # end a child that has no handlers of its own yet


def sd_notify(text: str) -> None:
    """Tell systemd, when it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(text.encode(), address)


def fresh_large_buffers() -> None:
    """glibc: take memory of 256 KiB and more from the system, and give it back, whatever was freed before.

    uvloop gives each TLS connection a buffer of 256 KiB and uses a page or two of it. In fresh memory only those count: an idle
    IMAP connection over TLS is 20 KiB, and 48 where the buffer lies in what log-ins and messages have left behind.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 256 * 1024)


def die_with(parent: int) -> None:
    """Linux: whoever kills the parent kills us. Elsewhere an orphan goes on until it is told to stop."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(70)


def hold_reload() -> None:
    """Before the configuration is read: a SIGHUP from now on waits for the group, instead of ending a server that starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))


def ending_of(status: int) -> str:
    """A wait status for people: the exit code, or the name of the signal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return str(code)
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"of signal {-code}"


Serving = Callable[[], None]  # "from now on I serve"


def unasked() -> None:
    """For who runs alone: nobody waits for it."""


@dataclass(slots=True)
class Role:
    """One process to keep alive. ``main`` runs in the child and returns its exit code; it calls what it is given as soon as it
    serves. ``exclusive``: never two at once."""

    name: str
    main: Callable[[Serving], int]
    exclusive: bool = False
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    due: float = 0.0  # when it is started; of one that is replaced: when it is killed
    replacing: bool = False  # told to end, to be started anew
    serving: bool = False


@dataclass(slots=True)
class Group:
    """All processes of one server. ``ready``: called once, when they serve. ``reload``: asked at SIGHUP; False = everything stays
    as it is. ``patience``: seconds that they may take to begin."""

    roles: list[Role]
    pid_file: Path | None = None
    ready: Callable[[], None] = lambda: None
    reload: Callable[[], bool] = lambda: True
    patience: float = READY_SECONDS
    _stop: bool = False
    _reload: bool = False
    _wake: int = -1
    _told: int = -1  # where a child writes that it serves
    _awaited: float = 0.0  # until then we wait for the others; 0: nobody is waited for
    _late: list[str] = field(default_factory=list)  # who was told to be missing
    _began: float = 0.0
    _announced: bool = False
    _children: dict[int, Role] = field(default_factory=dict)

    def run(self) -> int:
        """Runs until stopped; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        heard, self._told = os.pipe()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))  # see hold_reload
        if self.pid_file is not None:
            self.pid_file.write_text(f"{os.getpid()}\n")
        try:
            for role in self.roles:
                if not self._stop:
                    self._start(role)
            self._wait()
            while not self._stop:
                self._reap()
                self._restart_due()
                if self._reload:
                    self._reload = False
                    self._replace()
                self._look()
                found = select.select([wake, heard], [], [], 0.5)[0]
                if wake in found:
                    os.read(wake, 4096)
                if heard in found:
                    self._hear(os.read(heard, 1024 * PID_OCTETS))
            sd_notify("STOPPING=1")
            self._end()
        finally:
            if self.pid_file is not None:
                self.pid_file.unlink(missing_ok=True)
        return 0

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload = True

    def _hear(self, said: bytes) -> None:
        """Whole records, as a write of so few octets is."""
        for at in range(0, len(said), PID_OCTETS):
            role = self._children.get(int.from_bytes(said[at : at + PID_OCTETS], "little"))
            if role is not None and role.pid == int.from_bytes(said[at : at + PID_OCTETS], "little"):
                role.serving = not role.replacing

    def _look(self) -> None:
        """Do all serve who were started? Then say so. Who takes too long is named; while nobody serves nothing is announced."""
        if not self._awaited:
            return
        late = [role.name for role in self.roles if not role.serving]
        now = time.monotonic()
        if late and self._awaited == NEVER and late != self._late:
            self._awaited = now + SETTLE_SECONDS  # some more may follow at once
        if late and now < self._awaited:
            return
        self._awaited = NEVER if late else 0.0  # when the last one serves that is said too
        if late and late == self._late:
            return
        took = now - self._began if self._late else self.patience
        self._late = late
        if late:
            log.error("after %.0f s these do not serve: %s", took, ", ".join(late))
        if len(late) == len(self.roles):
            return
        if not self._announced:
            self._announced = True
            self.ready()
        sd_notify(f"READY=1\nSTATUS={'serving without ' + ', '.join(late) if late else 'serving'}")

    def _wait(self) -> None:
        """From now on, for all to serve."""
        self._began = time.monotonic()
        self._awaited = self._began + self.patience
        self._late = []

    def _start(self, role: Role) -> None:
        role.serving = False
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, signal.SIGHUP, signal.SIGCHLD))
        try:
            pid = os.fork()
            if pid == 0:
                _child(role, parent, mask, self._told)
        except OSError as error:  # too many processes: the others serve on, this one starts later
            log.error("process %s cannot be started: %s", role.name, error)
            role.pid, role.due, role.replacing = 0, time.monotonic() + RESTART_PAUSE[-1], False
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        role.pid, role.started, role.due, role.replacing = pid, time.monotonic(), 0.0, False
        self._children[pid] = role

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            role = self._children.pop(pid, None)
            if role is None or role.pid != pid:
                continue
            lived = time.monotonic() - role.started
            role.pid, role.serving = 0, False
            if role.replacing:
                self._start(role)
                continue
            role.failures = 0 if lived > STEADY_SECONDS else role.failures + 1
            pause = RESTART_PAUSE[min(role.failures, len(RESTART_PAUSE) - 1)]
            role.due = time.monotonic() + pause
            log.error(
                "process %s ended with status %s after %.1f s; again in %.1f s",
                role.name,
                ending_of(status),
                lived,
                pause,
            )

    def _restart_due(self) -> None:
        now = time.monotonic()
        for role in self.roles:
            if not role.due or now < role.due or self._stop:
                continue
            if role.pid == 0:
                self._start(role)
            elif role.replacing:
                log.error("process %s did not end within %.0f s and is killed", role.name, REPLACE_SECONDS)
                role.due = 0.0
                with contextlib.suppress(ProcessLookupError):
                    os.kill(role.pid, signal.SIGKILL)

    def _replace(self) -> None:
        sd_notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self._wait()
        if self.reload():
            for role in self.roles:
                old = role.pid
                role.replacing = role.exclusive and bool(old)
                role.serving = False
                if role.replacing:
                    role.due = time.monotonic() + REPLACE_SECONDS
                else:
                    self._start(role)
                if old:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(old, signal.SIGTERM if role.exclusive else RETIRE)

    def _end(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid, role in self._children.items():
            log.error("process %s did not end within %.0f s and is killed", role.name, STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._children:  # they hold the ports until they are gone
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._children.popitem()[0], 0)

    def _ended(self) -> int:
        """Forget the children that ended; how many are left."""
        for pid in list(self._children):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:
                gone = pid
            if gone:
                del self._children[pid]
        return len(self._children)


def _child(role: Role, parent: int, mask: set[int | signal.Signals], told: int) -> NoReturn:
    """In the forked process, with the signals still held back: run the role and exit. Never returns to the parent's code."""
    code = 70

    def serving() -> None:
        with contextlib.suppress(OSError):
            os.write(told, os.getpid().to_bytes(PID_OCTETS, "little"))

    try:
        signal.set_wakeup_fd(-1)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        die_with(parent)
        code = role.main(serving)
    except SystemExit as exit_:
        code = int(exit_.code or 0) if not isinstance(exit_.code, str) else 70
    except BaseException:  # the last line of defence of a forked child: report, never run the parent's code
        logging.getLogger("filterd").exception("process %s failed", role.name)
    finally:
        logging.shutdown()
        os._exit(code)
