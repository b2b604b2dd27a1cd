"""One command for all checks: ``python -m tests`` (fast, before each commit) and ``python -m tests all``.

Fast: format, lint, types, then pytest over layers, sizes, unit, scripts, vectors, crash and docs. ``all`` first sets up
the Debian programs of ``debian-packages.txt`` when it may, and adds peers, fuzz, end to end and perf. Each step is
printed with its time; a step that fails does not hide the ones after it; the last line is pytest's own.
Further arguments go to pytest (``python -m tests -k srs``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests import unpacked

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("rules", "pipeline", "filterd", "tests", "examples")
TYPED = ("rules", "pipeline", "filterd")
FAST = "not slow and not peer and not e2e and not perf and not fuzz"
NO_TESTS_COLLECTED = 5  # pytest's exit code
APT_SECONDS = 900


def main(arguments: Sequence[str]) -> int:
    everything = bool(arguments) and arguments[0] == "all"
    more = list(arguments[1:] if everything else arguments)
    os.chdir(ROOT)
    if everything:
        set_up_peers()
    present = [name for name in SOURCES if any((ROOT / name).rglob("*.py"))]
    failed = [
        name
        for name, command in (
            ("format", ["ruff", "format", "--check", "--quiet", *present]),
            ("lint", ["ruff", "check", "--quiet", *present]),
            ("types", ["mypy", "--strict", "--no-error-summary", *TYPED]),
        )
        if step(name, [sys.executable, "-m", *command])
    ]
    if everything and run_pytest("perf", ["-m", "perf", *more], closing=False):
        failed.append("perf")
    marks = "not perf" if everything else FAST
    code = run_pytest(
        "tests", ["-n", "2", "--dist", "worksteal", "-m", marks, *more], closing=True, failed=failed
    )
    return code or (1 if failed else 0)


def step(name: str, command: list[str]) -> bool:
    """Run one checker; True when it found something (its words are then printed)."""
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    say(name, "ok" if done.returncode == 0 else "FAILED", time.monotonic() - start)
    if done.returncode:
        print(done.stdout, end="", flush=True)
    return done.returncode != 0


def run_pytest(name: str, arguments: list[str], *, closing: bool, failed: Sequence[str] = ()) -> int:
    """Run pytest and pass its output on as it comes; with ``closing`` its last line is kept for the very end."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        if last:
            print(last, end="", flush=True)
        last = line
    code = process.wait()
    if code == NO_TESTS_COLLECTED and not closing:
        code = 0
    skips = re.search(r"(\d+) skipped", last)
    say(name, "ok" if code == 0 else "FAILED", time.monotonic() - start)
    print(f"skipped tests: {skips.group(1) if skips else 0} (each reason stands above)")
    for step_name in failed:
        print(f"FAILED step: {step_name} (its words stand above)")
    print(last, end="", flush=True)
    return code


def say(name: str, outcome: str, seconds: float) -> None:
    print(f"-- {name:<8} {outcome:<7} {seconds:6.1f} s", flush=True)


def set_up_peers() -> None:
    """Install the Debian programs that are missing, when we are root on a Debian; otherwise say what will skip."""
    start = time.monotonic()
    wanted = packages("debian-packages.txt")
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        say("peers", "skipped", time.monotonic() - start)
        print("no Debian here: tests that need other mail programs skip when those are not installed")
        return
    missing = [name for name in wanted if not installed(name)]
    if missing and os.geteuid() == 0:
        install = ("install", "--no-install-recommends")
        if not apt_get(*install, *missing) and apt_get("update") and not apt_get(*install, *missing):
            for name in missing:  # one that this release does not have must not cost us the others
                apt_get(*install, name)
    missing = [name for name in missing if not installed(name)]
    say("peers", "ok" if not missing else "partly", time.monotonic() - start)
    if missing:
        why = "apt-get could not install" if os.geteuid() == 0 else "not root, so not installed"
        print(f"{why}: {' '.join(missing)} (their tests skip)")
    for name in packages("debian-unpacked.txt"):
        if not unpacked.unpack(name):
            print(f"apt-get could not fetch: {name} (its tests skip)")


def packages(file: str) -> list[str]:
    lines = (ROOT / "tests" / file).read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def installed(package: str) -> bool:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${Status}", package],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return "ok installed" in done.stdout


def apt_get(*arguments: str) -> bool:
    """RUNLEVEL=1: no daemon is started by its package; the tests start their own, on loopback."""
    try:
        done = subprocess.run(
            ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120", *arguments],
            env={**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=APT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
