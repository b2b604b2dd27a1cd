"""From the configuration's sections to the pipeline's stages, and to what leaves: the mapping, and nothing else."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from filterd import keys
from filterd.config.schema import Config
from filterd.config.values import SocketAddress
from filterd.outgoing import Departure
from filterd.queue import dsn
from pipeline import registry
from pipeline.adapters import crypto, dkimpy
from pipeline.adapters.dnspython import DnsResolver
from pipeline.ports import Clock, Ids, Resolver
from pipeline.registry import StageContext
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.srs import Srs
from pipeline.stages import STAGES
from pipeline.stages.clamav import ClamavSettings
from pipeline.stages.dkim import DkimSettings
from pipeline.stages.privacy import PrivacySettings
from pipeline.stages.spamassassin import SpamassassinSettings
from pipeline.stages.spf import SpfSettings
from rules.mail.message import Message

log = logging.getLogger("filterd.outgoing")

DAY = 86_400.0
SPF_FAIL = {"note": "note", "quarantine": "junk", "reject": "reject"}


def dns(config: Config, clock: Clock, ids: Ids) -> Resolver:
    """The resolver: the configured name servers, or those of this machine."""
    return DnsResolver(clock, ids, [(server.host, server.port or 53) for server in config.dns.resolver])


def stage_context(config: Config, clock: Clock, ids: Ids, resolver: Resolver) -> StageContext:
    name = config.server.hostname
    return StageContext(clock, ids, resolver, name, config.pipeline.authserv_id or name)


def stage_settings(config: Config) -> dict[str, object]:
    """Settings by stage name."""
    stage = config.stage
    return {
        "spf": SpfSettings(fail=SPF_FAIL[stage.spf.fail], header=stage.spf.header, timeout=stage.spf.timeout),
        "dkim": DkimSettings(min_rsa_bits=stage.dkim.min_rsa_bits, timeout=stage.dkim.timeout),
        "clamav": ClamavSettings(
            enabled=_switch(stage.clamav.enabled),
            socket=_endpoint(stage.clamav.socket),
            found=stage.clamav.found,
            timeout=stage.clamav.timeout,
            on_error=stage.clamav.on_error,
            max_size=stage.clamav.max_size,
        ),
        "spamassassin": SpamassassinSettings(
            enabled=_switch(stage.spamassassin.enabled),
            socket=_endpoint(stage.spamassassin.socket),
            junk_at=stage.spamassassin.junk_at,
            reject_at=stage.spamassassin.reject_at,
            max_size=stage.spamassassin.max_size,
            timeout=stage.spamassassin.timeout,
            on_error=stage.spamassassin.on_error,
        ),
    }


def _switch(value: str) -> str:
    return {"true": "on", "false": "off"}.get(value, value)


def _endpoint(address: SocketAddress) -> str:
    return f"unix:{address.path}" if address.path else f"inet:{address.port}@{address.host or '127.0.0.1'}"


def incoming(config: Config, context: StageContext) -> Runner:
    """The message stages of mail from outside, in the configured order."""
    off = {
        name
        for name, on in (("spf", config.stage.spf.enabled), ("dkim", config.stage.dkim.enabled))
        if not on
    }
    return _runner(config, context, [name for name in config.pipeline.incoming if name not in off])


def _runner(config: Config, context: StageContext, names: list[str]) -> Runner:
    known = {entry.name for entry in STAGES}
    stages = registry.build(
        STAGES, [name for name in names if name in known], stage_settings(config), context
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
        own_domains=domains,
        valid_days=max(1, int(config.srs.valid // DAY)),
    )


def departure(config: Config, context: StageContext, srs: Srs | None) -> Departure:
    """What leaves: the outgoing list's stages, privacy, SRS, signatures, notifications."""
    signing = "dkim-sign" in config.pipeline.outgoing
    signers = {
        domain.name: (domain.dkim.selector, crypto.load_private(Path(domain.dkim.key).read_bytes()))
        for domain in config.domain
        if domain.dkim is not None and signing
    }

    def sign(message: bytes, domain: str) -> bytes:
        found = signers.get(domain)
        if found is None:
            return b""
        try:
            return dkimpy.sign(message, domain, found[0], found[1])
        except dkimpy.SigningError as error:
            log.warning("a message of %s leaves unsigned: %s", domain, error)
            return b""

    def bounce(original: Message, recipient: str, reply: Reply) -> bytes:
        return dsn.compose(
            hostname=config.server.hostname,
            action="failed",
            reverse_path="",
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
    return Departure(
        runner=_runner(config, context, list(config.pipeline.outgoing)),
        privacy_settings=PrivacySettings(strip=privacy.strip) if wanted else None,
        srs=srs,
        our_domains=frozenset(domain.name for domain in config.domain),
        sign=sign,
        bounce=bounce,
    )
