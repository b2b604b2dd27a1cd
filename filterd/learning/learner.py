"""The face of learning for other parts: note a lesson, durable; the server's ``Work`` does the rest."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from filterd import keys
from filterd.config.bridge import filled
from filterd.config.schema import Config
from filterd.learning.classifier import BayesClassifier, table_path
from filterd.learning.journal import FOLDER, Journal, journal_path
from filterd.learning.lesson import Teacher
from filterd.learning.moves import MoveRecorder
from filterd.learning.table import Table
from filterd.learning.teachers import DaemonTeacher
from filterd.learning.work import JobRunner, StoreReader, Work
from pipeline.ports import Clock
from pipeline.stages.spamassassin import SpamassassinSettings

BUILTIN = "builtin"
TABLES = "bayes"


class Learner:
    """Blocking; from any thread. ``learn`` returns when the lesson is on disk."""

    def __init__(self, data_dir: Path, engines: Sequence[str], clock: Clock) -> None:
        self._path, self._engines, self._clock = journal_path(data_dir), tuple(engines), clock
        self._journal: Journal | None = None
        self._lock = threading.Lock()

    def learn(self, account: str, kind: str, data: bytes) -> str:
        """``kind``: "spam", "ham" or "none" (forget); one line for people. Raises sqlite3.Error, OSError."""
        if not self._engines:
            return "not learned: nothing here learns"
        if not self.learn_many(account, kind, [data]):
            return "not learned: too much waits already (`filterd learn status`)"
        return f"learned as {kind}: {', '.join(self._engines)}"

    def learn_many(self, account: str, kind: str, texts: Sequence[bytes]) -> int:
        """How many were taken."""
        with self._lock:
            journal = self._journal = self._journal or Journal(self._path)
            return journal.note(account, kind, texts, self._engines, self._clock.time())

    def close(self) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None


def settings_of(config: Config) -> SpamassassinSettings:
    return filled(config.stage.spamassassin, SpamassassinSettings)


def engines_of(config: Config) -> tuple[str, ...]:
    """Who learns: the engine that judges, and always the builtin classifier; nobody when the stage or learning is off."""
    chosen = config.stage.spamassassin
    if chosen.enabled in ("off", "false") or not chosen.learn:
        return ()
    return tuple(dict.fromkeys((chosen.engine, BUILTIN)))


def classifier_of(config: Config, clock: Clock) -> BayesClassifier:
    """The caller closes it."""
    root, chosen = Path(config.server.data_dir), config.stage.spamassassin
    return BayesClassifier(
        root / FOLDER / TABLES,
        keys.secret(root, TABLES),
        clock,
        chosen.min_learned,
        chosen.shared,
        chosen.max_size,
    )


def teachers_of(config: Config, clock: Clock) -> list[Teacher]:
    """One for each of ``engines_of``."""
    out: list[Teacher] = []
    for name in engines_of(config):
        out.append(classifier_of(config, clock) if name == BUILTIN else DaemonTeacher(settings_of(config)))
    return out


def learner_of(config: Config, clock: Clock) -> Learner:
    return Learner(Path(config.server.data_dir), engines_of(config), clock)


def recorders_of(config: Config, clock: Clock) -> tuple[MoveRecorder, ...]:
    """What writes down moves by IMAP; nothing when nobody learns."""
    engines = engines_of(config)
    if not engines:
        return ()
    return (MoveRecorder(Path(config.server.data_dir), engines, clock, config.stage.spamassassin.max_size),)


def work_of(config: Config, clock: Clock, jobs: JobRunner | None) -> Work:
    """Gives the lessons; ``jobs`` None: a command, which leaves what is still in mailboxes to the server."""
    reader = StoreReader(jobs) if jobs is not None else None
    return Work(Path(config.server.data_dir), teachers_of(config, clock), clock, reader)


def table_of(config: Config, account: str) -> dict[str, object]:
    """What the builtin table of an account holds, for people."""
    path = table_path(Path(config.server.data_dir) / FOLDER / TABLES, account)
    if not path.exists():
        return {"tokens": 0, "ready": False}
    table = Table(path)
    try:
        spam, ham = table.totals()
        least = config.stage.spamassassin.min_learned
        return {"tokens": table.size(), "ready": spam >= least and ham >= least}
    finally:
        table.close()


def forget_learned(config: Config, account: str) -> None:
    """An account is purged: its table goes, and what waits and is remembered of it."""
    root = Path(config.server.data_dir)
    path = table_path(root / FOLDER / TABLES, account)
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)
    if journal_path(root).exists():
        journal = Journal(journal_path(root))
        try:
            journal.forget(account)
        finally:
            journal.close()
