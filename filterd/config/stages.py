"""The sections of the stages, ``[stage.NAME]``: what each may be told (schema.py explains the form)."""

from __future__ import annotations

from dataclasses import dataclass

from filterd.config.fields import setting, table, tables
from filterd.config.values import Kind, SocketAddress

ON_ERROR = ("defer", "accept", "reject")


@dataclass(frozen=True, slots=True)
class SpfStage:
    enabled: bool = setting(True, "Check the sender's address against its domain's SPF record.", Kind.FLAG)
    fail: str = setting(
        "note",
        "What a fail means: note, junk or reject. SPF alone rejects forwarded mail: note is sane.",
        Kind.CHOICE,
        choices=("note", "junk", "reject"),
    )
    temperror: str = setting(
        "note",
        "What a DNS failure means: note, or defer (the sender tries again).",
        Kind.CHOICE,
        choices=("note", "defer"),
    )
    helo: bool = setting(True, "Also check the HELO name (RFC 7208 2.3).", Kind.FLAG)
    header: bool = setting(True, "Also write Received-SPF.", Kind.FLAG)
    reverse: bool = setting(
        True,
        "Also look whether the client's address has a name that leads back to it; evidence only.",
        Kind.FLAG,
    )
    timeout: float = setting(
        20.0, "For all look-ups of one message together (RFC 7208 4.6.4).", Kind.DURATION
    )


@dataclass(frozen=True, slots=True)
class DkimStage:
    enabled: bool = setting(True, "Verify DKIM signatures.", Kind.FLAG)
    min_rsa_bits: int = setting(1024, "Shorter RSA keys do not count (RFC 8301: at least 1024).", Kind.COUNT)
    timeout: float = setting(10.0, "For the key look-ups of one message together.", Kind.DURATION)


@dataclass(frozen=True, slots=True)
class ArcStage:
    enabled: bool = setting(True, "Verify ARC chains: what forwarders say they saw.", Kind.FLAG)
    timeout: float = setting(10.0, "For the key look-ups of one message together.", Kind.DURATION)


@dataclass(frozen=True, slots=True)
class DmarcReports:
    send: bool = setting(
        False,
        "Keep what DMARC saw and mail the daily aggregate reports that domains ask for (rua=).",
        Kind.FLAG,
    )
    email: str = setting(
        "", "The sender of the reports. Default: postmaster@ the first [[domain]].", Kind.ADDRESS
    )
    org_name: str = setting("", "Who reports. Default: server.hostname.", Kind.TEXT)
    keep: float = setting(90 * 86400.0, "How long reports that others sent us are kept.", Kind.DURATION)


@dataclass(frozen=True, slots=True)
class DmarcStage:
    enabled: bool = setting(
        True, "Do what the owner of the From domain wants (needs spf and dkim).", Kind.FLAG
    )
    reject: str = setting(
        "follow",
        "When the domain's policy is reject: follow it, put the mail into Junk, or note it.",
        Kind.CHOICE,
        choices=("follow", "junk", "note"),
    )
    quarantine: str = setting(
        "follow",
        "When the domain's policy is quarantine: follow it (Junk; junk means the same), or note it.",
        Kind.CHOICE,
        choices=("follow", "junk", "note"),
    )
    malformed_from: str = setting(
        "junk",
        "Mail with several From fields, or one that cannot be read: reject, junk or note.",
        Kind.CHOICE,
        choices=("reject", "junk", "note"),
    )
    temperror: str = setting(
        "note",
        "When the DNS cannot be asked: note, or defer (the sender tries again).",
        Kind.CHOICE,
        choices=("note", "defer"),
    )
    discovery: str = setting(
        "list",
        "How the organisational domain is found: by the public suffix list, or by a walk up the DNS tree.",
        Kind.CHOICE,
        choices=("list", "tree"),
    )
    exempt: tuple[str, ...] = setting(
        (), "Domains of forwarders and lists that break signatures: their mail is noted only.", Kind.TEXTS
    )
    trusted_sealers: tuple[str, ...] = setting(
        (), "Domains whose ARC seals are believed (forwarders that you know).", Kind.TEXTS
    )
    timeout: float = setting(10.0, "For the look-ups of one message together.", Kind.DURATION)
    reports: DmarcReports = table(DmarcReports, "Aggregate reports; off unless asked for.")


