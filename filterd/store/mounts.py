"""What kind of file system a path lies on."""

from __future__ import annotations

import contextlib
import os

NETWORK_KINDS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "beegfs")
)
FUSE_KINDS = frozenset(("fuse.glusterfs", "fuse.sshfs"))


def network_file_system(path: str) -> str:
    """The kind of network file system that ``path`` lies on, "" for a local one (SQLite's WAL needs shared memory)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts,
    ):
        for line in mounts:
            fields = line.split(" ")
            if len(fields) > 8 and fields[2] == wanted and "-" in fields:
                kind = fields[fields.index("-") + 1]
                return kind if kind in NETWORK_KINDS | FUSE_KINDS else ""
    return ""
