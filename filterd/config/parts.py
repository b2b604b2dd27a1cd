"""Tables of filterd.toml inside others, kept apart from ``schema`` because that file is full."""

from __future__ import annotations

from dataclasses import dataclass

from filterd.config.fields import setting
from filterd.config.values import Kind

TLS_WORDS = ("none", "opportunistic", "dane", "secure")  # queue.tls


@dataclass(frozen=True, slots=True)
class StoreMbox:
    inbox: str = setting(
        "",
        "The file of INBOX: a path with %{user}, %{domain} or %{account} in it, as /var/mail/%{user}. "
        '"" = the file inbox in the account\'s folder.',
        Kind.TEXT,
    )
    locks: tuple[str, ...] = setting(
        ("dotlock", "fcntl"),
        "How a file is locked against other programs, in this order; they must use the same. dotlock-try: go on without where the "
        "directory forbids to make one.",
        Kind.CHOICES,
        choices=("dotlock", "dotlock-try", "fcntl", "flock"),
    )
    lock_wait: float = setting(10.0, "How long to wait for another program's lock.", Kind.DURATION)
    lock_stale: float = setting(
        300.0,
        "A dot-lock that was not touched for so long, or whose process is dead, is removed.",
        Kind.DURATION,
    )
    quoting: str = setting(
        "mboxrd",
        "How other programs quote From lines in the files that we read; we write mboxrd.",
        Kind.CHOICE,
        choices=("mboxrd", "mboxo", "none"),
    )


@dataclass(frozen=True, slots=True)
class QueueTls:
    domain: str = setting(
        "",
        'A domain of recipients, ".example.org" for all below it, or the host name of a relay.',
        Kind.TEXT,
        required=True,
    )
    tls: str = setting(
        "secure", "For this destination, in the words of queue.tls.", Kind.CHOICE, choices=TLS_WORDS
    )
    names: tuple[str, ...] = setting(
        (),
        'With "secure": names that its certificate may have; ".example.net" = any below it. Default: the mail host when DNSSEC '
        "or MTA-STS vouches for it, else the domain and what is below it.",
        Kind.TEXTS,
    )
