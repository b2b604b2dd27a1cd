"""The only place that knows all concrete classes: from a configuration to a running server.

``Parts`` holds what one process needs, built once after the fork (an index file is never opened across a fork, HOUSE item 17).
``run_worker`` serves every listener on inherited sockets; ``run_sender`` is the one process that sends. ``serve`` binds, then
starts both through ``filterd.workers``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from filterd import __version__, keys, maildrop, milter_profile, signing
from filterd.accounts.builtin import BuiltinDirectory
from filterd.accounts.database import AccountDatabase
from filterd.accounts.directory import Directory
from filterd.accounts.password import Passwords
from filterd.accounts.places import account_folder, database_path, mail_root, scripts_of, tests_of
from filterd.accounts.rates import RateLimits, Rates
from filterd.assembly import (
    TRACES,
    batv_of,
    departure,
    dns,
    incoming,
    milter_reception,
    our_ids,
    quarantine_of,
    releaser,
    reporting,
    srs_of,
    stage_context,
    tls_reporting,
)
from filterd.beside import beside
from filterd.board import Board, Desk, alone
from filterd.config.errors import ConfigErrors, render
from filterd.config.load import load
from filterd.config.schema import Config
from filterd.config.values import Relay as ConfiguredRelay
from filterd.config.values import SocketAddress
from filterd.delivery import Delivery, DeliverySettings
from filterd.doors import COMMANDS, PROXIED, Doors, certificate
from filterd.execbridge import Programs
from filterd.execclient import CAPABILITIES as PROGRAM_WORDS
from filterd.execclient import ExecClient, reachable
from filterd.explain.traces import TraceWriter
from filterd.handover import make_folders, server_user
from filterd.imap.events import MailboxEvents
from filterd.imap.filtering import FilterService
from filterd.imap.sharing import Sharing
from filterd.learning.learner import engines_of, recorders_of, work_of
from filterd.local_delivery import LocalDelivery
from filterd.local_text import DELIVER_SOCKET
from filterd.mailboxscripts import MailboxScripts, MailboxScriptSettings
from filterd.maildrop import Maildrop
from filterd.milter import MilterReception
from filterd.net import listen
from filterd.net.share import ShareTable
from filterd.outlets import outlets_of
from filterd.ports import SystemClock, SystemIds
from filterd.quarantine.keeper import Quarantine
from filterd.queue.outbound import unheard
from filterd.queue.route import Relay
from filterd.queue.routing import Routes, Rule, folded
from filterd.queue.sender import Sender, SenderSettings
from filterd.queue.spool import GroupSpool
from filterd.reception import Reception, ReceptionSettings
from filterd.reports.tlsrpt_data import DATABASE, SessionLog
from filterd.scripts import ScriptService
from filterd.shared_mail import sharing_of
from filterd.store.changes import NoticeHub
from filterd.store.choice import ChosenStore
from filterd.store.durable import RealDisk
from filterd.store.jobs import AccountJobs
from filterd.stores import store_of
from filterd.transport import dialer, tls_policies
from filterd.workers import RETIRE, Group, Role, Serving, fresh_large_buffers, unasked
from pipeline.ports import Clock
from pipeline.runner import Runner
from pipeline.srs import Original, Srs
from rules.limits import Limits

log = logging.getLogger("filterd")

LISTENERS = (
    "smtp",
    "submission",
    "submissions",
    "lmtp",
    "imap",
    "imaps",
    "pop3",
    "pop3s",
    "sieve",
    "milter",
    "web",
    "metrics",
)
MAX_SOCKET_PATH = 107  # octets
GC_THRESHOLD = (
    20_000  # new objects between two collections: a message makes a few thousand, nearly none in cycles
)
GRACE_SECONDS = 4.0  # commands under way may end after SIGTERM
RETIRED_SECONDS = 600.0  # a worker that was replaced serves whom it has so long


@dataclass(slots=True)
class Parts:
    """Everything of one process."""

    config: Config
    directory: BuiltinDirectory
    jobs: AccountJobs
    notices: NoticeHub
    scripts: ScriptService
    spool: GroupSpool
    traces: TraceWriter
    reception: Reception
    delivery: Delivery
    milter: MilterReception
    close: Callable[[], None]
    events: MailboxEvents | None = None
    desk: Desk | None = None
    runners: tuple[Runner, ...] = ()
    quarantine: Quarantine | None = None
    filters: FilterService | None = None  # FILTER=SIEVE
    sharing: Sharing | None = None  # other people's mailboxes

    async def end(self) -> None:
        """Close the stages, then everything else."""
        for runner in self.runners:
            await runner.close()
        if self.events is not None:
            self.events.close()
        self.close()


def data_dir(config: Config) -> Path:
    return Path(config.server.data_dir)


def build(config: Config, name: str, board: Board | None = None) -> Parts:
    """All parts of the process ``name`` ("worker-0", "sender"); the loop is running. ``board``: shared with other processes."""
    clock, ids = SystemClock(), SystemIds()
    root = data_dir(config)
    srs = srs_of(config, clock)
    database = AccountDatabase(database_path(config), clock)
    directory = BuiltinDirectory(
        config, database, Passwords(clock), srs_verifier(srs), keys.secret(root, "scram")
    )
    notices = NoticeHub(root / "run", name)
    store = message_store(config, quota_of(directory), notices.changed)
    sharing = sharing_of(config, quota_of(directory), notices.changed)
    notices.follow(store.path, store.watched)
    jobs = AccountJobs(store)
    programs = programs_of(config, jobs)
    scripts = script_service(config, directory, PROGRAM_WORDS if programs is not None else ())
    desk = board.take(clock, root / "run") if board is not None else alone(clock)
    desk.meter.rule_hits = config.metrics.rule_hits
    traces = TraceWriter(root / TRACES, config.pipeline.keep_traces, desk.meter)
    spool = GroupSpool(root / "queue", clock)
    context = stage_context(config, clock, ids, dns(config, clock, ids))
    leaving = departure(config, context, srs)
    delivery = Delivery(
        delivery_settings(config), directory, jobs, scripts, spool, leaving, clock, desk, programs
    )
    quarantine = delivery.performer.quarantine = quarantine_of(config, clock)
    spool.fresh, spool.lane = delivery.performer.fresh, routes_of(config).lane
    arriving, secret = incoming(config, context), keys.secret(root, "delivery")
    reception = Reception(
        reception_settings(config), directory, arriving, leaving, delivery, traces, clock, ids, secret
    )
    rates = reception.rates = rates_of(config, clock)
    mailbox_scripts = MailboxScripts(
        mailbox_script_settings(config),
        scripts,
        directory,
        jobs,
        spool,
        leaving,
        traces,
        clock,
        ids,
        secret,
        programs,
    )
    delivery.performer.sharing = mailbox_scripts.sharing = sharing
    screening = milter_reception(config, context, arriving, leaving, traces, sieve_limits(config))

    ends = [quarantine.close, spool.close, rates.close, traces.close, jobs.close]
    ends += [sharing.close] if sharing else []
    ends += [notices.close, store.close, database.close, desk.leave]

    def close() -> None:
        for end in (delivery.close, *([programs.close] if programs else []), *ends):
            end()

    return Parts(
        config,
        directory,
        jobs,
        notices,
        scripts,
        spool,
        traces,
        reception,
        delivery,
        screening,
        close,
        MailboxEvents((mailbox_scripts,), recorders_of(config, clock)),
        desk,
        (arriving, leaving.runner),
        quarantine,
        filters=mailbox_scripts,
        sharing=sharing,
    )


def script_service(config: Config, directory: Directory, more: Sequence[str] = ()) -> ScriptService:
    """Everybody's scripts; ``more`` are words that are not offered everywhere."""
    disk = RealDisk()
    return ScriptService(
        lambda account: scripts_of(config, account, disk),
        before=[Path(path) for path in config.stage.sieve.before],
        after=[Path(path) for path in config.stage.sieve.after],
        default=default_script(config),
        limits=sieve_limits(config),
        own_addresses=own_addresses(directory),
        global_dir=data_dir(config) / "sieve" / "global",
        tests_of=lambda account: tests_of(config, account),
        more=more,
    )


