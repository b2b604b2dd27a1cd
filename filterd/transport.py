"""How the configuration's words about TLS become the queue's policies; for the sender and for `filterd probe`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from filterd.config.schema import Config
from filterd.queue import mtasts
from filterd.queue.mtasts import HttpsFetcher, StsCache
from filterd.queue.outbound import Dialer, unheard, verifying
from filterd.queue.tlsdemand import Session
from filterd.queue.tlspolicy import TlsPolicies, Wish
from pipeline.dns_name import normalise
from pipeline.ports import Clock, Resolver


def wishes_of(config: Config) -> dict[str, Wish]:
    """By domain as ``TlsPolicies`` looks it up."""
    out: dict[str, Wish] = {}
    for one in config.queue.tls_policy:
        name = one.domain.removeprefix(".")
        dot = "." if one.domain.startswith(".") else ""
        names = tuple(text.lower().rstrip(".") for text in one.names)
        out[dot + (normalise(name) or name.lower())] = Wish(one.tls, names)
    return out


def tls_policies(config: Config, resolver: Resolver, clock: Clock, cache: Path | None = None) -> TlsPolicies:
    """``cache``: where MTA-STS policies are remembered; None: beside the queue."""
    path = cache or Path(config.server.data_dir) / "queue" / mtasts.DATABASE
    fetcher = HttpsFetcher(partial(verifying, config.queue.tls_ca), clock.monotonic)
    sts = StsCache(path, resolver, clock, fetcher.fetch)
    return TlsPolicies(resolver, config.queue.tls, wishes_of(config), sts)


def dialer(config: Config, clock: Clock, heard: Callable[[Session], None] = unheard) -> Dialer:
    return Dialer(config.server.hostname, ca_file=config.queue.tls_ca, clock=clock, heard=heard)
