"""What rules cost beside Pigeonhole, on the same scripts and mail, at the same moment.

Pigeonhole is measured with sieve-filter over a Maildir of copies in one process, less the same run with no rules
(CPU time); ours with one run a message in this process, less the same with no rules (CPU time), tracing on. The best
of several runs counts on both sides. Issue: 2x at 20 mixed rules, 200x at 10,000 that can be merged (and at most
3x our own 20), 5x at 10,000 that cannot, compile 1,000 in 60 ms and 10,000 in 500 ms, tracing 15 %. Asserted with a
margin, as other work shares the machine; the figures are printed (pytest -s).
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rules.compiler import CompiledScript, compile_script
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import Limits
from rules.mail.message import Message
from rules.simplehost import SimpleHost

pytestmark = pytest.mark.perf

ENVELOPE = ScriptEnvelope("someone@sender.example", "me@x.example")
WORDS = (
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consectetur",
    "adipiscing",
    "elit",
    "sed",
    "eiusmod",
    "tempor",
)
HEAD = (
    'require ["fileinto", "envelope", "imap4flags", "mailbox", "variables", "relational", "copy", '
    '"comparator-i;ascii-numeric"];\n'
)
TAIL = '\nif header :contains "precedence" "list" { fileinto :create "Lists"; stop; }\nkeep;\n'
LIMITS = Limits(steps=10**8, cpu_seconds=600)


def mail() -> bytes:
    """An ordinary mail of 5 KB."""
    head = ["Return-Path: <someone@sender.example>"]
    head += [
        f"Received: from a{n}.example (a{n}.example [192.0.2.{n}])\r\n by b{n}.example with ESMTP id AB{n};\r\n"
        f" Tue, 21 Jul 2026 10:00:0{n} +0000"
        for n in range(4)
    ]
    head += [
        "From: Some One <someone@sender.example>",
        "To: Me <me@x.example>, Other <other@y.example>",
        "Cc: third@z.example",
        "Subject: Re: [filterd-users] the quarterly report and other news of this week",
        "Date: Tue, 21 Jul 2026 10:00:00 +0000",
        "Message-ID: <123@sender.example>",
        "List-Id: Filterd users <filterd-users.lists.example>",
        "X-Score: 3",
    ]
    body = [" ".join(WORDS[(line * 7 + n) % len(WORDS)] for n in range(10)) for line in range(60)]
    return "\r\n".join([*head, "", *body, ""]).encode()


def condition(number: int) -> str:
    """One of the tests that people have: list, sender, subject, recipient, envelope. None is true."""
    return (
        f'header :contains "list-id" "list{1000 + number}.nowhere"',
        f'address :is :all "from" "boss{number:05d}@corp.example"',
        f'anyof (header :contains "subject" ["offer{number:05d}", "sale{number:05d}"], '
        f'header :matches "subject" "*[tag{number:05d}]*")',
        f'allof (address :domain :is ["to", "cc"] "team{number:05d}.example", not size :over 5M)',
        f'envelope :domain :is "from" "partner{number:05d}.example"',
    )[number % 5]


def mergeable(number: int) -> str:
    """if test, fileinto, stop"""
    return f'if {condition(number)} {{ fileinto :create "Folder{number % 50}"; stop; }}'


def unmergeable(number: int) -> str:
    """Rules that do not end the script, change flags and variables, are nested, negated, or ask for more than a text."""
    count = ':count "gt" :comparator "i;ascii-numeric"'
    filing = f'fileinto :copy :create "Folder{number % 50}";'
    return (
        f"if {condition(number)} {{ {filing} }}",
        f'if {condition(number)} {{ addflag "k{number % 50}"; }}',
        f'if {condition(number)} {{ set "v{number % 50}" "x{number}"; {filing} stop; }}',
        f'if not header :contains "subject" ["quarterly", "w{number:05d}"] {{ {filing} }}',
        f'if allof (exists "x-foo", not header :contains "subject" "w{number:05d}") {{ {filing} }}',
        f'if allof (size :over {10 + number % 10}M, header :contains "subject" "w{number:05d}") {{ {filing} }}',
        f'if not exists "x-spam" {{ if {condition(number)} {{ {filing} stop; }} }}',
        f'if header :value "ge" :comparator "i;ascii-numeric" "x-score" "{100 + number}" {{ {filing} }}',
        f'if anyof (size :over {number + 10}M, header {count} "received" "{9 + number % 5}") {{ {filing} }}',
        f'if {condition(number)} {{ {filing} }} elsif {condition(number + 1)} {{ addflag "x"; }}',
    )[number % 10]


def script(rule: Callable[[int], str], count: int) -> str:
    """A script of so many rules."""
    return HEAD + "\n".join(map(rule, range(count))) + TAIL


class Pigeonhole:
    """sieve-filter on a Maildir of copies."""

    def __init__(self, directory: Path, copies: int) -> None:
        self.directory, self.copies = directory, copies
        box = directory / "md"
        for name in ("cur", "new", "tmp"):
            (box / name).mkdir(parents=True)
        for number in range(copies):
            (box / "cur" / f"{1_700_000_000 + number}.M{number}.x:2,").write_bytes(mail())
        user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self.conf = directory / "dovecot.conf"
        self.conf.write_text(
            f"base_dir = {directory}/run\nssl = no\nlog_path = {directory}/log\nmail_uid = {user.pw_uid}\n"
            f"mail_gid = {user.pw_gid}\nfirst_valid_uid = 1\nfirst_valid_gid = 1\nmail_home = {directory}/home\n"
            f"mail_location = maildir:{box}\n"
            "plugin {\n  sieve_max_script_size = 64M\n  sieve_max_cpu_time = 600s\n}\n"
        )
        if os.getuid() == 0:
            for path in [directory, *directory.rglob("*")]:
                os.chown(path, user.pw_uid, user.pw_gid)

    def _cost(self, text: str, runs: int) -> float:
        path = self.directory / "rules.sieve"
        path.write_text(text or HEAD + TAIL)
        subprocess.run(["sievec", "-c", self.conf, path], check=True, capture_output=True)
        return min(self._once(path) for _ in range(runs))

    def _once(self, path: Path) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["sieve-filter", "-c", self.conf, path, "INBOX"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def shrink(self, copies: int) -> None:
        """Fewer mails, for scripts that take long."""
        for extra in sorted((self.directory / "md" / "cur").iterdir())[copies:]:
            extra.unlink()
        self.copies = copies

    def round(self, text: str) -> tuple[float, float]:
        """CPU seconds for one message with this script and with no rules, both of this moment."""
        return self._cost(text, 2) / self.copies, self._cost("", 2) / self.copies


def message(compiled: CompiledScript, *, trace: bool = True, runs: int = 40) -> float:
    """CPU seconds for one message, ours; the first run is not counted."""
    host, data = SimpleHost(), mail()
    best = 9.0
    for _ in range(runs + 1):
        one = Message(data)
        started = time.process_time()
        result = run([compiled], one, ENVELOPE, host, trace=trace, limits=LIMITS)
        taken = time.process_time() - started
        assert result.error is None and len(result.actions) == 1
        best = min(best, taken) if _ else best
    return best


@pytest.fixture
def peer(open_folder: Path) -> Pigeonhole:
    """Pigeonhole, if it is here."""
    if shutil.which("sieve-filter") is None or shutil.which("sievec") is None:
        pytest.skip("sieve-filter (Debian: dovecot-sieve) is not installed")
    return Pigeonhole(open_folder / "peer", 400)


@pytest.mark.peer
def test_beside_pigeonhole(peer: Pigeonhole) -> None:
    """The figures of the issue, measured alternately."""
    figures: dict[str, tuple[float, float]] = {}
    empty = compile_script(HEAD + TAIL)
    for name, rule, count in (
        ("20 mixed", mergeable, 20),
        ("10000 mergeable", mergeable, 10_000),
        ("10000 unmergeable", unmergeable, 10_000),
    ):
        if count > 20:
            peer.shrink(10)
        text = script(rule, count)
        compiled = compile_script(text)
        # Many short runs fit into one noisy moment of the machine: several rounds in turn, and what is taken away (the same
        # with no rules) is measured in each of them, on both sides.
        rounds, runs = (8, 400) if count == 20 else (2, 40)
        turns = [
            (*peer.round(text), message(compiled, runs=runs), message(empty, runs=200)) for _ in range(rounds)
        ]
        with_rules, without, mine, mine_without = (min(column) for column in zip(*turns, strict=True))
        theirs, ours = with_rules - without, mine - mine_without
        figures[name] = (theirs, ours)
        print(
            f"\n{name}: Pigeonhole {theirs * 1e6:.0f} us, ours {ours * 1e6:.0f} us, ratio {theirs / ours:.1f}"
        )
    assert _ratio(figures["20 mixed"]) >= 2, figures  # measured 2.7 to 3
    assert _ratio(figures["10000 mergeable"]) >= 200, figures  # measured 600 to 1,000
    assert _ratio(figures["10000 unmergeable"]) >= 5, figures  # measured 400 to 700


def test_ten_thousand_rules_cost_three_times_twenty() -> None:
    """Ours beside ours, the same number of runs of each in turn: what one misses in a noisy moment, the other misses too."""
    scripts = [
        compile_script(text) for text in (HEAD + TAIL, script(mergeable, 20), script(mergeable, 10_000))
    ]
    turns = [[message(one, runs=200) for one in scripts] for _ in range(5)]
    none, twenty, many = (min(column) for column in zip(*turns, strict=True))
    ratio = (many - none) / (twenty - none)
    print(
        f"\n20 rules {(twenty - none) * 1e6:.0f} us, 10,000 {(many - none) * 1e6:.0f} us, ratio {ratio:.2f}"
    )
    assert ratio <= 3  # measured 1.2 to 1.6


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]


@pytest.mark.parametrize(("count", "budget"), [(1_000, 0.060), (10_000, 0.500)])
def test_compile(count: int, budget: float) -> None:
    """CPU seconds to compile, and of the first message."""
    text = script(mergeable, count)
    compile_script(script(mergeable, 50))
    best, first = 9.0, 0.0
    for _ in range(4):
        started = time.process_time()
        compiled = compile_script(text)
        best = min(best, time.process_time() - started)
        started = time.process_time()
        run([compiled], Message(mail()), ENVELOPE, SimpleHost(), limits=LIMITS)
        first = time.process_time() - started
        del compiled
    print(f"\n{count} rules: compile {best * 1e3:.0f} ms, first message {first * 1e3:.1f} ms")
    assert best <= 1.5 * budget  # other work shares the machine


@pytest.mark.parametrize(("rule", "count"), [(mergeable, 20), (unmergeable, 20), (mergeable, 10_000)])
def test_tracing(rule: Callable[[int], str], count: int) -> None:
    """What the trace costs, traced and untraced runs taken alternately."""
    compiled = compile_script(script(rule, count))
    with_trace = without = 9.0
    for _ in range(5):
        without = min(without, message(compiled, trace=False))
        with_trace = min(with_trace, message(compiled))
    print(f"\n{count} rules: {without * 1e6:.1f} us, traced {with_trace * 1e6:.1f} us")
    assert with_trace <= 1.2 * without
