"""From the configuration's sections to the pipeline's stages, and to what leaves: the mapping, and nothing else."""

from __future__ import annotations

import ipaddress
import logging
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from filterd import keys, milter_profile, signing
from filterd.accounts.directory import Directory
from filterd.config.bridge import filled
from filterd.config.schema import Config
from filterd.delivery import Delivery
from filterd.explain.traces import TraceReader, TraceWriter
from filterd.greylist import SqliteTriplets
from filterd.learning.learner import classifier_of, learner_of
from filterd.learning.taught import Taught
from filterd.milter import MilterReception, MilterReceptionSettings
from filterd.milter_sieve import Screen
from filterd.milter_srs import MilterSrs
from filterd.outgoing import Departure, Seal
from filterd.quarantine.digest import Digests
from filterd.quarantine.keeper import Quarantine
from filterd.quarantine.links import SECRET, Links
from filterd.quarantine.release import Releaser
from filterd.queue import dsn
from filterd.queue.base import Spool
from filterd.queue.outbound import verifying
from filterd.reports.daily import Reporting, reporter
from filterd.reports.data import REPORTS, ObservationLog
from filterd.reports.tlspost import HttpsPoster, Poster
from filterd.reports.tlsrpt import TlsReporting
from filterd.reports.tlsrpt_data import DATABASE
from pipeline import authres, registry
from pipeline.adapters import dkimpy
from pipeline.adapters.dnspython import DnsResolver
from pipeline.batv import Batv
from pipeline.dkim.arc import ArcResult
from pipeline.dkim.keyring import KeyRing
from pipeline.dkim.seal import seal as arc_seal
from pipeline.dkim.sign import names_to_sign
from pipeline.ports import Clock, Ids, Resolver
from pipeline.registry import StageContext
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.srs import Srs
from pipeline.stage import Stage
from pipeline.stages import STAGES
from pipeline.stages.dmarc import DmarcStage
from pipeline.stages.greylist import GreylistStage
from pipeline.stages.milters import MilterSettings, MiltersSettings
from pipeline.stages.privacy import PrivacySettings
from pipeline.stages.spamassassin import SpamassassinStage
from pipeline.trace import MessageTrace
from pipeline.transaction import Transaction
from rules.limits import Limits
from rules.mail.header import scan
from rules.mail.message import Message

log = logging.getLogger("filterd.outgoing")

DAY = 86_400.0
TRACES = "traces.db"
NONE: Mapping[str, Callable[..., Stage]] = MappingProxyType({})


def dns(config: Config, clock: Clock, ids: Ids) -> Resolver:
    """The resolver: the configured name servers, or those of this machine."""
    servers = [(server.host, server.port or 53) for server in config.dns.resolver]
    return DnsResolver(clock, ids, servers, trust_ad=config.dns.trust_ad, least_ttl=config.dns.least_ttl)


def quarantine_of(config: Config, clock: Clock) -> Quarantine:
    section = config.quarantine
    return Quarantine(Path(config.server.data_dir), section.keep, section.junk, clock)


def releaser(
    config: Config,
    quarantine: Quarantine,
    delivery: Delivery,
    directory: Directory,
    traces: TraceWriter,
    spool: Spool,
    clock: Clock,
) -> Releaser:
    """Carries out the releases that people ask for."""
    root = Path(config.server.data_dir)

    def known(name: str) -> MessageTrace | None:
        try:
            with closing(TraceReader(root / TRACES)) as reader:
                return reader.get(name)
        except sqlite3.Error as error:  # the message is delivered; its story has the release as an event
            log.warning("trace %s cannot be read: %s", name, error)
            return None

    secret = keys.secret(root, "delivery")
    learner = learner_of(config, clock)
    daily = (
        digests(config, quarantine, directory, spool, clock) if config.quarantine.digest == "daily" else None
    )
    return Releaser(quarantine, delivery, directory, traces, known, clock, secret, learner, daily)


def digests(
    config: Config, quarantine: Quarantine, directory: Directory, spool: Spool, clock: Clock
) -> Digests:
    hour = config.quarantine.digest_hour
    return Digests(quarantine, directory, spool, links_of(config), clock, config.server.hostname, hour)


def links_of(config: Config) -> Links:
    """Makes and reads the links of digests."""
    secret = keys.secret(Path(config.server.data_dir), SECRET)
    return Links(secret, config.quarantine.base_url.rstrip("/"))


def stage_context(config: Config, clock: Clock, ids: Ids, resolver: Resolver) -> StageContext:
    name, trusted = config.server.hostname, frozenset(config.pipeline.trusted_authserv)
    return StageContext(
        clock, ids, resolver, name, config.pipeline.authserv_id or name, our_ids(config), trusted
    )


