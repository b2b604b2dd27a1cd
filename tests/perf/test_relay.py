"""SMTP in, SMTP out: filterd beside Postfix, same mail, same sink, same machine, rounds in turn.

Both have the message on disk before their 250 and send it on from there. Wanted (issue 7): as many messages a second as Postfix
until the last one is in the sink. Both numbers and the CPU of each message are printed; what is asserted has room for a noisy
moment.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.e2e.server import Server
from tests.perf.authchain import cpu, program
from tests.perf.relaylab import Postfix, Sink, through

MISSING = [name for name in ("postfix", "smtp-source") if program(name) is None] + (
    [] if os.geteuid() == 0 else ["root"]
)
pytestmark = [
    pytest.mark.perf,
    pytest.mark.peer,
    pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)}"),
]
MESSAGES, CONNECTIONS, OCTETS, RUNS = 600, 20, 4_000, 3
BAR = 1.0
FLOOR = 0.7  # best against best, whatever else the machine does: below this something broke


@pytest.fixture
def folder() -> Iterator[Path]:
    """Readable by the users that Postfix becomes, as pytest's own folders are not."""
    made = Path(tempfile.mkdtemp(prefix="filterd-perf-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_relayed_messages_a_second(folder: Path) -> None:
    sink = Sink()
    postfix = Postfix(folder, sink.port)
    ours, theirs, costs = [], [], []
    extra = (
        f'[queue]\nrelay = "smtp://127.0.0.1:{sink.port}"\n[pipeline]\nincoming = ["srs"]\n'
        "[stage.clamav]\nenabled = false\n[stage.spamassassin]\nenabled = false\n"
    )
    try:
        postfix.start()
        with Server(
            people=(), extra=extra, server='relay_trusted = ["127.0.0.1"]', doors=("smtp",)
        ) as server:
            assert server.process is not None
            port = server.ports["smtp"]
            for number in range(RUNS + 1):
                spent = [cpu([postfix.pid])]
                there = through(postfix.port, sink, MESSAGES, CONNECTIONS, OCTETS)
                spent += [cpu([postfix.pid]), cpu([server.process.pid])]
                here = through(port, sink, MESSAGES, CONNECTIONS, OCTETS)
                spent += [cpu([server.process.pid])]
                if number:  # the first warms both
                    theirs.append(there)
                    ours.append(here)
                    costs.append(((spent[3] - spent[2]) / MESSAGES, (spent[1] - spent[0]) / MESSAGES))
    finally:
        postfix.stop()
        sink.stop()
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    print(
        f"\nrelayed/s: filterd {median(ours):.0f}, Postfix {median(theirs):.0f}; ratio {min(ratios):.2f} to"
        f" {max(ratios):.2f}, median {median(ratios):.2f} (wanted {BAR}); CPU ms a message: filterd"
        f" {1000 * median(c[0] for c in costs):.2f}, Postfix {1000 * median(c[1] for c in costs):.2f}"
    )
    assert max(ours) >= FLOOR * max(theirs)