@dataclass(frozen=True, slots=True)
class DnsblStage:
    lists: tuple[str, ...] = setting(
        (),
        'Lists with weight and return codes: "zen.example=3:127.0.0.2-11", "domain:dbl.example=2". None = off.',
        Kind.TEXTS,
    )
    reject_at: float = setting(0.0, "Refuse at this sum of weights; 0 never refuses.", Kind.NUMBER)
    junk_at: float = setting(1.0, "Put into Junk at this sum of weights; 0 only notes.", Kind.NUMBER)
    exempt: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1/128"), "Networks that are not asked for.", Kind.TEXTS
    )
    timeout: float = setting(5.0, "For all lists of one message together.", Kind.DURATION)


@dataclass(frozen=True, slots=True)
class GreylistStage:
    enabled: bool = setting(False, "Ask new senders to come again in a few minutes.", Kind.FLAG)
    delay: float = setting(300.0, "How long a new sender has to wait.", Kind.DURATION)
    window: float = setting(2 * 86400.0, "He must come again within this time.", Kind.DURATION)
    keep: float = setting(
        36 * 86400.0, "A sender who passed is known so long after his last mail.", Kind.DURATION
    )
    auto_exempt: int = setting(
        5,
        "A network that passed with so many senders and recipients is not asked any more; 0 = never so.",
        Kind.COUNT,
    )
    exempt: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1/128"), "Networks that are never asked to wait.", Kind.TEXTS
    )


@dataclass(frozen=True, slots=True)
class ClamavStage:
    enabled: str = setting(
        "auto", "auto: on when clamd answers at the socket, else skipped and the trace says so.", Kind.SWITCH
    )
    socket: SocketAddress = setting(
        SocketAddress(path="/run/clamav/clamd.ctl"), "Where clamd listens.", Kind.SOCKET
    )
    found: str = setting(
        "reject",
        "What a find means: reject, quarantine, tag (X-Virus-Status only) or discard.",
        Kind.CHOICE,
        choices=("reject", "quarantine", "tag", "discard"),
    )
    timeout: float = setting(10.0, "For one message.", Kind.DURATION)
    on_error: str = setting("defer", "When clamd is on and fails.", Kind.CHOICE, choices=ON_ERROR)
    max_size: int = setting(
        25 << 20, "Larger messages are not sent to clamd: at most clamd's StreamMaxLength.", Kind.SIZE
    )
    oversize: str = setting(
        "skip", "What happens to larger messages.", Kind.CHOICE, choices=("skip", "reject", "defer")
    )
    parts: str = setting(
        "all",
        "all: the message and each decoded part of it are scanned; ambiguous: the parts only where readers could disagree.",
        Kind.CHOICE,
        choices=("all", "ambiguous"),
    )
    ambiguous: str = setting(
        "note",
        "Mail that programs may read in more than one way (two Content-Types, base64 with junk, uuencoded files, ...): note, "
        "tag (X-Virus-Ambiguous), quarantine or reject.",
        Kind.CHOICE,
        choices=("note", "tag", "quarantine", "reject"),
    )
    parallel: int = setting(8, "Scans at the same time; at most clamd's MaxThreads.", Kind.COUNT)