def our_ids(config: Config) -> frozenset[str]:
    """All names of ours that strangers may forge in Authentication-Results."""
    names = (config.server.hostname, config.pipeline.authserv_id, *(domain.name for domain in config.domain))
    return frozenset(name for name in names if name)


def stage_settings(config: Config) -> dict[str, object]:
    """Settings by stage name."""
    out = {
        entry.name: filled(getattr(config.stage, entry.name), entry.settings)
        for entry in STAGES
        if entry.create is not None
    }
    out["milters"] = MiltersSettings(tuple(filled(one, MilterSettings) for one in config.stage.milters))
    return out


def incoming(config: Config, context: StageContext) -> Runner:
    """The message stages of mail from outside, in the configured order."""
    stage = config.stage
    switches = {
        "spf": stage.spf.enabled,
        "dkim": stage.dkim.enabled,
        "arc": stage.arc.enabled,
        "dmarc": stage.dmarc.enabled,
        "dnsbl": bool(stage.dnsbl.lists),
        "greylist": stage.greylist.enabled,
        "milters": bool(stage.milters),
    }
    names = [name for name in config.pipeline.incoming if switches.get(name, True)]
    return _runner(config, context, names, _with_state(config, context.clock))


def _with_state(config: Config, clock: Clock) -> dict[str, Callable[..., Stage]]:
    """The stages that keep something between messages, given what they keep it in."""
    root = Path(config.server.data_dir)
    out: dict[str, Callable[..., Stage]] = {}
    if config.stage.greylist.enabled:
        out["greylist"] = partial(GreylistStage, triplets=SqliteTriplets(root / "greylist.db"))
    if (
        config.stage.spamassassin.enabled not in ("off", "false")
        and "spamassassin" in config.pipeline.incoming
    ):
        out["spamassassin"] = partial(
            SpamassassinStage, classifier=classifier_of(config, clock), lessons=Taught(root, clock)
        )
    if config.stage.dmarc.reports.send:
        observed = ObservationLog(root / REPORTS)
        out["dmarc"] = partial(DmarcStage, observe=observed.put, end=observed.close)
    return out


def _runner(
    config: Config,
    context: StageContext,
    names: list[str],
    creators: Mapping[str, Callable[..., Stage]] = NONE,
) -> Runner:
    entries = [replace(entry, create=creators.get(entry.name, entry.create)) for entry in STAGES]
    known = {entry.name for entry in entries}
    stages = registry.build(
        entries, [name for name in names if name in known], stage_settings(config), context
    )
    return Runner(stages, context.clock)


