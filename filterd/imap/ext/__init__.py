"""The extensions, in the order in which CAPABILITY announces them. To add one: write its file, add its line here."""

from __future__ import annotations

from filterd.imap.ext import simple
from filterd.imap.ext.acl import ACL, LIST_MYRIGHTS
from filterd.imap.ext.base import Extension
from filterd.imap.ext.compress import COMPRESS
from filterd.imap.ext.context import CONTEXT
from filterd.imap.ext.enable import ENABLE
from filterd.imap.ext.filter import FILTER
from filterd.imap.ext.fuzzy import FUZZY
from filterd.imap.ext.i18n import I18N, LANGUAGE
from filterd.imap.ext.id import ID
from filterd.imap.ext.idle import IDLE
from filterd.imap.ext.messagelimit import MESSAGELIMIT
from filterd.imap.ext.metadata import METADATA
from filterd.imap.ext.multisearch import MULTISEARCH
from filterd.imap.ext.namespace import NAMESPACE
from filterd.imap.ext.notify import NOTIFY
from filterd.imap.ext.quota import QUOTA
from filterd.imap.ext.replace import REPLACE
from filterd.imap.ext.sort import SORT
from filterd.imap.ext.thread import THREAD
from filterd.imap.ext.unauthenticate import UNAUTHENTICATE

EXTENSIONS: tuple[Extension, ...] = (
    simple.LITERAL_PLUS,
    simple.SASL_IR,
    simple.STARTTLS,
    simple.LOGINDISABLED,
    simple.AUTH,
    ID,
    ENABLE,
    IDLE,
    NAMESPACE,
    simple.UIDPLUS,
    simple.UNSELECT,
    simple.MOVE,
    simple.CHILDREN,
    simple.SPECIAL_USE,
    simple.LIST_EXTENDED,
    simple.LIST_STATUS,
    simple.STATUS_SIZE,
    simple.ESEARCH,
    simple.SEARCHRES,
    simple.WITHIN,
    simple.PARTIAL,
    simple.CONDSTORE,
    SORT,
    CONTEXT,
    MULTISEARCH,
    THREAD,
    FUZZY,
    I18N,
    LANGUAGE,
    simple.BINARY,
    simple.CATENATE,
    simple.MULTIAPPEND,
    simple.APPENDLIMIT,
    MESSAGELIMIT,
    simple.OBJECTID,
    simple.SAVEDATE,
    simple.PREVIEW,
    simple.UTF8,
    simple.UIDONLY,
    simple.INPROGRESS,
    simple.IMAPSIEVE,
    FILTER,
    ACL,
    LIST_MYRIGHTS,
    QUOTA,
    METADATA,
    simple.LIST_METADATA,
    NOTIFY,
    REPLACE,
    UNAUTHENTICATE,
    COMPRESS,
)
