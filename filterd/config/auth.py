"""The configuration's [auth] section: how people prove who they are, besides by a password over TLS."""

from __future__ import annotations

from dataclasses import dataclass

from filterd.config.fields import setting
from filterd.config.values import Kind


@dataclass(frozen=True, slots=True)
class Auth:
    scram: str = setting(
        "auto",
        "Offer SCRAM-SHA-256 (and -PLUS): passwords are proved, not sent. auto = when every account can; those of older versions "
        "can after their owner's next log-in by password.",
        Kind.SWITCH,
    )
    scram_without_tls: bool = setting(
        False,
        "Offer SCRAM on connections without TLS too. Who listens there may guess at weak passwords at leisure.",
        Kind.FLAG,
    )