def delivery_settings(config: Config) -> DeliverySettings:
    return DeliverySettings(
        hostname=config.server.hostname,
        on_script_error_defer=config.stage.sieve.on_error == "defer",
        global_scripts=data_dir(config) / "sieve" / "global",
        subaddress=config.accounts.subaddress,
        limits=sieve_limits(config),
        save_sent=config.accounts.save_sent,
    )


def reception_settings(config: Config) -> ReceptionSettings:
    return ReceptionSettings(
        hostname=config.server.hostname,
        authserv_id=config.pipeline.authserv_id or config.server.hostname,
        our_ids=our_ids(config),
        time_budget=config.pipeline.time_budget,
        hide_client=config.stage.privacy.enabled and config.stage.privacy.client_ip == "hide",
        relay_trusted=tuple(ip_network(network) for network in config.server.relay_trusted),
        refuse_untagged=config.batv.refuse,
        exec_socket=config.exec.socket,
    )


def mailbox_script_settings(config: Config) -> MailboxScriptSettings:
    return MailboxScriptSettings(
        config.server.hostname,
        __version__,
        data_dir(config) / "sieve" / "global",
        config.accounts.subaddress,
        sieve_limits(config),
    )


def programs_of(config: Config, jobs: AccountJobs) -> Programs | None:
    """The way to ``filterd-exec``; None where it is not configured or does not run: then scripts are not offered its words."""
    if not reachable(config.exec.socket):
        return None
    return Programs(ExecClient(config.exec.socket, config.exec.timeout, config.exec.output), jobs)


