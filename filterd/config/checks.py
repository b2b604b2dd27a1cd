"""What only the whole configuration shows: keys that contradict each other, files that are absent, names that clash.

``check`` gives (problems, warnings). A key that already has a problem of its own is not looked at again (``good``).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from typing import Protocol

from filterd.config import outlet_checks, schema
from filterd.config.errors import Problem
from filterd.config.positions import Path
from filterd.config.stages import DnsblStage
from filterd.config.values import SocketAddress
from pipeline.dns_name import normalise


class Where(Protocol):
    def __call__(self, path: Path, *, value: bool = False) -> Problem:
        """A Problem that has only its place."""
        ...


Finding = tuple[Path, str, str, str]  # path, kind, about, text
DOORS = (
    "smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "sieve", "milter",
    "web", "metrics",
)  # fmt: skip
IMPLICIT_TLS = ("submissions", "imaps", "pop3s")
NEED_LOGIN = ("submission", "imap", "pop3", "sieve")
SUREST_LEAST = 0.9
BEFORE_SIEVE = ("dnsbl", "greylist", "spf", "dkim", "arc", "dmarc", "clamav", "spamassassin", "milters")
AFTER_SIEVE = ("privacy", "srs")
MIN_SECRET = 16  # characters
MAX_FAULTS = 50  # told of one file


def check(
    config: schema.Config, where: Where, good: Callable[[Path], bool]
) -> tuple[list[Problem], list[Problem]]:
    """(problems, warnings) of a configuration whose single values are right."""

    def placed(findings: Iterator[Finding]) -> list[Problem]:
        return [
            dataclasses.replace(where(path, value=True), kind=kind, about=about, text=text)
            for path, kind, about, text in findings
            if good(path)
        ]

    problems = [*_version(config), *_tls(config), *_pipeline(config), *_domains(config), *_listen(config)]
    problems += [
        *_oauth(config),
        *_stages(config),
        *_srs(config),
        *_dkim(config),
        *_store(config),
        *_queue(config),
        *_limits(config),
        *_quarantine(config),
        *outlet_checks.problems(config),
    ]
    return placed(iter(problems)), placed(_warnings(config))


def _version(config: schema.Config) -> Iterator[Finding]:
    if config.version != schema.VERSION:
        yield (
            ("version",),
            "bad value",
            f"version = {config.version}",
            f"this program reads version {schema.VERSION}",
        )


def _tls(config: schema.Config) -> Iterator[Finding]:
    tls = config.tls
    if tls.mode == "files":
        for name, path in (("cert", tls.cert), ("key", tls.key)):
            if not path:
                yield ("tls", name), "missing key", f"tls.{name}", 'tls.mode = "files" needs it'
            else:
                yield from _readable(("tls", name), path)
    if tls.client_ca:
        yield from _readable(("tls", "client_ca"), tls.client_ca)
        if tls.mode == "off":
            yield ("tls", "client_ca"), "conflict", "tls.client_ca", 'needs TLS, and tls.mode = "off"'
    if tls.mode == "off":
        for door in IMPLICIT_TLS:
            if getattr(config.listen, door) and f"listen.{door}" in _written(config):
                yield ("listen", door), "conflict", f"listen.{door}", 'needs TLS, and tls.mode = "off"'
        if config.quarantine.https:
            yield ("quarantine", "https"), "conflict", "quarantine.https", 'needs TLS, and tls.mode = "off"'


def _oauth(config: schema.Config) -> Iterator[Finding]:
    oauth = config.auth.oauth
    if not oauth.keys and not oauth.introspection:
        return
    from filterd.accounts.webfetch import usable  # only when needed: it takes its time

    if oauth.keys and oauth.introspection:
        text = "is set beside auth.oauth.introspection: one of the two judges tokens"
        yield ("auth", "oauth", "keys"), "conflict", "auth.oauth.keys", text
    for name in ("issuer", "audience") if oauth.keys else ("client_id", "client_secret"):
        if not getattr(oauth, name):
            text = (
                "without it tokens made for others would count"
                if oauth.keys
                else "the issuer asks who we are"
            )
            yield ("auth", "oauth", name), "missing key", f"auth.oauth.{name}", text
    if oauth.introspection and not usable(oauth.introspection):
        about = f'auth.oauth.introspection = "{oauth.introspection}"'
        yield ("auth", "oauth", "introspection"), "bad value", about, "must be an https:// address"
    if "://" in oauth.keys and not usable(oauth.keys):
        text = "must be a file or an https:// address"
        yield ("auth", "oauth", "keys"), "bad value", f'auth.oauth.keys = "{oauth.keys}"', text
    elif oauth.keys and "://" not in oauth.keys:
        yield from _readable(("auth", "oauth", "keys"), oauth.keys)


def _pipeline(config: schema.Config) -> Iterator[Finding]:
    for name, stages in (("incoming", config.pipeline.incoming), ("outgoing", config.pipeline.outgoing)):
        path: Path = ("pipeline", name)
        about = f"pipeline.{name}"
        for stage in sorted({stage for stage in stages if stages.count(stage) > 1}):
            yield path, "conflict", about, f'has "{stage}" twice'
        if "sieve" in stages:
            place = stages.index("sieve")
            for stage in BEFORE_SIEVE:
                if stage in stages[place:]:
                    yield path, "conflict", f'{about} has "sieve" before "{stage}"', _unseen(stage)
            for stage in AFTER_SIEVE:
                if stage in stages[:place]:
                    text = f'"{stage}" acts on what Sieve sends away: put it behind'
                    yield path, "conflict", f'{about} has "{stage}" before "sieve"', text
        for signing in ("arc-seal", "dkim-sign"):
            if name != "outgoing" or signing not in stages:
                continue
            place = stages.index(signing)
            for stage in ("clamav", "milters", "privacy"):
                if stage in stages[place:]:
                    text = "a signature made before would be broken"
                    yield path, "conflict", f'{about} has "{signing}" before "{stage}"', text
    if config.pipeline.time_budget <= 0:
        yield ("pipeline", "time_budget"), "bad value", "pipeline.time_budget", "must be more than nothing"


def _unseen(stage: str) -> str:
    header = {"spamassassin": "X-Spam-Flag", "clamav": "X-Virus-Status", "spf": "Received-SPF"}
    return f"Sieve would not see {header.get(stage, 'Authentication-Results')}"


def _domains(config: schema.Config) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, domain in enumerate(config.domain):
        path: Path = ("domain", index)
        if domain.name and domain.name in seen:  # without one: told where it is missing
            yield (*path, "name"), "conflict", f'domain.name = "{domain.name}"', "the domain is listed twice"
        seen[domain.name] = index
        if domain.dkim is not None and domain.dkim.key:
            yield from _readable((*path, "dkim", "key"), domain.dkim.key)
        yield from _relayed(index, domain)
        yield from _alias_patterns(index, domain)
    for domain_name, alias, chain in alias_loops(config):
        index = seen[domain_name]
        text = "leads back to itself: " + " -> ".join(chain)
        yield ("domain", index, "aliases", alias), "conflict", f"domain.aliases.{alias}", text


def _relayed(index: int, domain: schema.Domain) -> Iterator[Finding]:
    path: Path = ("domain", index, "recipients")
    if domain.recipients and domain.relay is None:
        yield path, "conflict", "domain.recipients", "is for a domain with relay; people here are accounts"
    for text in domain.recipients:
        if text.startswith("file:"):
            yield from _readable(path, text[5:])
        elif "@" in text and text.rpartition("@")[2].lower() != domain.name:
            yield path, "bad value", f'domain.recipients has "{text}"', f"is not an address of {domain.name}"


def _alias_patterns(index: int, domain: schema.Domain) -> Iterator[Finding]:
    patterns = {name: targets for name, targets in domain.aliases.items() if "*" in name or name[0] == "/"}
    if patterns:
        from filterd.accounts.aliases import check_pattern  # only when needed: re2 takes its time

        for name, targets in patterns.items():
            wrong = check_pattern(name, targets)
            if wrong:
                yield ("domain", index, "aliases", name), "bad value", f'domain.aliases."{name}"', wrong
    for file in domain.alias_files:
        yield from _readable(("domain", index, "alias_files"), file.partition(":")[2])


def _alias_faults(config: schema.Config) -> Iterator[Finding]:
    """Lines that do not hold, as warnings: a slip in a list of people must not stop all mail."""
    for index, domain in enumerate(config.domain):
        for file in domain.alias_files:
            from filterd.accounts.aliases import faults
            from filterd.accounts.outlets import Permits

            path = file.partition(":")[2]
            try:
                found = faults(file, domain.name, config.accounts.alias_includes, Permits.of(config))
            except OSError:
                continue  # told already, or told when it is used
            for fault in found[:MAX_FAULTS]:
                column = f" (column {fault.column})" if fault.column else ""
                about = f"{path}:{fault.line}"
                yield ("domain", index, "alias_files"), "warning", about, fault.text + column


def alias_loops(config: schema.Config) -> Iterator[tuple[str, str, list[str]]]:
    """(domain, alias, chain of addresses) of each alias that is part of a circle, once per circle."""
    edges = {
        f"{alias}@{domain.name}": [
            target.lower() for target in targets if target.lower() != f"{alias}@{domain.name}"
        ]  # an alias that names itself means the account of that name
        for domain in config.domain
        for alias, targets in domain.aliases.items()
    }
    done: set[str] = set()
    for start in edges:
        trail: list[str] = []
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            address, depth = stack.pop()
            del trail[depth:]
            if address in trail:
                circle = [*trail[trail.index(address) :], address]
                local, _, domain_name = address.rpartition("@")
                yield domain_name, local, circle
                done.update(circle)
                continue
            if address in done or address not in edges:
                continue
            trail.append(address)
            stack += [(target, depth + 1) for target in reversed(edges[address])]
            if depth > len(edges):
                break
        done.update(trail)


def _listen(config: schema.Config) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for door in DOORS:
        for address in getattr(config.listen, door):
            name = str(address)
            if not address.port and not address.path and not address.name:
                continue  # the kernel chooses
            if name in seen:
                yield (
                    ("listen", door),
                    "conflict",
                    f"listen.{door} = {name}",
                    f"listen.{seen[name]} has it too",
                )
            seen[name] = door
    for text in config.server.proxy_listeners:
        if text not in DOORS and text not in seen:
            hint = "is no listener: write a name of [listen], or an address as it stands there"
            yield ("server", "proxy_listeners"), "bad value", f'server.proxy_listeners has "{text}"', hint
    if config.server.proxy_listeners and not config.server.proxy_trusted and not _all_unix(config):
        text = "nobody could connect: name the proxies"
        yield ("server", "proxy_listeners"), "missing key", "server.proxy_trusted", text


def _all_unix(config: schema.Config) -> bool:
    return all(text.startswith("unix:") for text in config.server.proxy_listeners)


def _stages(config: schema.Config) -> Iterator[Finding]:
    spam = config.stage.spamassassin
    if 0 < spam.reject_at < spam.junk_at:
        yield (
            ("stage", "spamassassin", "reject_at"),
            "conflict",
            f"stage.spamassassin.reject_at = {spam.reject_at:g}",
            f"is below junk_at = {spam.junk_at:g}: nothing would ever reach Junk",
        )
    if spam.sure and not SUREST_LEAST <= spam.sure < 1:
        yield (
            ("stage", "spamassassin", "sure"),
            "bad value",
            f"stage.spamassassin.sure = {spam.sure:g}",
            f"is a probability from {SUREST_LEAST:g} to just under 1, such as 0.999; 0 = the engine is always asked",
        )
    yield from _block_lists(config.stage.dnsbl)
    for name, networks in (("dnsbl", config.stage.dnsbl.exempt), ("greylist", config.stage.greylist.exempt)):
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                yield ("stage", name, "exempt"), "bad value", f'"{network}"', str(error)
    yield from _milters(config)
    sieve = config.stage.sieve
    if sieve.default:
        yield from _readable(("stage", "sieve", "default"), sieve.default)
    for name, paths in (("before", sieve.before), ("after", sieve.after)):
        for path in paths:
            if not any(ch in path for ch in "*?["):
                yield from _readable(("stage", "sieve", name), path)
    for strip in config.stage.privacy.strip:
        stem = strip.removesuffix("*")
        if not stem or not stem.isascii() or any(ch in ":*" or ord(ch) < 33 for ch in stem):
            yield (
                ("stage", "privacy", "strip"),
                "bad value",
                f'"{strip}"',
                "is not the name of a header field",
            )
        elif strip.endswith("*") and len(stem) < 3:
            yield ("stage", "privacy", "strip"), "bad value", f'"{strip}"', "would remove too much"
        elif strip.lower() in ("from", "date", "message-id", "subject", "to", "received", "mime-version"):
            yield (
                ("stage", "privacy", "strip"),
                "bad value",
                f'"{strip}"',
                "mail cannot do without this field",
            )


def _block_lists(dnsbl: DnsblStage) -> Iterator[Finding]:
    if not dnsbl.lists:
        return
    from pipeline.errors import PipelineError  # only when needed: these imports take their time
    from pipeline.stages.dnsbl import parse_list

    for text in dnsbl.lists:
        try:
            parse_list(text)
        except PipelineError as error:
            yield ("stage", "dnsbl", "lists"), "bad value", f'"{text}"', str(error)
    if 0 < dnsbl.reject_at < dnsbl.junk_at:
        text = f"is below junk_at = {dnsbl.junk_at:g}: nothing would ever reach Junk"
        about = f"stage.dnsbl.reject_at = {dnsbl.reject_at:g}"
        yield ("stage", "dnsbl", "reject_at"), "conflict", about, text


def _milters(config: schema.Config) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, one in enumerate(config.stage.milters):
        path: Path = ("stage", "milters", index)
        if one.name in seen:
            yield (
                (*path, "name"),
                "conflict",
                f'stage.milters.name = "{one.name}"',
                "two filters have this name",
            )
        seen.add(one.name)
        if not one.socket.path and not (one.socket.host and one.socket.port):
            yield (*path, "socket"), "bad value", "stage.milters.socket", "needs a path, or a host and a port"


def _srs(config: schema.Config) -> Iterator[Finding]:
    ours = [domain.name for domain in config.domain]
    if config.srs.domain and config.srs.domain.lower() not in ours:
        yield (
            ("srs", "domain"),
            "conflict",
            f'srs.domain = "{config.srs.domain}"',
            "is not a [[domain]]: bounces would not find the way back",
        )


def _dkim(config: schema.Config) -> Iterator[Finding]:
    tables = {"key_table": config.dkim.key_table, "signing_table": config.dkim.signing_table}
    for name, path in tables.items():
        if path:
            yield from _readable(("dkim", name), path)
        elif any(tables.values()):
            yield ("dkim", name), "missing key", f"dkim.{name}", "the two tables work only together"


def _store(config: schema.Config) -> Iterator[Finding]:
    path = config.store.path
    if not f"/{path}".endswith(f"/{schema.ACCOUNT_PATTERN}"):
        text = f'must end with "{schema.ACCOUNT_PATTERN}"'
        yield ("store", "path"), "bad value", f'store.path = "{path}"', text
    elif path.startswith("/") or ".." in path.split("/"):
        yield ("store", "path"), "bad value", f'store.path = "{path}"', "must be below data_dir"
    mbox = config.store.mbox
    shared = len(config.domain) > 1 and "%{domain}" not in mbox.inbox
    if mbox.inbox and "%{account}" not in mbox.inbox and ("%{user}" not in mbox.inbox or shared):
        text = "must have %{account} in it, or %{user} and with several domains %{domain}: each account has its own"
        yield ("store", "mbox", "inbox"), "bad value", f'store.mbox.inbox = "{mbox.inbox}"', text
    if not mbox.locks:
        text = "needs at least one way that the other programs use too"
        yield ("store", "mbox", "locks"), "bad value", "store.mbox.locks", text
    if len(config.accounts.subaddress) > 1 or config.accounts.subaddress in ("@", "."):
        about = f'accounts.subaddress = "{config.accounts.subaddress}"'
        yield ("accounts", "subaddress"), "bad value", about, 'one character such as "+", or ""'


def _queue(config: schema.Config) -> Iterator[Finding]:
    drop, data = config.server.maildrop, config.server.data_dir
    if drop and data and f"{drop}/".startswith(f"{data}/"):
        text = "is below server.data_dir, where nobody else gets in"
        yield ("server", "maildrop"), "conflict", f'server.maildrop = "{drop}"', text
    ours = {domain.name for domain in config.domain}
    for index, one in enumerate(config.queue.route):
        path: Path = ("queue", "route", index)
        if one.via is None and not one.bind:
            yield (
                path,
                "missing key",
                "queue.route.via",
                "a route needs a next hop (via) or source addresses (bind)",
            )
        if not one.recipients and not one.senders:
            yield (
                path,
                "missing key",
                "queue.route",
                "for whom? Name recipients or senders; for all there is queue.relay",
            )
        if one.recipients and all(text.rpartition("@")[2] in ours for text in one.recipients):
            text = "is ours: its mail stays here, or goes where domain.relay says"
            yield (*path, "recipients"), "conflict", f'queue.route.recipients = "{one.recipients[0]}"', text
    if config.queue.tls_ca:
        yield from _readable(("queue", "tls_ca"), config.queue.tls_ca)
    for index, wish in enumerate(config.queue.tls_policy):
        name = wish.domain.removeprefix(".")
        if normalise(name) is None:
            about = f'queue.tls_policy.domain = "{wish.domain}"'
            yield ("queue", "tls_policy", index, "domain"), "bad value", about, "is not a domain"
        if wish.names and wish.tls != "secure":
            text = f'mean nothing with tls = "{wish.tls}"'
            yield ("queue", "tls_policy", index, "names"), "conflict", "queue.tls_policy.names", text
    if not config.queue.retry:
        yield ("queue", "retry"), "bad value", "queue.retry", "needs at least one pause"
    elif any(pause < 1 for pause in config.queue.retry):
        yield ("queue", "retry"), "bad value", "queue.retry", "a pause of less than a second helps nobody"


def _quarantine(config: schema.Config) -> Iterator[Finding]:
    section = config.quarantine
    if section.digest_hour > 23:
        about = f"quarantine.digest_hour = {section.digest_hour}"
        yield ("quarantine", "digest_hour"), "bad value", about, "a day has the hours 0 to 23"
    if section.base_url and not re.fullmatch(r"https?://[^\s/?#|<>\"]+(/[^\s?#<>\"]*)?", section.base_url):
        about = f'quarantine.base_url = "{section.base_url}"'
        yield ("quarantine", "base_url"), "bad value", about, "begins with https:// (or http://) and a host"
    if section.keep < 3600:
        yield ("quarantine", "keep"), "bad value", "quarantine.keep", "less than an hour helps nobody"


def _limits(config: schema.Config) -> Iterator[Finding]:
    limits = config.limits
    for path, number in (
        (("limits", "message_size"), limits.message_size),
        (("limits", "recipients"), limits.recipients),
        (("limits", "connections", "total"), limits.connections.total),
        (("limits", "connections", "per_ip"), limits.connections.per_ip),
    ):
        if number == 0:
            yield path, "bad value", ".".join(path) + " = 0", "nothing would get in"


def _near(address: SocketAddress) -> bool:
    """Is it a socket that only this machine reaches?"""
    here = address.host in ("localhost", "::1") or address.host.startswith("127.")
    return bool(address.path or address.name) or here


def _warnings(config: schema.Config) -> Iterator[Finding]:
    if config.quarantine.base_url and not config.listen.web:
        text = "the links of digests lead nowhere without listen.web"
        yield ("quarantine", "base_url"), "warning", "quarantine.base_url", text
    for door, text in (
        ("milter", "whoever reaches it is believed about clients and logins: use a unix socket or loopback"),
        ("metrics", "whoever reaches it reads what the server does: use loopback"),
    ):
        for address in getattr(config.listen, door):
            if not _near(address):
                yield ("listen", door), "warning", f"listen.{door} = {address}", text
    yield from _machine(config)
    if config.tls.mode == "off" and not config.tls.allow_plaintext_login:
        for door in NEED_LOGIN:
            if getattr(config.listen, door):
                text = "without TLS nobody can log in there"
                yield ("listen", door), "warning", f"listen.{door}", text
    if config.auth.scram_without_tls:
        text = "who listens there may guess at weak passwords at leisure"
        yield ("auth", "scram_without_tls"), "warning", "auth.scram_without_tls", text
    if config.tls.allow_plaintext_login:
        yield (
            ("tls", "allow_plaintext_login"),
            "warning",
            "tls.allow_plaintext_login",
            "passwords may cross the net in clear",
        )
    yield from _alias_faults(config)
    yield from outlet_checks.warnings(config)
    for index, domain in enumerate(config.domain):
        if domain.relay is not None and (not domain.recipients or "any" in domain.recipients):
            text = "unknown people are found out behind us only, and bounces go to forged senders: list the recipients"
            yield ("domain", index, "relay"), "warning", f"domain.relay of {domain.name}", text
    for table, secrets in (("srs", config.srs.secrets), ("batv", config.batv.secrets)):
        if any(len(secret) < MIN_SECRET for secret in secrets):
            yield (table, "secrets"), "warning", f"{table}.secrets", f"shorter than {MIN_SECRET} characters"
    for name in ("spf", "dkim", "arc", "dmarc", "dnsbl", "clamav", "spamassassin"):
        timeout = getattr(config.stage, name).timeout
        if timeout > config.pipeline.time_budget:
            text = (
                f"is more than pipeline.time_budget = {config.pipeline.time_budget:g}s, which ends it earlier"
            )
            yield ("stage", name, "timeout"), "warning", f"stage.{name}.timeout", text
    if 0 < config.limits.recipients_per_hour < config.limits.recipients:
        text = f"a message to limits.recipients = {config.limits.recipients} people can never be sent"
        yield ("limits", "recipients_per_hour"), "warning", "limits.recipients_per_hour", text
    if config.limits.recipients < 100:
        yield (
            ("limits", "recipients"),
            "warning",
            "limits.recipients",
            "RFC 5321 4.5.3.1.8 wants at least 100",
        )


def _machine(config: schema.Config) -> Iterator[Finding]:
    """What this machine lacks, if it is the one that the file is for: the user, folders of unix sockets."""
    if config.server.user:
        import pwd

        try:
            pwd.getpwnam(config.server.user)
        except KeyError:
            text = (
                f"there is no such user here: useradd --system --shell /usr/sbin/nologin {config.server.user}"
            )
            yield ("server", "user"), "warning", f'server.user = "{config.server.user}"', text
    for door in DOORS:
        for address in getattr(config.listen, door):
            folder = os.path.dirname(address.path)
            if folder and not os.path.isdir(folder) and not folder.startswith(("/run/", "/var/run/")):
                text = f"there is no folder {folder}: nothing can listen there"
                yield ("listen", door), "warning", f"listen.{door} = {address}", text


def _readable(path: Path, file: str) -> Iterator[Finding]:
    name = ".".join(str(part) for part in path if isinstance(part, str))
    if not os.path.isfile(file):
        hint = 'write where it is; without one of yours: tls.mode = "self-signed"' if path[0] == "tls" else ""
        yield path, "no such file", f'{name} = "{file}"', hint
    elif not os.access(file, os.R_OK):
        yield path, "no such file", f'{name} = "{file}"', "is there, but we may not read it"


def _written(config: schema.Config) -> frozenset[str]:
    return frozenset(config.origins)