@dataclass(frozen=True, slots=True)
class SpamassassinStage:
    enabled: str = setting(
        "auto", "auto: on when spamd answers at the socket, else skipped and the trace says so.", Kind.SWITCH
    )
    engine: str = setting(
        "spamd",
        "Who judges: spamd (SpamAssassin), rspamd, or builtin (a Bayes classifier; also in place of an absent spamd).",
        Kind.CHOICE,
        choices=("spamd", "rspamd", "builtin"),
    )
    socket: SocketAddress = setting(
        SocketAddress(host="127.0.0.1", port=783), "Where spamd listens.", Kind.SOCKET
    )
    junk_at: float = setting(5.0, "From this score on a message is spam and goes to Junk.", Kind.NUMBER)
    reject_at: float = setting(15.0, "From this score on a message is refused; 0 = never.", Kind.NUMBER)
    max_size: int = setting(512 << 10, "Larger messages are not scored.", Kind.SIZE)
    timeout: float = setting(15.0, "For one message.", Kind.DURATION)
    on_error: str = setting("accept", "When spamd is on and fails.", Kind.CHOICE, choices=ON_ERROR)
    parallel: int = setting(5, "Questions at the same time; at most spamd's --max-children.", Kind.COUNT)
    user: str = setting(
        "recipient",
        'The user whose preferences spamd takes: "recipient" (when there is just one), a fixed name, or "" for none.',
        Kind.TEXT,
    )
    command: str = setting(
        "report",
        "report tells the points of each rule; symbols only their names (when spamd's report template was changed); headers takes "
        "over the fields that spamd writes (add_header, rewrite_header), process also its body (report_safe).",
        Kind.CHOICE,
        choices=("report", "symbols", "headers", "process"),
    )
    rspamd_socket: SocketAddress = setting(
        SocketAddress(host="127.0.0.1", port=11333), "Where rspamd answers checkv2.", Kind.SOCKET
    )
    rspamd_controller: SocketAddress = setting(
        SocketAddress(host="127.0.0.1", port=11334), "Where rspamd learns (its controller).", Kind.SOCKET
    )
    rspamd_password: tuple[str, ...] = setting((), "The controller's password, for learning.", Kind.SECRETS)
    rspamd_actions: bool = setting(
        True, "Do what rspamd wants done (reject, soft reject, add header), whatever the score.", Kind.FLAG
    )
    min_learned: int = setting(
        10, "The builtin classifier judges once it has learned so many of spam and of ham.", Kind.COUNT
    )
    sure: float = setting(
        0.0,
        "From this probability on (0.999), for spam as for ham, the builtin classifier's word is enough: spamd and rspamd are not "
        "asked; 0 = they always are.",
        Kind.NUMBER,
    )
    shared: bool = setting(
        False, "What one person teaches the builtin classifier counts for all others too.", Kind.FLAG
    )
    learn: bool = setting(
        True,
        "Moves into and out of Junk by IMAP, and $Junk and $NotJunk, teach the engine and the builtin one.",
        Kind.FLAG,
    )
    remember: float = setting(
        600.0,
        "How long the engine's answer counts for further copies of the same mail; 0 = every copy is scored.",
        Kind.DURATION,
    )
    allow: tuple[str, ...] = setting(
        (),
        "Not scored: networks, and addresses or domains in From where DMARC, SPF or DKIM vouches for them.",
        Kind.TEXTS,
    )


@dataclass(frozen=True, slots=True)
class PrivacyStage:
    enabled: bool = setting(True, "Take what tells about the sender's machine out of what leaves.", Kind.FLAG)
    strip: tuple[str, ...] = setting(
        (
            "User-Agent", "X-Mailer", "X-MimeOLE", "X-Newsreader", "X-Mail-Client", "X-Mozilla-*", "X-Enigmail-*",
            "X-Originating-*", "X-Originator-IP", "X-Client-IP", "X-ClientAddr", "X-ClientProxiedBy",
            "X-Forwarded-For", "X-Remote-IP", "X-Remote-Addr", "X-Real-IP", "X-Sender-IP", "X-Source*", "X-PHP-*",
            "X-AntiAbuse", "X-Authenticated-Sender", "X-Authenticated-User", "X-Authentication-Warning",
            "X-Get-Message-Sender-Via", "X-HTTP-*", "X-WebMail-*", "X-Unix-Mode", "X-Mailer-*", "X-MS-*",
            "X-Microsoft-*", "X-MSMail-*", "X-OriginatorOrg", "X-TMN", "X-OLK*",
            "X-Apple-*", "X-Universally-Unique-Identifier", "X-Uniform-Type-Identifier", "X-Account-Key",
            "X-Identity-Key", "X-Evolution-*", "X-KMail-*", "X-K9mail-*", "X-Antivirus*",
            "Resent-User-Agent", "X-Operating-System", "X-Received", "X-Remote-Host",
            "X-Sender-Host", "X-Host",
        ),
        "Fields to remove; a name may end in * (X-PHP-*). A field that a passing signature covers stays.",
        Kind.TEXTS,
    )  # fmt: skip
    client_ip: str = setting(
        "hide",
        "The client's address and name in our own Received line.",
        Kind.CHOICE,
        choices=("hide", "keep"),
    )
    parts: bool = setting(True, "Also in the headers of the MIME parts.", Kind.FLAG)


