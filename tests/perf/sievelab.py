"""Dovecot's LMTP with Pigeonhole on loopback, for comparisons in tests/perf. Ends with the block that began it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filterd.demo.lab import free_ports
from tests.perf.authchain import program
from tests.perf.imaplab import OWNER, dovecot

PLUGIN = Path("/usr/lib/dovecot/modules/lib90_sieve_plugin.so")
MISSING = [
    *(name for name in ("dovecot", "sievec") if program(name) is None),
    *([] if PLUGIN.exists() else ["dovecot-sieve"]),
    *([] if os.geteuid() == 0 else ["root, whom Dovecot begins as"]),
]


@contextmanager
def pigeonhole(folder: Path, domain: str, people: Iterable[str], text: str) -> Iterator[int]:
    """The LMTP port of a Dovecot that runs this script for everybody."""
    (port,) = free_ports(1)
    for name in people:
        (folder / "mail" / name).mkdir(parents=True)
    (folder / "rules.sieve").write_text(text)
    subprocess.run([str(program("sievec")), str(folder / "rules.sieve")], check=True, capture_output=True)
    subprocess.run(["chown", "-R", f"{OWNER}:{OWNER}", str(folder / "mail")], check=True)
    more = f"""protocols = lmtp
auth_username_format = %Ln
passdb {{
  driver = static
  args = nopassword=y
}}
postmaster_address = postmaster@{domain}
protocol lmtp {{
  mail_plugins = sieve
}}
plugin {{
  sieve = file:{folder}/rules.sieve
}}
service lmtp {{
  process_min_avail = 4
  inet_listener lmtp {{
    port = {port}
  }}
}}
"""
    with dovecot(folder, f"{folder}/mail/%n", more, port):
        yield port
