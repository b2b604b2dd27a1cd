"""Files made by root for a server that runs as somebody else (``server.user``) are handed over to it."""

from __future__ import annotations

import os

from filterd.cli import CliError
from filterd.config.schema import Config
from filterd.handover import server_user
from filterd.store import witness
from filterd.store.core import INDEX_FILE


def hand_over(config: Config, *paths: str) -> None:
    """Give ``paths`` (and what is in them) to ``server.user``; nothing to do unless we are root and there is one."""
    try:
        user = server_user(config)
    except OSError as error:
        raise CliError(str(error.strerror)) from None
    if user is None:
        return
    for path in paths:
        if not os.path.lexists(path):
            continue
        os.lchown(path, user.pw_uid, user.pw_gid)
        for folder, names, files in os.walk(path):
            index = os.path.join(folder, INDEX_FILE)
            intact = INDEX_FILE in files and witness.intact(index)
            for name in (*names, *files):
                os.lchown(os.path.join(folder, name), user.pw_uid, user.pw_gid)
            if intact:  # the handing over is no change that needs healing
                witness.note(index)


def down_to(data_dir: str, path: str) -> list[str]:
    """``path`` and the folders between it and ``data_dir``, outermost first, to be handed over one by one."""
    out = [path]
    while os.path.dirname(out[0]).startswith(data_dir) and out[0] != data_dir:
        out.insert(0, os.path.dirname(out[0]))
    return out
