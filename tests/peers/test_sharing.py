"""ACL beside Dovecot's acl plugin: the same commands of an owner and a reader, answers compared word by word.

Names are made alike first: both say ``user/bob@example.org/...`` and both write quotes in their own way. Where the two differ for a
reason it stands in ``DIFFERENT``: RFC 4314 is the judge.
"""

from __future__ import annotations

import contextlib
import imaplib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, Server, mail
from tests.peers.test_adoption import PASSWORD, Dovecot

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("dovecot", path="/usr/sbin:/usr/bin") is None, reason="dovecot is not installed"
    ),
]
ANN, BOB = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
PLUGINS = (
    "/usr/lib/dovecot/modules/lib01_acl_plugin.so",
    "/usr/lib/dovecot/modules/lib02_imap_acl_plugin.so",
)
# (who, command); what is compared is every untagged line and the word and code of the tagged one
TALK = (
    ("bob", "CREATE Work"),
    ("bob", "MYRIGHTS Work"),
    ("bob", f"SETACL Work {ANN} lrs"),
    ("bob", f"SETACL Work {ANN} +wi"),
    ("bob", f"SETACL Work {ANN} -w"),
    ("ann", "MYRIGHTS {box}"),
    ("ann", "GETACL {box}"),
    ("ann", f"SETACL {{box}} {ANN} lrswipkxtea"),
    ("ann", "LISTRIGHTS {box} bob"),
    ("ann", "STATUS {box} (MESSAGES UNSEEN)"),
    ("ann", "SELECT {box}"),
    ("ann", "STORE 1 +FLAGS.SILENT (\\Seen)"),
    ("ann", "STORE 1 +FLAGS (\\Flagged)"),
    ("ann", "STORE 1 +FLAGS (\\Deleted)"),
    ("ann", "EXPUNGE"),
    ("ann", "UID MOVE 1 INBOX"),
    ("ann", "CLOSE"),
    ("ann", "DELETE {box}"),
    ("ann", f"CREATE user/{BOB}/Work/New"),
    ("ann", "STATUS {box} (MESSAGES UNSEEN)"),
    ("bob", "STATUS Work (MESSAGES UNSEEN)"),
    ("bob", f"SETACL Work {ANN} lrq"),
    ("bob", f"SETACL Work {ANN} l"),
    ("ann", "SELECT {box}"),
    ("ann", "STATUS {box} (MESSAGES)"),
    ("ann", "MYRIGHTS {box}"),
    ("bob", f"SETACL Work {ANN} lrcd"),
    ("ann", "MYRIGHTS {box}"),
    ("bob", f"DELETEACL Work {ANN}"),
    ("ann", "SELECT {box}"),
    ("ann", "MYRIGHTS {box}"),
    ("ann", "GETACL {box}"),
    ("ann", f"SELECT user/{BOB}/Nope"),
    ("ann", f"MYRIGHTS user/{BOB}/Nope"),
)
DIFFERENT = {
    8: "LISTRIGHTS needs the right a (RFC 4314 4); Dovecot tells everybody",
    12: "a STORE that may change no flag at all is refused; Dovecot says OK and changes nothing",
    13: "the same",
    14: "EXPUNGE needs the right e (RFC 4314 4); Dovecot says OK and removes nothing",
    29: "with the code of RFC 5530, the same for what is hidden and for what is not there",
    32: "the same",
}


class WithAcl(Dovecot):
    """Many users, each with a Maildir of his own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        text = self.config.read_text()
        text = re.sub(r"mail_location = .*", f"mail_location = maildir:{self.folder}/mail/%u", text)
        text += f"""
mail_plugins = acl
protocol imap {{
  mail_plugins = acl imap_acl
}}
plugin {{
  acl = vfile:cache_secs=0
  acl_shared_dict = file:{self.folder}/shared.db
}}
namespace shared {{
  type = shared
  separator = /
  prefix = user/%%u/
  location = maildir:{self.folder}/mail/%%u:INDEXPVT={self.folder}/private/%u/%%u
  subscriptions = no
  list = children
}}
"""
        self.config.write_text(text)
        for name in ("mail", "private"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.give(self.folder / "mail")
        self.give(self.folder / "private")

    @contextlib.contextmanager
    def as_user(self, user: str) -> Iterator[imaplib.IMAP4]:
        client = imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=20)
        try:
            client.login(user, PASSWORD.replace(" ", ""))
            yield client
        finally:
            with contextlib.suppress(imaplib.IMAP4.error, OSError):
                client.logout()


def ask(imap: imaplib.IMAP4, command: str) -> list[str]:
    tag = imap._new_tag()
    imap.send(tag + b" " + command.encode() + b"\r\n")
    lines: list[bytes] = []
    while not (lines and lines[-1].startswith(tag)):
        lines.append(imap.readline().rstrip(b"\r\n"))
    return [line.decode() for line in [*lines[:-1], lines[-1].removeprefix(tag + b" ")]]


def normal(lines: list[str]) -> list[str]:
    """Without what any two servers say differently."""
    out = []
    for line in lines[:-1]:
        if re.match(r"\* (OK|FLAGS|\d+ RECENT|LIST)", line) and "PERMANENTFLAGS" not in line:
            continue
        line = re.sub(r"PERMANENTFLAGS \(.*?\)\].*", "PERMANENTFLAGS", line).replace('"', "")
        rights = re.match(r"(\* MYRIGHTS \S+) (\S+)", line)
        out.append(f"{rights[1]} {''.join(sorted(rights[2]))}" if rights else line)
    word = re.match(r"(OK|NO|BAD)(?: \[([A-Z-]+)[^]]*\])?", lines[-1])
    assert word is not None, lines
    code = word[2] or ""
    return [*out, f"{word[1]} {code if code in ('NOPERM', 'NONEXISTENT', 'READ-ONLY', 'READ-WRITE') else ''}"]


Login = Callable[[str], contextlib.AbstractContextManager[imaplib.IMAP4]]


def talk(login: Login) -> list[list[str]]:
    """Who changes rights is believed by Dovecot's sessions from their next log-in on: so the reader logs in anew."""
    heard = []
    with contextlib.ExitStack() as stack, login("bob") as bob:
        ann = stack.enter_context(login("ann"))
        for number, (who, command) in enumerate(TALK):
            said = command.format(box=f'"user/{BOB}/Work"')
            heard.append(normal(ask({"bob": bob, "ann": ann}[who], said)))
            if number == 0:
                for count in range(2):
                    assert bob.append("Work", "", "", mail(f"number {count}"))[0] == "OK"
            if who == "bob" and "ACL" in command:
                stack.pop_all().close()
                ann = stack.enter_context(login("ann"))
    return heard


def test_beside_dovecot(tmp_path: Path) -> None:
    if not all(map(os.path.exists, PLUGINS)):
        pytest.skip("dovecot's acl plugins are not installed")
    with WithAcl(tmp_path / "unused", separator="/") as dovecot:
        theirs = talk(lambda who: dovecot.as_user(f"{who}@{DOMAIN}"))
    with Server(people=("ann", "bob")) as server:
        ours = talk(server.imap)
    pairs = list(zip(ours, theirs, strict=True))
    found = {number for number, (mine, other) in enumerate(pairs) if mine != other}
    shown = [f"{number} {TALK[number]}: {pairs[number]}" for number in sorted(found ^ set(DIFFERENT))]
    assert not shown, "\n".join(shown)
