"""``listen.metrics``: ``/metrics`` for Prometheus, ``/healthz`` (this process answers) and ``/readyz`` (mail can be taken now).

What is counted comes from ``filterd.metrics``; the queue, the scanners, the certificate and the disk are looked at when somebody
asks, beside the loop and no longer than LOOK_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sqlite3
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from filterd import __version__, metrics
from filterd.board import Desk
from filterd.config.schema import Config
from filterd.config.values import SocketAddress
from filterd.metrics import Family, Metric
from filterd.net import tls
from filterd.proto.http import Request
from filterd.queue.journal import DATABASE, Journal
from filterd.queue.rows import LIVE
from filterd.store.base import StoreUnavailable
from filterd.web.page import Page

log = logging.getLogger("filterd.web")

LOOK_SECONDS: Final = 1.0  # for a scanner to take a connection
PLAIN_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
)


class HealthPages:
    """One a worker. ``cert``: the file of the server's certificate, "" for none."""

    def __init__(self, config: Config, desk: Desk, cert: str) -> None:
        self._config = config
        self._desk = desk
        self._cert = cert
        self._queue = Path(config.server.data_dir) / "queue"

    async def answer(self, request: Request) -> Page:
        path = request.path.partition("?")[0]
        if path not in ("/metrics", "/healthz", "/readyz"):
            return _plain(404, "not found: /metrics, /healthz, /readyz\n")
        if request.method not in ("GET", "HEAD"):
            return Page(405, b"", {**PLAIN_FIELDS, "Allow": "GET, HEAD"})
        if path == "/healthz":
            return _plain(200, "ok\n")
        if path == "/readyz":
            faults = await asyncio.to_thread(self._faults)
            return _plain(503 if faults else 200, "".join(f"{one}\n" for one in faults) or "ok\n")
        openmetrics = "application/openmetrics-text" in request.fields.get("accept", "")
        kind = metrics.OPENMETRICS if openmetrics else metrics.PLAIN
        every = [*metrics.families(self._desk.counted()), *await self._looked()]
        return Page(200, metrics.text(every, openmetrics), {**PLAIN_FIELDS, "Content-Type": kind})

    # -- ready ---------------------------------------------------------------------------------------------
    def _faults(self) -> list[str]:
        """Why mail would be put off now."""
        out = []
        data_dir = self._config.server.data_dir
        try:
            room = os.statvfs(data_dir)
            if room.f_bavail * room.f_frsize < self._config.limits.message_size:
                out.append(f"{data_dir}: less room than one message may take")
            if not os.access(data_dir, os.W_OK):
                out.append(f"{data_dir}: not writable")
        except OSError as error:
            out.append(f"{data_dir}: {error.strerror}")
        try:
            self._waiting()
        except (sqlite3.Error, OSError, StoreUnavailable) as error:
            out.append(f"queue: {error}")
        return out

    def _waiting(self) -> tuple[Mapping[str, int], float | None]:
        """(items by state, when the oldest that waits came); nothing when there never was a queue."""
        if not (self._queue / DATABASE).exists():
            return {}, None
        journal = Journal(self._queue)
        try:
            return journal.waiting()
        finally:
            journal.close()

    # -- what is looked at -------------------------------------------------------------------------------
    async def _looked(self) -> list[Family]:
        scanners = [
            (name, address) for name, address in _scanners(self._config) if address.host or address.path
        ]
        up = await asyncio.gather(*(_takes(address) for _, address in scanners))
        out = [
            metrics.gauge("filterd_scanner_up", "Does the scanner take connections?",
                          [([("name", name)], float(there)) for (name, _), there in zip(scanners, up, strict=True)]),
            *await asyncio.to_thread(self._on_disk),
            Family("filterd_build", Metric("info", "What runs."), [
                ("_info", [("version", __version__), ("python", platform.python_version())], 1.0)]),
            metrics.gauge("filterd_start_time_seconds", "When the server was started, in Unix time.",
                          [([], self._desk.started)]),
        ]  # fmt: skip
        return [family for family in out if family.samples]

    def _on_disk(self) -> list[Family]:
        out: list[Family] = []
        try:
            counts, oldest = self._waiting()
            states = [([("state", state)], float(counts.get(state, 0))) for state in LIVE]
            age = time.time() - oldest if oldest is not None else 0.0
            out.append(metrics.gauge("filterd_queue_messages", "Recipients that wait in the queue.", states))
            out.append(
                metrics.gauge("filterd_queue_oldest_seconds", "How long the oldest waits.", [([], age)])
            )
        except (sqlite3.Error, OSError, StoreUnavailable) as error:
            log.warning("metrics: the queue cannot be looked at: %s", error)
        if self._cert:
            try:
                der = ssl.PEM_cert_to_DER_cert(_first(Path(self._cert).read_text("ascii")))
                end = tls.describe(der)[2]
                text = "When the certificate ends, in Unix time."
                out.append(metrics.gauge("filterd_tls_certificate_expiry_seconds", text, [([], end)]))
            except (ValueError, OSError) as error:
                log.warning("metrics: %s: %s", self._cert, error)
        try:
            room = os.statvfs(self._config.server.data_dir)
            text = "Free octets of the disk with the mail."
            free = float(room.f_bavail * room.f_frsize)
            out.append(metrics.gauge("filterd_store_free_bytes", text, [([], free)]))
        except OSError as error:
            log.warning("metrics: %s", error)
        return out


def _plain(code: int, text: str) -> Page:
    return Page(code, text.encode("utf-8", "replace"), PLAIN_FIELDS)


def _first(pem: str) -> str:
    """The server's own certificate stands first in its chain."""
    end = "-----END CERTIFICATE-----"
    begin = pem.find("-----BEGIN CERTIFICATE-----")
    stop = pem.find(end, begin)
    if begin < 0 or stop < 0:
        raise ValueError("there is no certificate in it")
    return pem[begin : stop + len(end)] + "\n"


def _scanners(config: Config) -> Sequence[tuple[str, SocketAddress]]:
    out = []
    clamav, spam = config.stage.clamav, config.stage.spamassassin
    if clamav.enabled != "false":
        out.append(("clamd", clamav.socket))
    if spam.enabled != "false" and spam.engine != "builtin":
        address = spam.rspamd_socket if spam.engine == "rspamd" else spam.socket
        out.append((spam.engine, address))
    return out


async def _takes(address: SocketAddress) -> bool:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            if address.path:
                _, writer = await asyncio.open_unix_connection(address.path)
            else:
                _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
