"""Debian programs that cannot be installed beside the others (Sendmail beside Postfix): unpacked into the tests' cache.

``DEBIAN`` below ``corpus.cache()`` holds one folder a package of ``debian-unpacked.txt``, as ``dpkg -x`` makes it. ``make test``
fetches them (tests/__main__.py); an own ``apt-get download PACKAGE && dpkg -x FILE FOLDER`` does the same.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests import corpus

DEBIAN = "debian"
SECONDS = 300


def folder(package: str) -> Path:
    return corpus.cache() / DEBIAN / package


def program(package: str, path: str) -> str:
    """Where ``path`` of the package is: installed, unpacked, or "" when it is neither."""
    for found in (Path("/") / path, folder(package) / path):
        if found.is_file():
            return str(found)
    return ""


def lacking(path: str, environment: Mapping[str, str] | None = None) -> str:
    """The shared libraries that a program needs and the system has not, "" when all are there."""
    done = subprocess.run(
        ["ldd", path], capture_output=True, text=True, check=True, timeout=30, env=environment
    )
    return ", ".join(line.split()[0] for line in done.stdout.splitlines() if "not found" in line)


def unpack(package: str) -> bool:
    """Fetch and unpack it, when it is not there yet; False when that did not work."""
    target = folder(package)
    if target.is_dir():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        try:
            for command in (["apt-get", "-qq", "download", package], ["sh", "-c", "dpkg -x *.deb out"]):
                subprocess.run(command, cwd=name, capture_output=True, timeout=SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            return False
        shutil.move(f"{name}/out", target)
    return True
