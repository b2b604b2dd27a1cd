"""Sieve scripts as files, where other programs look for them too.

Layout below the account's folder (the Maildir root), as Pigeonhole's ``sieve = file:~/sieve;active=~/.dovecot.sieve``:

    sieve/NAME.sieve             the scripts, UTF-8
    .dovecot.sieve               symbolic link to the active one, absent when none is active
    sieve/history/DIGEST.sieve   every text that was ever put (the newest MAX_HISTORY), by SHA-256, so that an old
                                 decision can still be explained by the script that made it
    sieve/tests/                 rule tests (expect.toml, *.eml) that a script must pass to be active; put there by people
    sieve/.lock                  one writer at a time

A script's name may be any Net-Unicode text (RFC 5804 1.6): ``/``, ``%`` and a leading dot are written ``%XX``; a name
too long for a file name is kept as ``%`` + digest with the name beside it (``.name``).
Invariants: each change is atomic and durable on return; ``active`` follows the link only into ``sieve/``; a file that a
person put at ``.dovecot.sieve`` by hand counts as active, and is kept in the history when another script replaces it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from filterd.accounts.scripts_base import ScriptInfo, ScriptStoreError
from filterd.store.durable import Dir, Disk, digest, make_dirs, opened, replace_small
from filterd.store.nowait import Stamp, stamp_of, stamped

FOLDER = "sieve"
HISTORY = "history"
TESTS = "tests"
ACTIVE = ".dovecot.sieve"
SUFFIX = ".sieve"
NAME_SUFFIX = ".name"
LOCK = ".lock"
BY_HAND = "dovecot"  # the name of an active script that is a plain file
MAX_NAME = 128  # characters, RFC 5804 1.6
MAX_FILE_NAME = 240  # octets, with the suffix below 255
MAX_HISTORY = 200
MAX_READ = 4 << 20  # octets of a script that somebody put there by hand
LOCK_WAIT = 10.0  # seconds
_BAD_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONG = re.compile(
    r"%[0-9a-f]{64}\.sieve"
)  # an escaped name has %25, %2F or %2E there, in capitals or not 64 long
_ESCAPED = re.compile("%([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class ScriptLimits:
    """``size`` octets of one script, ``scripts`` how many."""

    size: int = 64 << 10
    scripts: int = 32


class FileScriptStore:
    """Implements ``filterd.accounts.scripts_base.ScriptStore`` for one account."""

    def __init__(self, account_folder: str, disk: Disk, limits: ScriptLimits) -> None:
        self._root = account_folder
        self._folder = os.path.join(account_folder, FOLDER)
        self._disk = disk
        self._limits = limits
        self._cached: tuple[Stamp, str, str] | None = None  # facts of the file, name, text

    # -- reading --------------------------------------------------------------------------------------------------

    def list(self) -> tuple[ScriptInfo, ...]:
        active = self._active_file()
        return tuple(ScriptInfo(name, file == active) for name, file in sorted(self._files().items()))

    def get(self, name: str) -> str:
        file = self._files().get(_checked(name))
        data = self._read(os.path.join(self._folder, file)) if file else None
        if data is None:
            raise ScriptStoreError("NONEXISTENT", f'there is no script "{name}"')
        return data.decode("utf-8", "replace")

    def active(self) -> tuple[str, str] | None:
        path = os.path.join(self._root, ACTIVE)
        try:
            leads_to = stamp_of(
                path
            )  # one call a message: the same file, untouched since, is the same script
        except FileNotFoundError:  # there is none, or the link leads nowhere
            return None
        except OSError:
            leads_to = None
        if leads_to is not None and self._cached is not None and self._cached[0] == leads_to:
            return self._cached[1], self._cached[2]
        file = self._active_file()
        if file is None:
            try:
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    return None
            except OSError:
                return None
        else:
            path = os.path.join(self._folder, file)
        try:
            found = os.lstat(path)
        except OSError:
            return None
        facts = stamped(found)
        name = BY_HAND if file is None else self._name(file)
        if self._cached is not None and self._cached[:2] == (facts, name):
            return name, self._cached[2]
        data = self._read(path)
        if data is None:
            return None
        text = data.decode("utf-8", "replace")
        self._cached = (facts, name, text)
        return name, text

    def still(self, known: tuple[str, str] | None) -> bool:
        """Is this what ``active`` would say? Looks at the directory entry alone."""
        path = os.path.join(self._root, ACTIVE)
        if known is None:
            return not os.path.lexists(path)
        cached = self._cached
        try:
            found = stamp_of(path)
        except OSError:
            return False
        return cached is not None and cached[0] == found and cached[1] == known[0] and cached[2] is known[1]

    def version(self, text_digest: str) -> str | None:
        """The text that was once put and has this SHA-256 (hex); None when it is not kept."""
        if not re.fullmatch("[0-9a-f]{64}", text_digest):
            return None
        data = self._read(os.path.join(self._folder, HISTORY, text_digest + SUFFIX))
        return None if data is None else data.decode("utf-8", "replace")

    # -- changing -------------------------------------------------------------------------------------------------

    def have_space(self, name: str, size: int) -> None:
        name = _checked(name)
        if size > self._limits.size:
            raise ScriptStoreError(
                "QUOTA/MAXSIZE", f"a script may have {self._limits.size} octets, this one has {size}"
            )
        files = self._files()
        if name not in files and len(files) >= self._limits.scripts:
            raise ScriptStoreError(
                "QUOTA/MAXSCRIPTS", f"there may be {self._limits.scripts} scripts; delete one first"
            )

    def put(self, name: str, text: str) -> None:
        name = _checked(name)
        data = text.encode("utf-8", "surrogatepass")
        self.have_space(name, len(data))
        with self._writing() as at:
            self.have_space(name, len(data))
            self._keep_history(data)
            file = _file_name(name)
            self._write_name(at, file, name)
            replace_small(self._disk, at, file, data)

    def delete(self, name: str) -> None:
        name = _checked(name)
        with self._writing() as at:
            file = self._existing(name)
            if file == self._active_file():
                raise ScriptStoreError("ACTIVE", f'"{name}" is the active script; deactivate it first')
            self._unlink(at, file)
            self._disk.sync_dir(at)

    def rename(self, old: str, new: str) -> None:
        old, new = _checked(old), _checked(new)
        with self._writing() as at:
            file = self._existing(old)
            if new in self._files():
                raise ScriptStoreError("ALREADYEXISTS", f'there is a script "{new}" already')
            target = _file_name(new)
            self._write_name(at, target, new)
            self._disk.link(at, file, at, target)  # both names for a moment: a crash never leaves none
            self._disk.sync_dir(at)
            if file == self._active_file():
                self._point_at(target)
            self._unlink(at, file)
            self._disk.sync_dir(at)

    def activate(self, name: str) -> None:
        if not name and not os.path.lexists(os.path.join(self._root, ACTIVE)):
            return
        name = _checked(name) if name else ""
        with self._writing():
            file = self._existing(name) if name else None
            if self._active_file() is None:
                by_hand = self._read(os.path.join(self._root, ACTIVE))
                if by_hand is not None:
                    self._keep_history(by_hand)
            self._point_at(file)

    # -- how ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Dir]:
        make_dirs(self._disk, self._folder)
        with opened(self._disk, self._folder) as at:
            lock = self._disk.open_lock(at, LOCK)
            try:
                lock.acquire(LOCK_WAIT)
                try:
                    yield at
                finally:
                    lock.release()
            finally:
                lock.close()

    def _point_at(self, file: str | None) -> None:
        """Let the active link lead to ``file``; None removes it."""
        with opened(self._disk, self._root) as root:
            if file is None:
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(root, ACTIVE)
            else:
                temporary = f"{ACTIVE}.{os.getpid()}"
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(root, temporary)  # of a process that was killed here
                os.symlink(f"{FOLDER}/{file}", temporary, dir_fd=root.fd)
                self._disk.rename(root, temporary, root, ACTIVE)
            self._disk.sync_dir(root)

    def _keep_history(self, data: bytes) -> None:
        folder = os.path.join(self._folder, HISTORY)
        make_dirs(self._disk, folder)
        file = digest(data).hex() + SUFFIX
        with opened(self._disk, folder) as at:
            if not os.path.exists(os.path.join(folder, file)):
                replace_small(self._disk, at, file, data, durable=False)
            entries = [entry for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)]
            if len(entries) > MAX_HISTORY:
                entries.sort(key=lambda entry: entry.stat().st_mtime_ns)
                for entry in entries[: len(entries) - MAX_HISTORY]:
                    self._disk.unlink(at, entry.name)

    def _write_name(self, at: Dir, file: str, name: str) -> None:
        if _LONG.fullmatch(file):
            replace_small(self._disk, at, file.removesuffix(SUFFIX) + NAME_SUFFIX, name.encode())

    def _existing(self, name: str) -> str:
        file = self._files().get(name)
        if file is None:
            raise ScriptStoreError("NONEXISTENT", f'there is no script "{name}"')
        return file

    def _unlink(self, at: Dir, file: str) -> None:
        self._disk.unlink(at, file)
        if _LONG.fullmatch(file):
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(at, file.removesuffix(SUFFIX) + NAME_SUFFIX)

    def _files(self) -> dict[str, str]:
        """File names by script name; what cannot be a script's file is left out."""
        out: dict[str, str] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and not entry.name.startswith(".") and entry.is_file():
                        out.setdefault(self._name(entry.name), entry.name)
        except FileNotFoundError:
            return {}
        return out

    def _name(self, file: str) -> str:
        stem = file.removesuffix(SUFFIX)
        if _LONG.fullmatch(file):
            data = self._read(os.path.join(self._folder, stem + NAME_SUFFIX))
            if data is not None:
                return data.decode("utf-8", "replace")
        plain = os.fsencode(stem).decode("utf-8", "replace")
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), plain)

    def _active_file(self) -> str | None:
        """The file the active link leads to, when that is one of ours."""
        try:
            target = os.readlink(os.path.join(self._root, ACTIVE))
        except OSError:
            return None
        folder, file = os.path.split(os.path.join(self._root, target))
        if os.path.normpath(folder) != os.path.normpath(self._folder) or not file.endswith(SUFFIX):
            return None
        return file if os.path.isfile(os.path.join(self._folder, file)) else None

    def _read(self, path: str) -> bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = stream.read(MAX_READ + 1)
        return data if len(data) <= MAX_READ else None


def _checked(name: str) -> str:
    """The name in NFC. Raises ScriptStoreError for what RFC 5804 1.6 forbids."""
    if not name:
        raise ScriptStoreError("", "a script needs a name")
    if len(name) > MAX_NAME:
        raise ScriptStoreError("", f"a script's name may have {MAX_NAME} characters")
    if _BAD_NAME.search(name):
        raise ScriptStoreError("", "a script's name cannot contain control characters")
    return unicodedata.normalize("NFC", name)


def _file_name(name: str) -> str:
    escaped = name.replace("%", "%25").replace("/", "%2F")
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    octets = escaped.encode()
    if len(octets) > MAX_FILE_NAME:
        return f"%{digest(name.encode()).hex()}{SUFFIX}"
    return escaped + SUFFIX
