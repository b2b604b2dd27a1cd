"""One line an event; nobody outside writes a line of his own."""

import io
import json
import logging

import pytest

from filterd import log


@pytest.fixture
def fresh():
    names = (log.NAME, "pipeline", "rules")
    before = {
        name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in names
    }
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


def test_json_lines_with_fields(fresh) -> None:
    out = io.StringIO()
    log.configure("auto", "info", out)
    logging.getLogger("filterd.smtp").info(
        "accepted %d octets", 5, extra={"trace": "7K3Q-M2", "account": "ann@example.org"}
    )
    logging.getLogger("filterd.smtp").debug("not written")
    line = json.loads(out.getvalue())
    assert line["text"] == "accepted 5 octets" and line["trace"] == "7K3Q-M2" and line["level"] == "info"
    assert line["time"].endswith("Z") and line["logger"] == "filterd.smtp"


@pytest.mark.parametrize("format_name", ["json", "pretty"])
def test_an_event_is_one_line(fresh, format_name: str) -> None:
    out = io.StringIO()
    log.configure(format_name, "info", out)
    logging.getLogger("filterd").warning("hello\r\nlevel=error forged", extra={"helo": "x\ny\x1b[2J"})
    assert out.getvalue().count("\n") == 1 and "\x1b[2J" not in out.getvalue() and "\r" not in out.getvalue()


def test_pretty_shows_trace_and_level(fresh) -> None:
    out = io.StringIO()
    log.configure("pretty", "debug", out)
    logging.getLogger("pipeline.runner").error("stage %s failed", "spf", extra={"trace": "T1"})
    assert "error    stage spf failed  trace=T1\n" in out.getvalue()


def test_tracebacks_are_kept(fresh) -> None:
    out = io.StringIO()
    log.configure("json", "info", out)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("filterd").exception("bug")
    assert "ValueError: why" in json.loads(out.getvalue())["exception"]


def test_other_values_become_text(fresh) -> None:
    out = io.StringIO()
    log.configure("json", "info", out)
    logging.getLogger("filterd").info("x", extra={"data": b"\xff", "number": 1.5})
    assert json.loads(out.getvalue())["number"] == 1.5
