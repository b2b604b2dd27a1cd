"""Extensions that live inside other commands: what each announces, and where it is done.

Each line names the RFC; the file that does the work cites its sections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap.cmd.close import UNSELECT as UNSELECT_COMMAND
from filterd.imap.cmd.copy import MOVE as MOVE_COMMAND
from filterd.imap.ext.base import Extension

if TYPE_CHECKING:
    from filterd.imap.session import Session


def _private(session: Session) -> bool:
    return session.tls or session.config.allow_plaintext


def _mechanisms(session: Session) -> tuple[bytes, ...]:
    names = session.config.mechanisms.names(session.channel, _private(session))
    return tuple(b"AUTH=" + name.encode("ascii") for name in names)


STARTTLS = Extension(9051, (b"STARTTLS",), early=True, late=False, when=lambda s: s.config.tls and not s.tls)
LOGINDISABLED = Extension(9051, (b"LOGINDISABLED",), early=True, late=False, when=lambda s: not _private(s))
AUTH = Extension(9051, (), early=True, late=False, dynamic=_mechanisms)
SASL_IR = Extension(4959, (b"SASL-IR",), early=True)  # cmd/authenticate
LITERAL_PLUS = Extension(7888, (b"LITERAL+",), early=True)  # wire
UIDPLUS = Extension(4315, (b"UIDPLUS",))  # cmd/append, cmd/copy, cmd/expunge
UNSELECT = Extension(3691, (b"UNSELECT",), (UNSELECT_COMMAND,))
MOVE = Extension(6851, (b"MOVE",), (MOVE_COMMAND,))
CHILDREN = Extension(3348, (b"CHILDREN",))  # cmd/list
SPECIAL_USE = Extension(6154, (b"SPECIAL-USE", b"CREATE-SPECIAL-USE"))  # cmd/list, cmd/mailboxes
LIST_EXTENDED = Extension(5258, (b"LIST-EXTENDED",))  # cmd/list
LIST_STATUS = Extension(5819, (b"LIST-STATUS",))  # cmd/list
STATUS_SIZE = Extension(8438, (b"STATUS=SIZE",))  # cmd/status
ESEARCH = Extension(4731, (b"ESEARCH",))  # result
SEARCHRES = Extension(5182, (b"SEARCHRES",))  # result, call
WITHIN = Extension(5032, (b"WITHIN",))  # search
PARTIAL = Extension(9394, (b"PARTIAL",))  # partial, result, cmd/fetch
CONDSTORE = Extension(7162, (b"CONDSTORE", b"QRESYNC"))  # resync, view, cmd/store, cmd/fetch, cmd/select
BINARY = Extension(3516, (b"BINARY",))  # section, cmd/append
CATENATE = Extension(4469, (b"CATENATE",))  # catenate
MULTIAPPEND = Extension(3502, (b"MULTIAPPEND",))  # cmd/append
APPENDLIMIT = Extension(7889, (), early=True, dynamic=lambda s: (b"APPENDLIMIT=%d" % s.config.message_size,))
OBJECTID = Extension(8474, (b"OBJECTID",))  # columns, cmd/status, cmd/select, search
SAVEDATE = Extension(8514, (b"SAVEDATE",))  # columns, search
PREVIEW = Extension(8970, (b"PREVIEW",))  # preview
UTF8 = Extension(6855, (b"UTF8=ACCEPT",))  # names, cmd/append
IMAPSIEVE = Extension(  # filterd/imapsieve
    6785,
    (),
    when=lambda s: bool(s.config.sieve),
    dynamic=lambda s: (b"IMAPSIEVE=" + s.config.sieve.encode(),),
)
UIDONLY = Extension(9586, (b"UIDONLY",))  # call, fetch, view
INPROGRESS = Extension(9585, (b"INPROGRESS",))  # work
LIST_METADATA = Extension(9590, (b"LIST-METADATA",))  # cmd/list, entries
