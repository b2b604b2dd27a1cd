"""The configuration's shape: one frozen dataclass a section; each field carries its own documentation.

The sample file, ``filterd config explain KEY``, ``filterd config docs`` and the checks of ``load`` are made from these
fields. Durations are seconds, sizes octets, switches "auto" | "on" | "off". A key stands here when the program uses it,
and only then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from filterd.config.auth import Auth
from filterd.config.errors import Problem
from filterd.config.fields import setting, table, tables
from filterd.config.parts import (
    TLS_WORDS,
    Allow,
    Batv,
    Dns,
    ForwardFiles,
    Metrics,
    QueueTls,
    SharedMail,
    StoreMbox,
)
from filterd.config.stages import ON_ERROR, Milter, Stages
from filterd.config.values import Kind, Relay, SocketAddress

VERSION = 1
INCOMING_STAGES = (
    "dnsbl", "greylist", "spf", "dkim", "arc", "dmarc", "clamav", "spamassassin", "milters", "sieve", "privacy",
    "srs",
)  # fmt: skip
HOLDING_STAGES = (
    "dnsbl",
    "spf",
    "dkim",
    "arc",
    "dmarc",
    "clamav",
    "spamassassin",
    "milters",
    "sieve",
    "loop",
)
OUTGOING_STAGES = ("clamav", "milters", "privacy", "arc-seal", "dkim-sign", "queue")
ACCOUNT_PATTERN = "%{domain}/%{user}"  # the end of store.path
NO_ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Server:
    hostname: str = setting(
        "", "The name we greet with (EHLO). It must have an A or AAAA record and a matching PTR.", Kind.HOSTNAME,
        required=True,
    )  # fmt: skip
    data_dir: str = setting(
        "", "Where mail, accounts, queue, traces are. Default: /var/lib/filterd for root, else $XDG_DATA_HOME/filterd.",
        Kind.PATH,
    )  # fmt: skip
    user: str = setting(
        "",
        'The system user to become once the ports are bound, when started as root. "" = stay who we are.',
        Kind.TEXT,
    )
    maildrop: str = setting(
        "",
        "A folder where every user of this machine may leave mail for us (filterd-sendmail), also while the server is down; made "
        'with mode 1733. /var/spool/filterd/maildrop is found without reading this file. "" = none.',
        Kind.PATH,
    )
    workers: int = setting(0, 'How many processes serve. "auto" = as many as there are cores.', Kind.WORKERS)
    xclient_trusted: tuple[str, ...] = setting(
        (),
        "Hosts that may tell us the real client by XCLIENT: our own front ends, nobody else.",
        Kind.NETWORKS,
    )
    xforward_trusted: tuple[str, ...] = setting(
        (),
        "Hosts that may tell us by XFORWARD whom a message came from: mail servers of ours in front of us. It gives no rights.",
        Kind.NETWORKS,
    )
    relay_trusted: tuple[str, ...] = setting(
        (),
        "Mail servers of ours that may send to any domain through us without a log-in, as before a content filter.",
        Kind.NETWORKS,
    )
    proxy_trusted: tuple[str, ...] = setting(
        (),
        "Proxies (HAProxy) that tell the real client by the PROXY protocol, version 1 or 2. Nobody else reaches proxy_listeners.",
        Kind.NETWORKS,
    )
    proxy_listeners: tuple[str, ...] = setting(
        (),
        'Listeners where each connection begins with a PROXY header: names of [listen] ("imaps": all of its addresses) or single '
        'addresses as they stand there ("127.0.0.1:10025").',
        Kind.TEXTS,
    )


@dataclass(frozen=True, slots=True)
class Log:
    format: str = setting(
        "auto", "pretty for people, json for machines; auto = pretty on a terminal, else json.", Kind.CHOICE,
        choices=("auto", "pretty", "json"),
    )  # fmt: skip
    level: str = setting(
        "info", "The least important message that is still written.", Kind.CHOICE,
        choices=("debug", "info", "warning", "error"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tls:
    mode: str = setting(
        "self-signed",
        "files: cert and key below. self-signed: made once and kept in data_dir. off: no TLS (then nobody can log in "
        "unless allow_plaintext_login).",
        Kind.CHOICE,
        choices=("files", "self-signed", "off"),
    )
    cert: str = setting("", 'PEM certificate with its chain, for mode = "files".', Kind.PATH)
    key: str = setting("", 'PEM private key, for mode = "files".', Kind.PATH)
    min_version: str = setting("1.2", "The oldest TLS we speak.", Kind.CHOICE, choices=("1.2", "1.3"))
    client_ca: str = setting(
        "", 'PEM certificates of those who issue certificates to our people (EXTERNAL). "" = none.', Kind.PATH
    )
    allow_plaintext_login: bool = setting(
        False,
        "Take passwords on connections without TLS, loopback included. Only for a closed test network.",
        Kind.FLAG,
    )


@dataclass(frozen=True, slots=True)
class DomainDkim:
    selector: str = setting(
        "", "The selector under which the public key is in the DNS.", Kind.TEXT, required=True
    )
    key: str = setting("", "PEM private key to sign with (a path).", Kind.PATH, required=True)
    algorithm: str = setting(
        "rsa-sha256", "What the key is for.", Kind.CHOICE, choices=("rsa-sha256", "ed25519-sha256")
    )


@dataclass(frozen=True, slots=True)
class Domain:
    name: str = setting("", "A domain whose mail is ours.", Kind.HOSTNAME, required=True)
    catch_all: str = setting(
        "", 'Where mail for unknown people of this domain goes. "" = it is refused at RCPT TO.', Kind.ADDRESS
    )
    aliases: Mapping[str, tuple[str, ...]] = setting(
        NO_ALIASES,
        'Further names: { info = ["ann@example.org", "bob@example.org"], sales = "bob@example.org" }. They may lead to '
        'other aliases and to addresses elsewhere. "*-sales" and "/EXPRESSION/" hold for names that nobody has; \\1 in a target '
        "is what the first * or group stands for.",
        Kind.ALIASES,
    )
    alias_files: tuple[str, ...] = setting(
        (),
        'Alias files of other mail servers, read again when they change: "aliases:/etc/aliases", "hash:/etc/postfix/virtual" '
        '(the source text), "regexp:PATH", "pcre:PATH". Names without a domain are of this one.',
        Kind.ALIAS_FILES,
    )
    relay: Relay | None = setting(
        None,
        'The store of this domain is behind us: its mail goes there. "lmtp://HOST:PORT", "lmtp:unix:/PATH", "smtp://HOST:PORT". '
        '"" = the mailboxes are here.',
        Kind.RELAY,
    )
    recipients: tuple[str, ...] = setting(
        (),
        'With relay: who is there. Names or addresses, "file:PATH" for a file with one a line (read again when it changes), '
        '"any" = everybody. Others are refused at RCPT TO. Default: "any".',
        Kind.RECIPIENTS,
    )
    privacy: bool = setting(
        True,
        "Take what tells of their machines out of what people of this domain send (stage.privacy).",
        Kind.FLAG,
    )
    dkim: DomainDkim | None = cast(
        "DomainDkim | None",
        dataclasses.field(
            default=None,
            metadata={
                "doc": "Sign mail that leaves: { selector = ..., key = ..., algorithm = ... }. "
                "Left out = by the keys that `filterd dkim keygen` made, if any.",
                "kind": Kind.TABLE,
                "section": DomainDkim,
                "optional": True,
            },
        ),
    )


@dataclass(frozen=True, slots=True)
class Accounts:
    quota: int = setting(
        5 << 30,
        "What one account may store, unless `account add --quota` said otherwise; 0 = no limit.",
        Kind.SIZE,
    )
    subaddress: str = setting(
        "+",
        'The character between a name and its detail: ann+list@example.org is for ann. "" = off.',
        Kind.TEXT,
    )
    save_sent: bool = setting(
        False,
        "Keep a copy of what is sent by submission in the account's Sent mailbox, as read. Then switch it off in the mail "
        "programs: what they store themselves is there as well.",
        Kind.FLAG,
    )
    alias_includes: bool = setting(
        False, "Follow :include:/PATH in alias files. Such a file must not be writable by others.", Kind.FLAG
    )
    forward: ForwardFiles = table(ForwardFiles, "What users of this machine wrote into .forward.")
    allow: Allow = table(
        Allow, "Programs and files in alias files and .forward files; nothing is allowed by itself."
    )


@dataclass(frozen=True, slots=True)
class Listen:
    smtp: tuple[SocketAddress, ...] = setting((), "Mail from other servers (port 25).", Kind.LISTEN)
    submission: tuple[SocketAddress, ...] = setting(
        (), "Mail from our people, STARTTLS first (port 587).", Kind.LISTEN
    )
    submissions: tuple[SocketAddress, ...] = setting(
        (), "Mail from our people, TLS at once (port 465).", Kind.LISTEN
    )
    lmtp: tuple[SocketAddress, ...] = setting(
        (), "Mail from another server of ours, in front of us.", Kind.LISTEN
    )
    imap: tuple[SocketAddress, ...] = setting(
        (), "Reading mail, STARTTLS before login (port 143).", Kind.LISTEN
    )
    imaps: tuple[SocketAddress, ...] = setting((), "Reading mail, TLS at once (port 993).", Kind.LISTEN)
    pop3: tuple[SocketAddress, ...] = setting((), "Fetching mail, STLS before login (port 110).", Kind.LISTEN)
    pop3s: tuple[SocketAddress, ...] = setting((), "Fetching mail, TLS at once (port 995).", Kind.LISTEN)
    sieve: tuple[SocketAddress, ...] = setting((), "ManageSieve: people's scripts (port 4190).", Kind.LISTEN)
    milter: tuple[SocketAddress, ...] = setting(
        (),
        "Our stages for other mail servers, as their mail filter. Keep it on a unix socket or loopback.",
        Kind.LISTEN,
    )
    web: tuple[SocketAddress, ...] = setting(
        (),
        "The page that the links of a quarantine digest lead to. Plain HTTP: keep it on loopback (or quarantine.https).",
        Kind.LISTEN,
    )
    metrics: tuple[SocketAddress, ...] = setting(
        (),
        "/metrics for Prometheus, /healthz and /readyz. Plain HTTP, no log-in: keep it on loopback.",
        Kind.LISTEN,
    )


STANDARD_DOORS: Mapping[str, tuple[SocketAddress, ...]] = MappingProxyType(
    {  # what a file without any [listen] key opens
        "smtp": (SocketAddress(port=25),),
        "submission": (SocketAddress(port=587),),
        "submissions": (SocketAddress(port=465),),
        "imap": (SocketAddress(port=143),),
        "imaps": (SocketAddress(port=993),),
        "pop3s": (SocketAddress(port=995),),
        "sieve": (SocketAddress(port=4190),),
    }
)


@dataclass(frozen=True, slots=True)
class Connections:
    total: int = setting(4000, "Connections at once to one worker, all doors together.", Kind.COUNT)
    per_ip: int = setting(100, "Connections at once from one address, to all workers together.", Kind.COUNT)


@dataclass(frozen=True, slots=True)
class Limits:
    message_size: int = setting(50 << 20, "The largest message we take (SIZE).", Kind.SIZE)
    recipients: int = setting(
        100, "Recipients of one message; RFC 5321 4.5.3.1.8 wants at least 100.", Kind.COUNT
    )
    messages_per_hour: int = setting(
        0, "How many messages one account may send in an hour (submission); 0 = no limit.", Kind.COUNT
    )
    recipients_per_hour: int = setting(
        0, "To how many recipients one account may send in an hour; 0 = no limit.", Kind.COUNT
    )
    imap_messages: int = setting(
        0, "What one IMAP command handles (MESSAGELIMIT); 0 = any number.", Kind.COUNT
    )
    imap_saved: int = setting(0, "What one COPY or APPEND saves (SAVELIMIT); 0 = any number.", Kind.COUNT)
    pop3_delay: float = setting(0.0, "Between two POP3 log-ins of an account (LOGIN-DELAY).", Kind.DURATION)
    connections: Connections = table(Connections, "How many clients at once.")


@dataclass(frozen=True, slots=True)
class Pipeline:
    incoming: tuple[str, ...] = setting(
        INCOMING_STAGES,
        "What a message from outside passes, in this order; stages that do not need each other run side by side.",
        Kind.CHOICES,
        choices=INCOMING_STAGES,
    )
    outgoing: tuple[str, ...] = setting(
        OUTGOING_STAGES,
        "What mail of our own people passes before it leaves.",
        Kind.CHOICES,
        choices=OUTGOING_STAGES,
    )
    authserv_id: str = setting(
        "",
        "Our name in Authentication-Results; forged results under it are removed. Default: server.hostname.",
        Kind.TEXT,
    )
    trusted_authserv: tuple[str, ...] = setting(
        (),
        "Names in Authentication-Results of our other servers: kept in mail that they hand us by LMTP, `filterd deliver` or a "
        "unix socket, removed from all other mail.",
        Kind.TEXTS,
    )
    on_error: str = setting(
        "defer",
        "When a stage cannot judge: defer (4xx, the sender tries again), accept (noted in the trace) or reject.",
        Kind.CHOICE,
        choices=ON_ERROR,
    )
    time_budget: float = setting(
        25.0,
        "For all stages of a message together; stay below the sender's patience after DATA.",
        Kind.DURATION,
    )
    keep_traces: float = setting(
        30 * 86400.0, "How long the story of a message can be explained.", Kind.DURATION
    )


@dataclass(frozen=True, slots=True)
class Srs:
    enabled: str = setting(
        "auto", "Rewrite the reverse-path of what is forwarded; auto = when it really leaves.", Kind.SWITCH
    )
    domain: str = setting("", "The domain of rewritten addresses. Default: the first [[domain]].", Kind.TEXT)
    secrets: tuple[str, ...] = setting(
        (), "The first signs, all verify. Default: one is made once and kept in data_dir.", Kind.SECRETS
    )
    exempt: tuple[str, ...] = setting(
        (), "Domains of senders that are not rewritten, as their SPF record knows us.", Kind.TEXTS
    )
    valid: float = setting(21 * 86400.0, "How long a bounce finds its way back.", Kind.DURATION)


@dataclass(frozen=True, slots=True)
class Store:
    format: str = setting(
        "maildir",
        "What new accounts get: maildir (Maildir++) or mbox (files of many messages), both with an index and readable by other "
        "programs. `filterd store convert` changes an account.",
        Kind.CHOICE,
        choices=("maildir", "mbox"),
    )
    mbox: StoreMbox = table(StoreMbox, "Accounts that are kept in mbox files.")
    newline: str = setting("crlf", "Line ends of the files we write.", Kind.CHOICE, choices=("crlf", "lf"))
    path: str = setting(
        "mail/%{domain}/%{user}",
        "Where an account's mail lies, below data_dir; ends with %{domain}/%{user}.",
        Kind.TEXT,
    )


@dataclass(frozen=True, slots=True)
class QueueRoute:
    recipients: tuple[str, ...] = setting(
        (),
        'Whose mail goes this way: "ann@example.net", "example.net", ".example.net" (all below it). Default: everybody\'s.',
        Kind.ROUTED,
    )
    senders: tuple[str, ...] = setting(
        (),
        'From whom (the reverse-path), in the same words; "<>" for bounces. Default: from everybody.',
        Kind.ROUTED,
    )
    via: Relay | None = setting(
        None,
        'The next hop, as in queue.relay. "" = by MX, with the source addresses of this route.',
        Kind.RELAY,
    )
    bind: tuple[str, ...] = setting((), "Source addresses. Default: queue.bind.", Kind.SOURCES)


@dataclass(frozen=True, slots=True)
class Queue:
    relay: Relay | None = setting(
        None,
        'Send everything through this host: "smtp://HOST:PORT", "lmtp://HOST:PORT", "lmtp:unix:/PATH". "" = by MX.',
        Kind.RELAY,
    )
    route: tuple[QueueRoute, ...] = tables(
        QueueRoute,
        "Other ways for some senders and recipients; the first that holds is taken, before queue.relay. Domains of ours take none.",
        optional=True,
    )
    bind: tuple[str, ...] = setting(
        (),
        "Source addresses of what leaves, one of IPv4 and one of IPv6. Default: the system's choice.",
        Kind.SOURCES,
    )
    future_release: float = setting(
        30 * 86400.0,
        "How long people may have a message held before it leaves (FUTURERELEASE at submission); 0s = not offered.",
        Kind.DURATION,
    )
    retry: tuple[float, ...] = setting(
        (300.0, 900.0, 3600.0, 14400.0, 28800.0), "Pauses between tries; the last repeats.", Kind.DURATIONS
    )
    max_age: float = setting(5 * 86400.0, "After this the sender gets the message back.", Kind.DURATION)
    warn_after: float = setting(
        4 * 3600.0, "After this the sender is told that we still try; 0s = never.", Kind.DURATION
    )
    tls: str = setting(
        "dane",
        "TLS with other mail hosts. none: never. opportunistic: when it is offered. dane: as the domain asks by DANE or MTA-STS, "
        "else when it is offered. secure: always, with a certificate that proves who is there.",
        Kind.CHOICE,
        choices=TLS_WORDS,
    )
    tls_ca: str = setting(
        "",
        "A PEM file of authorities that are trusted beside the system's, for mail hosts and MTA-STS.",
        Kind.PATH,
    )
    tls_reports: bool = setting(
        False, "Count how TLS went and send the daily reports that domains ask for (TLSRPT).", Kind.FLAG
    )
    tls_policy: tuple[QueueTls, ...] = tables(
        QueueTls, "Other words than queue.tls for some destinations.", optional=True
    )


@dataclass(frozen=True, slots=True)
class Dkim:
    key_table: str = setting(
        "",
        "OpenDKIM's KeyTable: keys for what [[domain]] has none of. Lines: NAME DOMAIN:SELECTOR:FILE.",
        Kind.PATH,
    )
    signing_table: str = setting(
        "",
        "OpenDKIM's SigningTable: who is signed for by which names of key_table; with or without *.",
        Kind.PATH,
    )


@dataclass(frozen=True, slots=True)
class Exec:
    socket: str = setting(
        "",
        'Where `filterd exec serve` listens and the server asks it. "" = nobody runs programs.',
        Kind.PATH,
    )
    directory: str = setting(
        "",
        "The programs that scripts may name (pipe, filter, execute): executable files that nobody but their owner may write; "
        "not below data_dir.",
        Kind.PATH,
    )
    user: str = setting(
        "", "The system user that programs run as, when the service is started as root.", Kind.TEXT
    )
    timeout: float = setting(10.0, "How long a program may take.", Kind.DURATION)
    memory: int = setting(512 << 20, "How much memory each process of a program may take.", Kind.SIZE)
    output: int = setting(8 << 20, "How much a program may print.", Kind.SIZE)
    isolation: str = setting(
        "required",
        "required: the service does not start where it cannot take the network and the mail away from programs; best-effort: "
        "it does, and says what is missing.",
        Kind.CHOICE,
        choices=("required", "best-effort"),
    )


@dataclass(frozen=True, slots=True)
class Quarantine:
    keep: float = setting(
        30 * 86400.0, "How long what is held back can be released; then it is thrown away.", Kind.DURATION
    )
    junk: tuple[str, ...] = setting(
        ("dnsbl", "spf", "dmarc", "spamassassin"),
        "Stages whose held mail goes to the person's Junk folder instead of the quarantine. sieve: what a person's script "
        "rejected too late; loop: what a forwarding brought back.",
        Kind.CHOICES,
        choices=HOLDING_STAGES,
    )
    digest: str = setting(
        "off",
        "daily: who has new mail held back gets a mail about it once a day.",
        Kind.CHOICE,
        choices=("off", "daily"),
    )
    digest_hour: int = setting(7, "From which hour of the day (local time, 0 to 23).", Kind.COUNT)
    base_url: str = setting(
        "",
        'The address of listen.web as people reach it, such as "https://mail.example.org": digests then have a link to release '
        'each message. "" = they have its number.',
        Kind.TEXT,
    )
    https: bool = setting(
        False, "listen.web speaks TLS, with the certificate of the server (tls).", Kind.FLAG
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole. ``origins`` tells where each key that was set came from; ``warnings`` what deserves a look."""

    version: int = setting(VERSION, "The version of this file's format.", Kind.COUNT)
    server: Server = table(Server, "Who and where we are.")
    log: Log = table(Log, "What is written while we run; never subjects or bodies.")
    tls: Tls = table(Tls, "Certificates.")
    domain: tuple[Domain, ...] = tables(Domain, "The domains that are ours; at least one.")
    accounts: Accounts = table(Accounts, "What holds for all accounts.")
    auth: Auth = table(Auth, "How people prove who they are.")
    listen: Listen = table(
        Listen,
        'The doors. Each is a list of "HOST:PORT", "unix:PATH" or "fd:NAME" (an inherited socket); without one it is '
        "closed. Without any key here the usual ports are opened: 25, 587, 465, 143, 993, 995, 4190.",
    )
    limits: Limits = table(Limits, "What one client may ask of us.")
    pipeline: Pipeline = table(Pipeline, "The way of a message.")
    stage: Stages = table(Stages, "The settings of each stage.")
    milter: Milter = table(Milter, "filterd as the mail filter of another server (listen.milter).")
    srs: Srs = table(Srs, "Forwarding under our own name.")
    batv: Batv = table(Batv, "Bounces of mail that we never sent.")
    store: Store = table(Store, "Where mail is kept.")
    sharing: SharedMail = table(SharedMail, "Mailboxes that several people use.")
    queue: Queue = table(Queue, "Mail on its way out.")
    quarantine: Quarantine = table(
        Quarantine, "What a check or a late refusal held back: `filterd quarantine list`."
    )
    dkim: Dkim = table(Dkim, "Signing keys that come from OpenDKIM's tables.")
    dns: Dns = table(Dns, "Name servers.")
    exec: Exec = table(Exec, "Programs that scripts may run, by a service of their own.")
    metrics: Metrics = table(Metrics, "What listen.metrics counts.")
    path: str = ""
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    warnings: tuple[Problem, ...] = dataclasses.field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One documented key. ``name`` is dotted, an array of tables as ``domain[].name``; ``default`` as TOML text."""

    name: str
    doc: str
    kind: Kind
    choices: tuple[str, ...]
    required: bool
    default: object
    section: bool


def all_keys() -> Iterator[KeyInfo]:
    """Every key of the schema in the order of a file, tables included (``section``), a table's own keys first."""
    yield from _keys(Config(), "")


def _keys(section: object, prefix: str) -> Iterator[KeyInfo]:
    fields = [
        entry
        for entry in dataclasses.fields(section)  # type: ignore[arg-type]  # always an instance of a section
        if "kind" in entry.metadata
    ]
    for entry in sorted(fields, key=lambda entry: "section" in entry.metadata):
        kind: Kind = entry.metadata["kind"]
        name = prefix + entry.name
        default = getattr(section, entry.name)
        choices: tuple[str, ...] = entry.metadata.get("choices", ())
        required = bool(entry.metadata.get("required", False))
        inner = entry.metadata.get("section")
        yield KeyInfo(name, entry.metadata["doc"], kind, choices, required, default, inner is not None)
        if inner is not None:
            dots = "[]." if kind is Kind.TABLES else "."
            yield from _keys(inner(), name + dots)