def quota_of(directory: Directory) -> Callable[[str], int]:
    """Octets an account may store; 0 = no limit, also for one that is not known."""

    def quota(account: str) -> int:
        found = directory.account(account)
        return found.quota if found is not None else 0

    return quota


def own_addresses(directory: Directory) -> Callable[[str], Sequence[str]]:
    """The addresses people know an account by, for warnings about its scripts."""

    def own(account: str) -> Sequence[str]:
        found = directory.account(account)
        return directory.own_addresses(found) if found is not None else ()

    return own


def no_notice(account: str, mailbox: str, modseq: int) -> None:
    """Commands tell nobody: servers see their changes as those of any outside program."""


def message_store(
    config: Config, quota: Callable[[str], int], notify: Callable[[str, str, int], None]
) -> ChosenStore:
    return store_of(config, socket.gethostname(), quota, SystemClock(), SystemIds(), notify)


def open_store(config: Config) -> ChosenStore:
    """The store for a command of the command line, without a server."""
    return message_store(config, lambda account: 0, no_notice)


def rates_of(config: Config, clock: Clock) -> Rates:
    """How much our people may send in an hour."""
    limits = RateLimits(config.limits.messages_per_hour, config.limits.recipients_per_hour)
    return Rates(data_dir(config) / "rates.db", clock, limits)


def srs_verifier(srs: Srs | None) -> Callable[[str], str | None] | None:
    """Whom an SRS address of ours stands for; None when it is not genuine."""
    if srs is None:
        return None
    rewriting = srs

    def verify(address: str) -> str | None:
        found = rewriting.reverse(address)
        return found.address if isinstance(found, Original) else None

    return verify


def sieve_limits(config: Config) -> Limits:
    """What one script, and one run of a chain of scripts, may use."""
    chosen = config.stage.sieve.limits
    return Limits(
        script_size=chosen.script, cpu_seconds=chosen.cpu, actions=chosen.actions, redirects=chosen.redirects
    )


def default_script(config: Config) -> Path:
    """The script of people who have none: the configured one, or the one we ship."""
    if config.stage.sieve.default:
        return Path(config.stage.sieve.default)
    import rules

    return Path(rules.__file__).parent / "library" / "default.sieve"


