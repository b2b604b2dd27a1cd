"""QUOTA with the resources STORAGE and MESSAGE; one root, the account.

Specification: RFC 9208, RFC 2087. Complete but for SETQUOTA, which is the administrator's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filterd.imap import acl, names
from filterd.imap.call import Call, Run, Spec
from filterd.imap.errors import No
from filterd.imap.ext.base import Extension
from filterd.imap.parse import Parser
from filterd.imap.state import AFTER

if TYPE_CHECKING:
    from filterd.imap.session import Session

_ROOT = b'"User quota"'


def parse_quota(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    root = p.astring()
    p.end()

    def run(call: Call) -> str:
        if root not in (b"User quota", b""):
            raise No("No such quota root", "NONEXISTENT")
        _write(call)
        return "GETQUOTA completed"

    return run


def parse_root(p: Parser, session: Session, uid: bool) -> Run:
    p.sp()
    mailbox = p.mailbox()
    p.end()

    def run(call: Call) -> str:
        info = call.store.info(mailbox)
        name = names.encode(info.name, session.utf8 or session.rev2)
        if acl.foreign(session, info.name):
            # It counts for its owner, and how much he has is his own business: no root to be asked about (RFC 2087 5.2).
            call.write(b"* QUOTAROOT %b\r\n" % name)
        else:
            call.write(b"* QUOTAROOT %b %b\r\n" % (name, _ROOT))
            _write(call)
        return "GETQUOTAROOT completed"

    return run


def _write(call: Call) -> None:
    quota = call.store.quota()
    shown = []
    if quota.limit:
        # RFC 9208 5.1: STORAGE counts 1024 octets, rounded up.
        shown.append(b"STORAGE %d %d" % (-(-quota.used // 1024), quota.limit // 1024))
    if quota.message_limit:
        shown.append(b"MESSAGE %d %d" % (quota.messages, quota.message_limit))
    call.write(b"* QUOTA %b (%b)\r\n" % (_ROOT, b" ".join(shown)))


QUOTA = Extension(
    9208,
    (b"QUOTA", b"QUOTA=RES-STORAGE", b"QUOTA=RES-MESSAGE"),
    (Spec(b"GETQUOTA", AFTER, parse_quota), Spec(b"GETQUOTAROOT", AFTER, parse_root)),
)
