"""Texts of messages in an mbox file.

Nobody locks to read. Another process, or another program, may move the octets meanwhile: so each text is compared with the digest
that the index keeps of it, and one that differs is looked for again under the locks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filterd.store import mbox_format as fmt
from filterd.store import mbox_sync, mbox_tree
from filterd.store.folder import Folder
from filterd.store.index import HotRow
from filterd.store.mbox_file import mbox_of
from filterd.store.record import EMAIL_ID_OCTETS

if TYPE_CHECKING:
    from filterd.store.core import Core


def read(core: Core, mailbox: str, uid: int) -> bytes | None:
    """None when it is gone."""
    folder, row = core.box(mailbox)
    hots = core.index.hot(row.id, (uid,))
    if not hots:
        return None
    text = _text(core, folder, hots[0])
    if text is not None:
        return text
    with core.locked():
        folder, _ = core.box(mailbox)
        with mbox_of(folder).held():
            row = mbox_sync.current(core, folder)
            hots = core.index.hot(row.id, (uid,))
            text = _text(core, folder, hots[0]) if hots else None
            if text is None and hots:
                mbox_sync.look_at_all(core, folder, row)
                hots = core.index.hot(row.id, (uid,))
                text = _text(core, folder, hots[0]) if hots else None
    return text


def read_many(core: Core, mailbox: str, uids: Sequence[int], octets: int) -> list[bytes | None]:
    folder, row = core.box(mailbox)
    texts: list[bytes | None] = []
    for start in range(0, len(uids), 32):
        known = {hot.uid: hot for hot in core.index.hot(row.id, uids[start : start + 32])}
        for uid in uids[start : start + 32]:
            hot = known.get(uid)
            text = _text(core, folder, hot) if hot is not None else None
            if text is None:
                text = read(core, mailbox, uid)
            texts.append(text)
            octets -= len(text or b"")
            if octets <= 0:
                return texts
    return texts


def _text(core: Core, folder: Folder, hot: HotRow) -> bytes | None:
    """The text that lies where the index says; None when it is another one."""
    mbox = mbox_of(folder)
    mbox.renew()
    text = fmt.text_of(mbox.read(hot.inode, hot.disk_size), mbox_tree.quoting(core))
    return text if hashlib.sha256(text).digest()[:EMAIL_ID_OCTETS] == hot.email_id else None


def changed(core: Core, folder: Folder, uids: Sequence[int], mailbox_id: int) -> set[int]:
    """Those whose text is not the one that the index knows."""
    return {hot.uid for hot in core.index.hot(mailbox_id, uids) if _text(core, folder, hot) is None}
