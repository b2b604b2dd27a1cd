"""Folders that a start as root makes for a server that goes on as ``server.user``.

Only what this start made itself is given away, and an empty ``data_dir`` of root's: the rest may have been put there by that user,
who must not get root to give away what a link of his leads to.
"""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

from filterd.config.schema import Config


def server_user(config: Config) -> pwd.struct_passwd | None:
    """Whom we are to become; None: nobody. Raises OSError when this machine does not know him."""
    return named_user(config.server.user)


def named_user(name: str) -> pwd.struct_passwd | None:
    """As ``server_user``, of its name."""
    if not name or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise OSError(errno.EINVAL, f'server.user: this machine has no user "{name}"') from None


def make_folders(config: Config, *folders: Path) -> None:
    """``data_dir`` and folders below it, private, the server's own. Raises OSError."""
    user = server_user(config)
    root = Path(config.server.data_dir)
    for folder in (root, *folders):
        fresh = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = [path for path in fresh if path == root or root in path.parents]
        if folder == root and not fresh and not any(root.iterdir()) and root.stat().st_uid == 0:
            ours = [root]
        if user is not None:
            for path in reversed(ours):
                _give(path, user)


def _give(path: Path, user: pwd.struct_passwd) -> None:
    at = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(at, user.pw_uid, user.pw_gid)
    finally:
        os.close(at)
