"""`filterd config import` beside the programs themselves: what we read of their files is what `postconf -n` and `doveconf -n` say,
and Debian's own files come over with every line accounted for."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from filterd.config.errors import Problem
from filterd.config.load import parse
from filterd.config.schema import Config
from filterd.config.takeover import take_over
from filterd.config.takeover.draft import Draft, Fate

pytestmark = pytest.mark.peer
STOCK = {
    "postfix": ("/usr/share/postfix/main.cf.debian", "/usr/share/postfix/main.cf.dist"),
    "dovecot": ("/usr/share/dovecot/dovecot.conf",),
    "opendkim": ("/etc/opendkim.conf",),
}
MAIN = """\
myhostname = mail.example.org
mydomain = example.org
myorigin = $mydomain
mydestination = $myhostname, localhost.$mydomain, localhost, $mydomain
 lists.$mydomain
relayhost = [smtp.provider.example]:587
recipient_delimiter = +
message_size_limit = 20480000
mynetworks = 127.0.0.0/8 [::1]/128 192.0.2.0/24
smtpd_recipient_restrictions = permit_mynetworks,
    # within
    reject_unauth_destination,
    reject_rbl_client zen.example.net
smtp_tls_security_level = ${none?may}${none:dane}
delay_warning_time = 4h
maximal_queue_lifetime = 2d
smtpd_client_connection_count_limit = 30
smtpd_milters = unix:/run/x/milter.sock
"""
DOVECOT = """\
protocols = imap lmtp sieve
hostname = mail.example.org
ssl = no
mail_location = maildir:~/Maildir
!include extra.conf
service imap-login {
  inet_listener imap {
    port = 1143
  }
  inet_listener imaps {
    port = 0
  }
}
plugin {
  sieve_max_redirects = 10
  quota_rule = *:storage=2G
}
"""
EXTRA = """\
recipient_delimiter = "+"
plugin {
  sieve_max_actions = 12
}
service lmtp {
  inet_listener lmtp {
    port = 2424
  }
}
"""


def nothing(_: Config, __: str) -> tuple[Problem, ...]:
    return ()


def taken(name: str, path: str, text: str) -> tuple[Config, Draft]:
    out, draft = take_over([(name, path, text)], "filterd.toml", nothing, "mail.example.org", ["example.org"])
    return parse(out), draft


def comparable(config: Config) -> Config:
    return dataclasses.replace(config, origins={}, warnings=())


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in STOCK.items() for path in paths])
def test_debians_own_files(name: str, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path} is not installed")
    _, draft = taken(name, path, Path(path).read_text("utf-8", "replace"))
    allowed = ("pam", "passwd", "master.cf", "is not there", "tls.", "no file", "alias_files")
    odd = [
        one
        for one in draft.outcomes
        if one.fate is Fate.LEFT and not any(word in one.why for word in allowed)
    ]
    assert not odd, "\n".join(f"{one.line.place} {one.line.text}: {one.why}" for one in odd)
    assert draft.outcomes


def test_main_cf_and_postconf_say_the_same(tmp_path: Path) -> None:
    postconf = shutil.which("postconf") or "/usr/sbin/postconf"
    if not os.path.exists(postconf):
        pytest.skip("postfix is not installed")
    (tmp_path / "main.cf").write_text(MAIN)
    done = subprocess.run(
        [postconf, "-c", tmp_path, "-n"], capture_output=True, text=True, check=True, timeout=60
    )
    ours, _ = taken("postfix", "-", MAIN)
    theirs, _ = taken("postfix", "-", done.stdout)
    assert comparable(ours) == comparable(theirs)
    expanded = subprocess.run(
        [postconf, "-c", tmp_path, "-x", "-h", "mydestination", "smtp_tls_security_level"], capture_output=True, text=True,
        check=True, timeout=60,
    ).stdout.splitlines()  # fmt: skip
    names = {word for word in expanded[0].replace(",", " ").split() if not word.startswith("localhost")}
    assert {one.name for one in ours.domain} == names
    assert ours.queue.tls == expanded[1].strip() == "dane"


def test_dovecot_conf_and_doveconf_say_the_same(tmp_path: Path) -> None:
    doveconf = shutil.which("doveconf") or "/usr/bin/doveconf"
    if not os.path.exists(doveconf):
        pytest.skip("dovecot is not installed")
    (tmp_path / "dovecot.conf").write_text(DOVECOT)
    (tmp_path / "extra.conf").write_text(EXTRA)
    done = subprocess.run(
        [doveconf, "-n", "-c", tmp_path / "dovecot.conf"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ours, _ = taken("dovecot", str(tmp_path / "dovecot.conf"), DOVECOT)
    theirs, _ = taken("dovecot", "-", done.stdout)
    assert comparable(ours) == comparable(theirs)
    assert [str(one) for one in ours.listen.imap] == [":1143"] and not ours.listen.imaps
    assert [str(one) for one in ours.listen.lmtp] == [":2424"] and ours.stage.sieve.limits.actions == 12
