"""MESSAGELIMIT and SAVELIMIT: announced where the operator has set a limit. Specification: RFC 9738. Complete.

The work is in ``limit``; the keys UIDAFTER and UIDBEFORE are in ``search_keys`` and always there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.ext.base import Extension

if TYPE_CHECKING:
    from filterd.imap.session import Session


def _limits(session: Session) -> tuple[bytes, ...]:
    config = session.config
    told = ((b"MESSAGELIMIT=%d", config.message_limit), (b"SAVELIMIT=%d", config.save_limit))
    return tuple(text % limit for text, limit in told if limit)


MESSAGELIMIT = Extension(9738, (), dynamic=_limits)
