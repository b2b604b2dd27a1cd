"""What is written while the server runs: one line an event, pretty on a terminal, JSON elsewhere.

Fields besides the text are given as ``extra={"trace": id, "account": ..., ...}`` and come out as they are; ``trace`` is
the message's id, the same from the greeting to the file. Subjects, bodies and secrets are never handed to the log:
callers pass names and numbers only. Control characters are escaped, so nobody outside can write a line of his own.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
NAME = "filterd"
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}


def fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as ``extra``."""
    return {
        name: value for name, value in vars(record).items() if name not in _PLAIN and not name.startswith("_")
    }


def escaped(text: str) -> str:
    """Control characters as \\xNN; printable text, other scripts included, as it is."""
    return "".join(ch if ch.isprintable() else f"\\x{ord(ch):02x}" for ch in text)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, text, the fields, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        when = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        line: dict[str, object] = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        line["text"] = record.getMessage()
        for name, value in fields(record).items():
            line[name] = value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Pretty(logging.Formatter):
    """``12:04:09.112  warning  text  trace=7K3Q``; colour only when asked for."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = f"{record.levelname.lower():<7}"
        colour = _COLOURS.get(record.levelno, "") if self._colour else ""
        level = f"{colour}{level}\x1b[0m" if colour else level
        line = f"{when}  {level}  {escaped(record.getMessage())}"
        line += "".join(f"  {name}={escaped(str(value))}" for name, value in fields(record).items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(format_name: str = "auto", level: str = "info", stream: TextIO | None = None) -> logging.Logger:
    """Send the ``filterd``, ``pipeline`` and ``rules`` loggers to ``stream`` (stderr); called once, by the program."""
    target = sys.stderr if stream is None else stream
    pretty = format_name == "pretty" or (format_name == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(Pretty(colour=target.isatty()) if pretty else JsonLines())
    for name in (NAME, "pipeline", "rules"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(LEVELS[level])
        logger.propagate = False
    return logging.getLogger(NAME)
