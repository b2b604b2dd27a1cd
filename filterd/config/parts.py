"""Tables of filterd.toml inside others, kept apart from ``schema`` because that file is full."""

from __future__ import annotations

from dataclasses import dataclass

from filterd.config.fields import setting
from filterd.config.values import Kind, SocketAddress

OUTLET_KINDS = ("alias", "forward", "include")  # accounts.allow
TLS_WORDS = ("none", "opportunistic", "dane", "secure")  # queue.tls


@dataclass(frozen=True, slots=True)
class Metrics:
    rule_hits: bool = setting(
        False, "Count each line of each script that was true; with many scripts, many series.", Kind.FLAG
    )


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
class ForwardFiles:
    enabled: bool = setting(
        False,
        "Follow the .forward files of this machine's users: an account of the first [[domain]] that is named like one of them.",
        Kind.FLAG,
    )
    path: str = setting(
        "%{home}/.forward",
        "Where such a file is, with %{home} or %{user} in it. The server must be able to read it: it is not root.",
        Kind.TEXT,
    )
    includes: bool = setting(
        False,
        "Follow :include:/PATH in them. Such a file must belong to the user or root, and nobody else may write it.",
        Kind.FLAG,
    )


@dataclass(frozen=True, slots=True)
class Allow:
    mail_to_commands: tuple[str, ...] = setting(
        (),
        "Where |program may stand: in alias files (alias), in .forward files (forward), in what they include (include). Programs "
        "are files of exec.directory and are run by filterd-exec, which must run.",
        Kind.CHOICES,
        choices=OUTLET_KINDS,
    )
    mail_to_files: tuple[str, ...] = setting(
        (),
        "Where /path (an mbox) and /path/ (a Maildir) may stand, in the same words.",
        Kind.CHOICES,
        choices=OUTLET_KINDS,
    )
    mail_to_files_in: tuple[str, ...] = setting(
        (),
        "The folders below which such files are; they and what is in them must belong to root or to the server's user, and nobody "
        "else may write there. One with %{user} in it is for the .forward of that user, the others are for alias files.",
        Kind.TEXTS,
    )


@dataclass(frozen=True, slots=True)
class Batv:
    enabled: bool = setting(
        False,
        "Tag the reverse-path of what our people send, so that a real bounce is known by its tag.",
        Kind.FLAG,
    )
    refuse: bool = setting(
        True,
        "Refuse delivery reports for our people that have no good tag. Leave it off for the first week, and where people send by "
        "other servers, too.",
        Kind.FLAG,
    )
    secrets: tuple[str, ...] = setting(
        (), "The first signs, all verify. Default: one is made once and kept in data_dir.", Kind.SECRETS
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


@dataclass(frozen=True, slots=True)
class SharedMail:
    scope: str = setting(
        "domain",
        "With whom people may share mailboxes by their mail program (IMAP ACL): accounts of the same domain, of the whole "
        "server, or nobody.",
        Kind.CHOICE,
        choices=("domain", "server", "nobody"),
    )
    public: str = setting(
        "",
        'The account whose mailboxes everybody has under "Public/", as far as their rights go (`filterd account share`); '
        '"" = none.',
        Kind.TEXT,
    )


@dataclass(frozen=True, slots=True)
class Dns:
    resolver: tuple[SocketAddress, ...] = setting(
        (), 'Name servers to ask: ["127.0.0.1:53"]. Default: those of /etc/resolv.conf.', Kind.SERVERS
    )
    trust_ad: bool = setting(
        False,
        "Believe the AD flag (DNSSEC) of name servers that are not on this machine. The way to them must be safe.",
        Kind.FLAG,
    )
    least_ttl: float = setting(
        1.0,
        "How long an answer is kept though its TTL says less: mail of one sender comes in bursts. 0 = as the TTL says.",
        Kind.DURATION,
    )