def run_loop(main: Coroutine[object, object, int]) -> int:
    """Run on uvloop when it is there (PACKAGES section 2)."""
    fresh_large_buffers()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def stop_event(*numbers: signal.Signals) -> asyncio.Event:
    """Set by these signals; SIGTERM and SIGINT when none is named."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in numbers or (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def worker(
    config: Config,
    sockets: list[tuple[str, socket.socket]],
    index: int,
    table: ShareTable | None = None,
    board: Board | None = None,
    serving: Serving = unasked,
) -> int:
    """Serve until told to stop, or until replaced and without a client. The process id is part of the name: two generations
    of a worker live side by side for a while."""
    stop, retired = stop_event(), stop_event(RETIRE)
    parts = build(config, f"worker-{index}-{os.getpid()}", board)
    doors = Doors(parts, sockets, table, index)
    doors.open()
    gc.freeze()  # what was built so far lives as long as the process: collections need not look at it
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    serving()
    waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(retired.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        await doors.retire(RETIRED_SECONDS, stop)
    for one in waiting:
        one.cancel()
    await doors.close(GRACE_SECONDS)
    await parts.end()
    return 0


def next_hop(relay: ConfiguredRelay | None) -> Relay | None:
    if relay is None:
        return None
    login = (relay.user, relay.password) if relay.user else None
    return Relay(relay.host, relay.port, login, relay.lmtp, relay.path, relay.smtps)


def routing_rules(config: Config) -> tuple[Rule, ...]:
    """Ways by sender and recipient (queue.route)."""
    return tuple(
        Rule(
            tuple(map(folded, one.recipients)),
            tuple(map(folded, one.senders)),
            next_hop(one.via),
            one.bind or config.queue.bind,
        )
        for one in config.queue.route
    )


def routes_of(config: Config) -> Routes:
    return Routes(routing_rules(config), frozenset(domain.name for domain in config.domain))


def maildrop_of(config: Config, local: LocalDelivery, spool: GroupSpool, clock: Clock) -> Maildrop:
    return Maildrop(
        config.server.maildrop,
        config.server.hostname,
        config.domain[0].name,
        config.limits.message_size,
        local,
        spool,
        clock,
    )


async def sender(config: Config, board: Board | None = None, serving: Serving = unasked) -> int:
    """Send until told to stop."""
    stop = stop_event()
    parts = build(config, f"sender-{os.getpid()}", board)
    local = LocalDelivery(parts.reception, parts.delivery)
    clock, ids = SystemClock(), SystemIds()
    settings = SenderSettings(
        directory=data_dir(config) / "queue",
        hostname=config.server.hostname,
        relay=next_hop(config.queue.relay),
        retry=config.queue.retry,
        max_age=config.queue.max_age,
        warn_after=config.queue.warn_after,
        our_names=frozenset({config.server.hostname}),
        our_domains=frozenset(domain.name for domain in config.domain if domain.relay is None),
        relays={domain.name: hop for domain in config.domain if (hop := next_hop(domain.relay)) is not None},
        routes=routing_rules(config),
        bind=config.queue.bind,
    )
    resolver, seen = dns(config, clock, ids), SessionLog(data_dir(config) / DATABASE, clock)
    outlets = outlets_of(config, RealDisk(), clock)
    sending = Sender(
        settings,
        resolver,
        clock,
        ids,
        parts.traces,
        local.queued,
        local.store_later,
        dialer(config, clock, seen.put if config.queue.tls_reports else unheard),
        tls_policies(config, resolver, clock),
        batv_of(config, clock),
        outlets.deliver,
    )
    work = [sending.run(stop)]
    if parts.quarantine is not None:
        held = releaser(
            config, parts.quarantine, parts.delivery, parts.directory, parts.traces, parts.spool, clock
        )
        work.append(beside("the quarantine", held.run, stop))
    if (
        config.stage.dmarc.reports.send
    ):  # the daily DMARC reports; `filterd dmarc send` does the same from cron
        daily = reporting(config, dns(config, clock, ids), parts.spool, clock)
        work.append(beside("DMARC reports", daily.run, stop))
    if config.server.maildrop:
        work.append(beside("the maildrop", maildrop_of(config, local, parts.spool, clock).run, stop))
    if engines_of(config):
        work.append(beside("learning", work_of(config, clock, parts.jobs).run, stop))
    if config.queue.tls_reports:
        work.append(beside("TLS reports", tls_reporting(config, resolver, parts.spool, clock).run, stop))
    serving()
    await asyncio.gather(*work)
    outlets.close()
    seen.close()
    await parts.end()
    return 0


def bind_all(config: Config) -> list[tuple[str, socket.socket]]:
    """Every configured listener, by name; with "+proxy" where each connection begins with a PROXY header. Raises OSError with
    the address in its text."""
    out: list[tuple[str, socket.socket]] = []
    for name in LISTENERS:
        for address in getattr(config.listen, name):
            marked = {name, str(address)} & set(config.server.proxy_listeners)
            out.append((f"{name}{PROXIED}" if marked else name, bind(address)))
    return out


def commands_door(root: Path) -> list[tuple[str, socket.socket]]:
    """LMTP for `filterd-deliver` on this machine; a path too long for a socket means there is none."""
    path = str(root / "run" / DELIVER_SOCKET)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        return []
    return [(COMMANDS, listen.bind(listen.ListenAddress(path=path), mode=0o600))]


def bind(address: SocketAddress) -> socket.socket:
    if address.name:
        return inherited(address.name)
    try:
        return listen.bind(listen.ListenAddress(address.host, address.port, address.path))
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error


def inherited(name: str) -> socket.socket:
    """A socket that systemd opened for us (LISTEN_FDNAMES)."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if name not in names or os.environ.get("LISTEN_PID") not in (None, str(os.getpid())):
        raise OSError(f"no inherited socket is called {name}")
    sock = socket.socket(fileno=3 + names.index(name))
    sock.setblocking(False)
    return sock


