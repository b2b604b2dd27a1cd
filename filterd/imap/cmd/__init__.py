"""The commands of IMAP4rev1 and IMAP4rev2, one file each. To add one: write its file, add it to ``COMMANDS``."""

from __future__ import annotations

from filterd.imap.call import Spec
from filterd.imap.cmd.append import APPEND
from filterd.imap.cmd.authenticate import AUTHENTICATE
from filterd.imap.cmd.capability import CAPABILITY
from filterd.imap.cmd.close import CLOSE
from filterd.imap.cmd.copy import COPY
from filterd.imap.cmd.expunge import EXPUNGE
from filterd.imap.cmd.fetch import FETCH
from filterd.imap.cmd.list import LIST, LSUB
from filterd.imap.cmd.login import LOGIN
from filterd.imap.cmd.logout import LOGOUT
from filterd.imap.cmd.mailboxes import CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE
from filterd.imap.cmd.noop import CHECK, NOOP
from filterd.imap.cmd.search import SEARCH
from filterd.imap.cmd.select import EXAMINE, SELECT
from filterd.imap.cmd.starttls import STARTTLS
from filterd.imap.cmd.status import STATUS
from filterd.imap.cmd.store import STORE

COMMANDS: tuple[Spec, ...] = (
    CAPABILITY,
    NOOP,
    LOGOUT,
    STARTTLS,
    AUTHENTICATE,
    LOGIN,
    SELECT,
    EXAMINE,
    CREATE,
    DELETE,
    RENAME,
    SUBSCRIBE,
    UNSUBSCRIBE,
    LIST,
    LSUB,
    STATUS,
    APPEND,
    CHECK,
    CLOSE,
    EXPUNGE,
    SEARCH,
    FETCH,
    STORE,
    COPY,
)