@dataclass(frozen=True, slots=True)
class SieveLimits:
    script: int = setting(64 << 10, "The largest script.", Kind.SIZE)
    scripts: int = setting(32, "How many scripts one account may keep.", Kind.COUNT)
    redirects: int = setting(4, "Redirects of one run.", Kind.COUNT)
    actions: int = setting(32, "Actions of one run.", Kind.COUNT)
    cpu: float = setting(0.2, "Time of one run.", Kind.DURATION)


@dataclass(frozen=True, slots=True)
class SieveStage:
    before: tuple[str, ...] = setting(
        (), "The administrator's scripts that run first, for everyone.", Kind.PATHS
    )
    after: tuple[str, ...] = setting((), "Scripts that run last.", Kind.PATHS)
    default: str = setting(
        "",
        "The script of people who have none. Default: the shipped one, which files spam into Junk.",
        Kind.PATH,
    )
    limits: SieveLimits = table(SieveLimits, "What one script may use.")
    on_error: str = setting(
        "keep", "A script that fails never loses mail: the message stays in INBOX, or is tried again (defer).",
        Kind.CHOICE, choices=("keep", "defer"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class MilterFilter:
    name: str = setting("", "What it is called in traces and logs.", Kind.TEXT, required=True)
    socket: SocketAddress = setting(
        SocketAddress(), "Where it listens: unix:PATH, HOST:PORT, inet:PORT@HOST.", Kind.SOCKET, required=True
    )
    timeout: float = setting(10.0, "For one message.", Kind.DURATION)
    on_error: str = setting("defer", "When it fails.", Kind.CHOICE, choices=ON_ERROR)
    listeners: tuple[str, ...] = setting(
        ("smtp", "submission"),
        "The doors whose mail it sees: smtp, submission, lmtp, deliver, milter.",
        Kind.CHOICES,
        choices=("smtp", "submission", "lmtp", "deliver", "milter"),
    )


@dataclass(frozen=True, slots=True)
class Milter:
    internal: tuple[str, ...] = setting(
        (),
        "Clients of the other mail server whose mail counts as our own people's, besides those who log in: it takes the "
        "outgoing list and is signed.",
        Kind.NETWORKS,
    )
    scripts: tuple[str, ...] = setting(
        (),
        "The administrator's scripts for mail of this door: keep, discard, reject, redirect, editheader, quarantine. Default: "
        "stage.sieve.before.",
        Kind.PATHS,
    )
    srs: bool = setting(
        False,
        "Rewrite the sender (SRS) of mail whose recipients are all in other domains. The other server must send bounces to us.",
        Kind.FLAG,
    )


@dataclass(frozen=True, slots=True)
class Stages:
    spf: SpfStage = table(SpfStage, "SPF, RFC 7208.")
    dkim: DkimStage = table(DkimStage, "DKIM verification, RFC 6376.")
    arc: ArcStage = table(ArcStage, "ARC verification, RFC 8617.")
    dmarc: DmarcStage = table(DmarcStage, "DMARC, RFC 7489.")
    dnsbl: DnsblStage = table(DnsblStage, "Block lists in the DNS, RFC 5782. Off: no list is named.")
    greylist: GreylistStage = table(GreylistStage, "Greylisting, RFC 6647. Off by default.")
    clamav: ClamavStage = table(ClamavStage, "Viruses, by clamd.")
    spamassassin: SpamassassinStage = table(SpamassassinStage, "Spam, by spamd.")
    milters: tuple[MilterFilter, ...] = tables(
        MilterFilter,
        "Other people's mail filters (OpenDKIM, rspamd, any libmilter program), asked in this order.",
        optional=True,
    )
    privacy: PrivacyStage = table(PrivacyStage, "What leaves tells less about the sender's machine.")
    sieve: SieveStage = table(SieveStage, "People's scripts, RFC 5228.")
