"""The whole program at work, offline, without root: a server on loopback, sample mail through it, one mail explained.

Examples:
  filterd demo                    leaves the server running to play with; Ctrl-C removes everything
  filterd demo --once             runs the story and exits 0
  filterd demo --keep DIR         keeps the folder: configuration, mail, traces

See also: filterd help first-steps
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time

from filterd.cli import FOUND, OK, CliError
from filterd.demo import samples
from filterd.demo.lab import DemoFailed, Lab, as_json, build, make_accounts
from filterd.demo.story import Story

WIDTH = 44
SHOWN = (
    ("SMTP", "smtp"),
    ("submission, TLS", "submissions"),
    ("IMAP, TLS", "imaps"),
    ("POP3, TLS", "pop3s"),
    ("ManageSieve", "sieve"),
    ("LMTP", "lmtp"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="run the story and exit")
    parser.add_argument("--keep", metavar="DIR", default="", help="use this empty folder and keep it")
    parser.add_argument(
        "--ports", default="auto", help='"auto" or +NUMBER, for example +10000 for 10025, 10143, ...'
    )
    parser.add_argument(
        "--json", action="store_true", help="also print where everything is, as one JSON line"
    )


def run(arguments: argparse.Namespace) -> int:
    import imaplib
    import poplib
    import smtplib

    from filterd.cli.managesieve_client import RemoteError
    from pipeline.adapters.crypto import generate
    from pipeline.adapters.dkimpy import sign

    started = time.monotonic()
    key = generate("rsa", 1024)  # small and quick: it signs nothing but the demonstration
    lab: Lab | None = None
    try:
        lab = build(samples.zone(key.record()), arguments.keep, arguments.ports)
        lab.started = started
        make_accounts(lab)
        lab.serve()
        _table(lab)
        if arguments.json:
            print(as_json(lab), flush=True)

        def signed(message: bytes) -> bytes:
            return sign(message, samples.SENDER_DOMAIN, samples.SELECTOR, key) + message

        _tell(Story(lab), samples.samples(signed))
        if not arguments.once:
            _try_this(lab)
            _wait(lab)
    except DemoFailed as failure:
        raise CliError(f"the demonstration failed: {failure}", FOUND) from None
    except (RemoteError, smtplib.SMTPException, imaplib.IMAP4.error, poplib.error_proto, OSError) as failure:
        tail = lab.log_tail() if lab is not None else "(none)"
        raise CliError(f"the demonstration failed: {failure}; server log: {tail}", FOUND) from None
    except KeyboardInterrupt:
        print()
    finally:
        if lab is not None:
            lab.close()
    return OK


def _table(lab: Lab) -> None:
    seconds = time.monotonic() - lab.started
    print(
        f"A mail server for {samples.DOMAIN} runs on 127.0.0.1 since {seconds:.1f} s (everything in {lab.folder}):\n"
    )
    shown = (
        ("SMTP", "smtp"),
        ("submission, TLS", "submissions"),
        ("IMAP, TLS", "imaps"),
        ("POP3, TLS", "pop3s"),
        ("ManageSieve", "sieve"),
        ("LMTP", "lmtp"),
    )
    for title, door in shown:
        print(f"  {title:<16} 127.0.0.1:{lab.ports[door]}")
    print("\n  log-in                    password")
    for address, password in lab.passwords.items():
        print(f"  {address:<24}  {password}")
    print(flush=True)


def _tell(story: Story, mails: list[samples.Sample]) -> None:
    story.upload_scripts()
    print("Uploaded a Sieve script for Ann and one for Bob by ManageSieve. Sending mail in by SMTP:\n")
    story.send(mails)
    for told in story.told:
        print(f"  {told.sample.title:<{WIDTH}} {told.reply}")
    story.wait_for_arrivals(1)
    answer = story.submit()
    hidden = "User-Agent" not in answer and "192.0.2.55" not in answer
    print(
        f"  {'Ann answers somebody elsewhere (submission)':<{WIDTH}} {'client and program hidden' if hidden else 'NOT HIDDEN'}"
    )
    print("\nRead by IMAP:\n")
    for person in ("ann", "bob"):
        for folder, subject, sender in story.read_imap(person):
            print(f"  {person:<5} {folder:<12} {subject:<32} {sender}")
    count = story.read_pop3("ann")
    forwarded = story.lab.hop.arrivals[0]
    print(
        f"\nRead by POP3: {count} message(s) in Ann's INBOX. First mail read {story.first_read:.1f} s after the start."
    )
    print(f"The next hop got Bob's forward from <{forwarded.reverse_path}> (SRS).\n")
    for told in story.told:
        if told.accepted and "EICAR" in told.sample.title:
            _scanner(story.lab, told.trace)
        if told.accepted and told.sample.expect == "Junk":
            _explain(story.lab, told.trace)
    _check(story, hidden)


def _scanner(lab: Lab, trace: str) -> None:
    """Why the virus was let in: the line of its trace that says so."""
    said = next(
        (line for line in _told(lab, trace).splitlines() if " clamav " in line), "  clamav said nothing"
    )
    print(f"The virus was delivered to Ann's INBOX. Its trace says why:\n{said}\n")


def _explain(lab: Lab, trace: str) -> None:
    print(f"Why is the changed mail where it is?   $ filterd explain {trace}\n")
    print(_told(lab, trace), flush=True)


def _told(lab: Lab, trace: str) -> str:
    """What `filterd explain` prints; traces are written a moment after the mail."""
    deadline = time.monotonic() + 5
    while True:
        done = lab.command("explain", "-c", str(lab.config), trace)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return done.stdout or done.stderr


def _check(story: Story, hidden: bool) -> None:
    """The story knows how it must end; anything else is a failure of the program and exits 1."""
    folders = {(folder, subject) for folder, subject, _ in story.read_imap("ann")}
    wanted = {
        ("INBOX", "Your order 1042 is on its way"),
        ("Lists/rust", "[rust] This week: borrowed time"),
        ("Junk", "Your order 1043 is on its way"),
    }
    if not wanted <= folders:
        raise DemoFailed(
            f"expected {sorted(wanted)} in Ann's folders, found {sorted(folders)}; {story.lab.log_tail()}"
        )
    if not hidden:
        raise DemoFailed("the submitted message still tells the client's address or program")
    if not story.lab.hop.arrivals[0].reverse_path.lower().startswith("srs0="):
        raise DemoFailed(f"the forward left as <{story.lab.hop.arrivals[0].reverse_path}>, not rewritten")


def _try_this(lab: Lab) -> None:
    ann = f"ann@{samples.DOMAIN}"
    password = lab.passwords[ann]
    print("Try this (in another terminal):\n")
    print(f"  curl -k --url imaps://127.0.0.1:{lab.ports['imaps']}/INBOX -u '{ann}:{password}'")
    print(f"  swaks -s 127.0.0.1:{lab.ports['smtp']} -f you@shop.example -t {ann}")
    print(
        f"  mutt -e 'set ssl_verify_host=no' -f imaps://{ann.replace('@', '%40')}:{password}@127.0.0.1:{lab.ports['imaps']}/INBOX"
    )
    print(f"  filterd explain -c {lab.config} last from shop.example")
    print("\nCtrl-C stops the server" + ("." if lab.keep else " and removes everything."), flush=True)


def _wait(lab: Lab) -> None:
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    while not done.wait(0.5):
        if lab.server is not None and lab.server.poll() is not None:
            print(f"the server ended: {lab.log_tail()}", file=sys.stderr)
            return
