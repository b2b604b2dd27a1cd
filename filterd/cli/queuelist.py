"""The queue as ``mailq`` prints it: one line a recipient that still waits."""

from __future__ import annotations

import stat
import time
from datetime import datetime
from pathlib import Path

from filterd.cli import OK, USAGE, CliError
from filterd.config.schema import Config
from filterd.queue.journal import Journal
from filterd.queue.rows import held_until

FOLDER = "queue"


def there(folder: Path) -> bool:
    """Is there a queue? Raises CliError when this user may not know: "empty" would be a lie."""
    try:
        found = folder.stat()
        if stat.S_ISDIR(found.st_mode):
            next(folder.iterdir(), None)
        return stat.S_ISDIR(found.st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise CliError(f"you may not look into {folder}; ask root or the server's user", USAGE) from None


def print_queue(config: Config) -> int:
    folder = Path(config.server.data_dir) / FOLDER
    if not there(folder):
        print("Mail queue is empty")
        return OK
    journal = Journal(folder)
    try:
        items = journal.items()
    finally:
        journal.close()
    for item in items:
        arrived = datetime.fromtimestamp(item.created).astimezone().strftime("%a %d %b %H:%M:%S")
        print(f"{item.id:<14} {arrived}  <{item.reverse_path}>")
        reason = f"   ({item.last_reply})" if item.last_reply else ""
        until = held_until(item.params)
        if not item.attempts and until > time.time():
            reason = f"   (held until {datetime.fromtimestamp(until).astimezone():%a %d %b %H:%M:%S})"
        print(f"{'':<14} {item.state:<8} to <{item.recipient}>, {item.attempts} tries{reason}")
    print(f"{len(items)} in the queue" if items else "Mail queue is empty")
    return OK
