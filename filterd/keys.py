"""The server's own secrets: made once, kept in ``data_dir/secrets``, readable by nobody else."""

from __future__ import annotations

import secrets
from pathlib import Path

from filterd.store import durable

SECRET_OCTETS = 32
LOCK_SECONDS = 10.0


def secret(data_dir: Path, name: str) -> bytes:
    """The secret ``name``, made on first use; two processes that ask at once get the same one. Raises StoreUnavailable."""
    folder = data_dir / "secrets"
    path = folder / name
    if path.exists():
        return path.read_bytes().strip()
    disk = durable.RealDisk()
    durable.make_dirs(disk, str(folder))
    with durable.opened(disk, str(folder)) as at:
        lock = disk.open_lock(at, ".lock")
        lock.acquire(LOCK_SECONDS)
        try:
            if not path.exists():
                durable.write_file(path, secrets.token_hex(SECRET_OCTETS).encode() + b"\n")
        finally:
            lock.release()
            lock.close()
    return path.read_bytes().strip()
