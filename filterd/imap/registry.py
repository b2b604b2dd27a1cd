"""Everything the server can do, put together from the two registries.

The commands are those of ``cmd.COMMANDS`` and of each extension in ``ext.EXTENSIONS``; the CAPABILITY string is what those
extensions announce, in their order. What is in neither tuple does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from filterd.imap.call import Spec
from filterd.imap.cmd import COMMANDS
from filterd.imap.errors import Bad
from filterd.imap.ext import EXTENSIONS

if TYPE_CHECKING:
    from filterd.imap.session import Session


def _table() -> Mapping[tuple[bytes, bool], Spec]:
    table: dict[tuple[bytes, bool], Spec] = {}
    for spec in (*COMMANDS, *(spec for extension in EXTENSIONS for spec in extension.commands)):
        for uid in ((False,) if spec.plain else ()) + ((True,) if spec.uid else ()):
            assert (spec.name, uid) not in table, spec.name
            table[spec.name, uid] = spec
    return MappingProxyType(table)


_COMMANDS = _table()


def find(name: bytes, uid: bool) -> Spec | None:
    return _COMMANDS.get((name, uid))


def require_uid(session: Session, spec: Spec, uid: bool) -> None:
    """RFC 9586 3: after ENABLE UIDONLY no command is taken whose arguments or answers are message numbers."""
    if session.uidonly and spec.uid and not uid and spec.name != b"EXPUNGE":
        raise Bad("Message numbers are not used after ENABLE UIDONLY", "UIDREQUIRED")


def capabilities(session: Session) -> bytes:
    """The CAPABILITY data that is true for this session now."""
    words = [b"IMAP4rev1", b"IMAP4rev2"]
    for extension in EXTENSIONS:
        words.extend(extension.capabilities(session))
    return b" ".join(words)