def serve(config: Config, announce: Callable[[list[tuple[str, socket.socket]]], None]) -> int:
    """Bind, fork, serve; returns when stopped. Raises OSError when a listener cannot be bound."""
    root = data_dir(config)
    make_folders(config, root / "run", root / "queue", Path(mail_root(config)))
    if config.server.maildrop:
        maildrop.make(config.server.maildrop, config.server.user)
    sockets = bind_all(config)
    shown = list(sockets)
    drop_rights(config)
    for name in ("delivery", "srs", "quarantine"):
        keys.secret(root, name)
    sockets.extend(commands_door(root))
    certificate(config)  # made or read once before there are several of us; a fault is said at once
    try:
        signing.keyring(config)
        milter_profile.refuse(config, config.listen.milter, sieve_limits(config))
    except (signing.SigningProblem, ConfigErrors) as problem:
        raise OSError(str(problem)) from problem
    count = config.server.workers or os.cpu_count() or 1
    current = [config]  # what the next child starts with
    table, board = ShareTable(len(sockets), count), Board(started=SystemClock().time())

    def reload() -> bool:
        """Read the file again; listeners, data_dir and server.user stay as they were until a restart."""
        try:
            fresh = load(config.path)
            signing.keyring(fresh)
            milter_profile.refuse(fresh, config.listen.milter, sieve_limits(fresh))
            certificate(fresh)  # new workers without one would serve nobody, and the old ones go
        except (ConfigErrors, signing.SigningProblem, OSError) as error:
            what = render(error.errors) if isinstance(error, ConfigErrors) else str(error)
            log.error("SIGHUP: the configuration has errors, the old one stays in force\n%s", what)
            return False
        current[0] = fresh
        return True

    roles = [
        Role(f"worker-{at}", lambda say, at=at: run_loop(worker(current[0], sockets, at, table, board, say)))  # type: ignore[misc]  # at bound now
        for at in range(count)
    ]
    roles.append(Role("sender", lambda say: run_loop(sender(current[0], board, say)), exclusive=True))
    pid_file = root / "run" / "filterd.pid"
    return Group(roles, pid_file, ready=lambda: announce(shown), reload=reload).run()


def drop_rights(config: Config) -> None:
    """Become ``server.user`` once the ports are bound."""
    entry = server_user(config)
    if entry is None:
        return
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def mail_folder(config: Config, account: str) -> Path:
    return Path(account_folder(config, account))