def srs_of(config: Config, clock: Clock) -> Srs | None:
    """The rewriting of forwarded reverse-paths; None when it is off."""
    if config.srs.enabled in ("off", "false") or "srs" not in config.pipeline.incoming:
        return None
    secrets = [secret.encode() for secret in config.srs.secrets] or [
        keys.secret(Path(config.server.data_dir), "srs")
    ]
    domains = [domain.name for domain in config.domain]
    return Srs(
        config.srs.domain or domains[0],
        secrets,
        clock,
        own_domains=[*domains, *config.srs.exempt],
        valid_days=max(1, int(config.srs.valid // DAY)),
    )


def batv_of(config: Config, clock: Clock) -> Batv | None:
    """The tags of what our people send; None when it is off."""
    if not config.batv.enabled:
        return None
    secrets = [secret.encode() for secret in config.batv.secrets] or [
        keys.secret(Path(config.server.data_dir), "batv")
    ]
    return Batv([domain.name for domain in config.domain], secrets, clock)


def signer(ring: KeyRing, unfinished: bool = False) -> Callable[[bytes, str], bytes]:
    """Signs for the author in From; for mail of our own making (a vacation answer) for the domain it is sent for.

    ``unfinished``: another server will add the fields that a message must have and this one has not.
    """

    def sign(message: bytes, domain: str) -> bytes:
        keys = ring.keys_of(message) or signing.keys_for(ring, "@" + domain)
        names = None
        if unfinished:
            block = scan(message)
            names = [name for name in names_to_sign(block) if name in block or name not in (b"date", b"to")]
        try:
            return b"".join(
                dkimpy.sign(message, key.domain, key.selector, key.key, names=names) for key in keys
            )
        except dkimpy.SigningError as error:
            log.warning("a message of %s leaves unsigned: %s", domain, error)
            return b""

    return sign


def sealer(config: Config, context: StageContext, ring: KeyRing) -> Seal | None:
    """Seals what we forward, with the key of the domain it came by, else with the first that has one."""
    domains = [domain.name.lower() for domain in config.domain]
    keyed = {name: keys[0] for name in domains if (keys := signing.keys_for(ring, "@" + name))}
    if not keyed or "arc-seal" not in config.pipeline.outgoing:
        return None
    fallback = next(iter(keyed.values()))

    def seal(work: Transaction, message: bytes, passed: str) -> bytes:
        chain = work.state.get("arc")
        if not isinstance(chain, ArcResult):
            return b""  # not verified when it came: nothing can be vouched for
        key = keyed.get(passed.rpartition("@")[2].lower(), fallback)
        said = [work.verdicts[name] for name in config.pipeline.incoming if name in work.verdicts]
        results = [result for verdict in said for result in verdict.authres]
        return arc_seal(
            message,
            key.domain,
            key.selector,
            key.key,
            results=authres.value(context.authserv_id or context.hostname, results),
            chain=chain,
            now=context.clock.time(),
        )

    return seal


def reporting(config: Config, resolver: Resolver, spool: Spool, clock: Clock) -> Reporting:
    """The sender of our DMARC reports."""
    return Reporting(
        Path(config.server.data_dir) / REPORTS,
        reporter(config),
        resolver,
        spool,
        signer(signing.keyring(config)),
        clock,
    )


def tls_reporting(config: Config, resolver: Resolver, spool: Spool, clock: Clock) -> TlsReporting:
    """The sender of our TLS reports."""
    path, sign = Path(config.server.data_dir) / DATABASE, signer(signing.keyring(config))
    poster = Poster(resolver, HttpsPoster(partial(verifying, config.queue.tls_ca), clock.monotonic).request)
    return TlsReporting(path, reporter(config), resolver, spool, sign, clock, poster.post)


def milter_reception(
    config: Config,
    context: StageContext,
    arriving: Runner,
    leaving: Departure,
    traces: TraceWriter,
    limits: Limits,
) -> MilterReception:
    """What other mail servers ask by ``listen.milter``: the same stages as at our own doors."""
    hostname, authserv_id = config.server.hostname, config.pipeline.authserv_id
    settings = MilterReceptionSettings(
        hostname=hostname,
        authserv_id=authserv_id or hostname,
        our_ids=our_ids(config),
        time_budget=config.pipeline.time_budget,
        internal=[ipaddress.ip_network(network) for network in config.milter.internal],
    )
    scripts = milter_profile.paths(config)
    ring = signing.keyring(config) if "dkim-sign" in config.pipeline.outgoing else KeyRing()
    leaving = replace(leaving, sign=signer(ring, unfinished=True))
    screen = Screen(scripts, hostname, context.clock, limits) if scripts else None
    reception = MilterReception(settings, arriving, leaving, traces, context.clock, context.ids, screen)
    if config.milter.srs and leaving.srs is not None:
        reception.srs = MilterSrs(leaving.srs, leaving.our_domains, context.clock)
    return reception


def departure(config: Config, context: StageContext, srs: Srs | None) -> Departure:
    """What leaves: the outgoing list's stages, privacy, SRS, signatures, notifications."""
    ring = signing.keyring(config)
    sign = signer(ring if "dkim-sign" in config.pipeline.outgoing else KeyRing())

    def bounce(original: Message, reverse_path: str, recipient: str, reply: Reply) -> bytes:
        return dsn.compose(
            hostname=config.server.hostname,
            action="failed",
            reverse_path=reverse_path,
            recipient=recipient,
            status=reply.enhanced_code or "5.7.1",
            diagnostic=f"{reply.code} {reply.enhanced_code} {reply.text}",
            original=original.data,
            params={},
            message_id=f"{uuid.uuid4().hex}@{config.server.hostname}",
            now=context.clock.time(),
        )

    privacy = config.stage.privacy
    wanted = privacy.enabled and "privacy" in config.pipeline.incoming
    leaving = [name for name in config.pipeline.outgoing if name != "milters" or config.stage.milters]
    return Departure(
        runner=_runner(config, context, leaving),
        privacy_settings=filled(privacy, PrivacySettings) if wanted else None,
        srs=srs,
        our_domains=frozenset(domain.name for domain in config.domain),
        sign=sign,
        bounce=bounce,
        seal=sealer(config, context, ring),
        trusted_authserv=frozenset(config.pipeline.trusted_authserv),
        batv=batv_of(config, context.clock),
        open_domains=frozenset(domain.name for domain in config.domain if not domain.privacy),
    )
