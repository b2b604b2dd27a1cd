"""When a change of a key is taken up by what runs: at a reload (SIGHUP), at a restart, by another service.

A reload starts new workers with the new file; what the parent made before there were workers stays: sockets, folders, the
number of workers, the log's form, the user it became (filterd/app.py).
"""

from __future__ import annotations

RELOAD, RESTART = "reload", "restart"
EXEC = "exec"  # the service of `filterd exec serve` reads it, at its start
_RESTART = (
    "listen.",
    "log.",
    "server.data_dir",
    "server.maildrop",
    "server.proxy_listeners",
    "server.user",
    "server.workers",
)
_EXEC = ("exec.",)


def taken_up(key: str) -> str:
    """RELOAD, RESTART or EXEC for a dotted key."""
    if key.startswith(_EXEC):
        return EXEC
    return RESTART if key.startswith(_RESTART) else RELOAD
