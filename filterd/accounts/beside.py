"""Looking an address up from a loop, where the look-up may have to wait for a disk (``.forward`` files)."""

from __future__ import annotations

import asyncio

from filterd.accounts.directory import Directory, Resolution


async def lookup(directory: Directory, address: str) -> Resolution:
    """As ``Directory.lookup``, which bounds what it waits for; in a thread when it may wait at all."""
    if not directory.waits:
        return directory.lookup(address)
    return await asyncio.to_thread(directory.lookup, address)
