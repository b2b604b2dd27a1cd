"""From octets to a row: what both doors of a Maildir folder share, our deliveries and files found on disk."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from filterd.store.durable import Dir
from filterd.store.index import Cold
from filterd.store.record import Record, form_of, to_crlf

MAX_FILE_OCTETS = 512 * 1024 * 1024  # a larger file of another program is left alone


@dataclass(slots=True)
class Found:
    """A mail file as it lies there. ``text`` has CRLF line ends."""

    text: bytes
    form: int
    inode: int
    disk_size: int
    mtime: int  # nanoseconds


def read_file(at: Dir, name: str) -> Found | None:
    """None for what is no mail file: a directory, a link, a pipe, something huge. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at.fd)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_FILE_OCTETS:
            return None
        pieces = []
        left = facts.st_size
        while left and (piece := os.read(fd, left)):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(fd)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    form = form_of(data)
    return Found(to_crlf(data, form), form, facts.st_ino, len(data), facts.st_mtime_ns)


def cold_of(record: Record, trace: str = "", decision: str = "") -> Cold:
    rendered = record.envelope, record.body, record.bodystructure, record.headers
    return (*rendered, trace, decision, record.preview)
