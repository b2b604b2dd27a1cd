"""The configuration's [auth] section: how people prove who they are, besides by a password over TLS."""

from __future__ import annotations

from dataclasses import dataclass

from filterd.config.fields import setting, table
from filterd.config.values import Kind


@dataclass(frozen=True, slots=True)
class OAuth:
    issuer: str = setting(
        "", "Whose tokens are taken: the iss in them, character by character. Clients are told it.", Kind.TEXT
    )
    audience: str = setting(
        "", "For whom they must be made: the aud in them, or one of several. Needed with keys.", Kind.TEXT
    )
    claim: str = setting("email", "Which of a token's claims is the account's address.", Kind.TEXT)
    keys: str = setting(
        "",
        "The issuer's public keys as a JSON Web Key set: a file, or an https:// address that is asked once an hour. RS256 and "
        "ES256.",
        Kind.TEXT,
    )
    introspection: str = setting(
        "",
        "Instead of keys: the issuer's https:// address that tells what a token is worth (RFC 7662).",
        Kind.TEXT,
    )
    client_id: str = setting("", "Our own name there.", Kind.TEXT)
    client_secret: tuple[str, ...] = setting((), "And our password, one.", Kind.SECRETS)


@dataclass(frozen=True, slots=True)
class Auth:
    scram: str = setting(
        "auto",
        "Offer SCRAM-SHA-256 (and -PLUS): passwords are proved, not sent. auto = when every account can; those of older versions "
        "can after their owner's next log-in by password.",
        Kind.SWITCH,
    )
    channel_binding: bool = setting(
        False,
        "Announce SCRAM-SHA-256-PLUS. Who asks for it gets it in any case; announced it is also chosen by programs that then "
        "cannot do it (mutt with GNU SASL, as in Debian 12) and do not try another way.",
        Kind.FLAG,
    )
    scram_without_tls: bool = setting(
        False,
        "Offer SCRAM on connections without TLS too. Who listens there may guess at weak passwords at leisure.",
        Kind.FLAG,
    )
    oauth: OAuth = table(
        OAuth,
        "OAUTHBEARER and XOAUTH2: access tokens instead of passwords; offered when keys or introspection is set.",
    )
