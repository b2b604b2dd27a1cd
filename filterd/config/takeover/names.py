"""Whom `filterd config import` can read, and where Debian has the file: apart from the readers, so that --help stays fast."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "postfix": "/etc/postfix/main.cf",
        "dovecot": "/etc/dovecot/dovecot.conf",
        "opendkim": "/etc/opendkim.conf",
        "opendmarc": "/etc/opendmarc.conf",
        "postsrsd": "/etc/default/postsrsd",
        "maddy": "/etc/maddy/maddy.conf",
    }
)
