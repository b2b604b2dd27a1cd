"""The story of the demonstration: sample mail in by SMTP, filed by Sieve, read by IMAP and POP3, explained."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
import time
from dataclasses import dataclass, field

from filterd.demo import samples
from filterd.demo.lab import DemoFailed, Lab

FORWARD_SECONDS = 10.0


def insecure() -> ssl.SSLContext:
    """The demonstration's certificate is its own: nothing to check it against."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(slots=True)
class Told:
    """What happened to one sample; ``trace`` from the reply ("" when refused)."""

    sample: samples.Sample
    accepted: bool
    reply: str
    trace: str = ""


@dataclass(slots=True)
class Story:
    lab: Lab
    told: list[Told] = field(default_factory=list)
    first_read: float = 0.0

    def upload_scripts(self) -> None:
        """By ManageSieve, as a mail program does."""
        from filterd.cli.managesieve_client import RemoteScripts, Server

        ca = str(self.lab.folder / "data" / "tls" / "self-signed.crt")
        for person, text in (("ann", samples.ANN_SCRIPT), ("bob", samples.BOB_SCRIPT)):
            login = f"{person}@{samples.DOMAIN}"
            scripts = RemoteScripts(
                Server("127.0.0.1", self.lab.ports["sieve"], login, self.lab.passwords[login], ca)
            )
            scripts.put("main", text)
            scripts.activate("main")
            scripts.close()

    def send(self, mails: list[samples.Sample]) -> None:
        """Each sample through port 25, as if from its own host (XCLIENT)."""
        for sample in mails:
            with smtplib.SMTP("127.0.0.1", self.lab.ports["smtp"], "localhost", timeout=30) as smtp:
                smtp.ehlo("demo")
                smtp.docmd("XCLIENT", f"ADDR={sample.ip} NAME={sample.helo} HELO={sample.helo}")
                smtp.ehlo(sample.helo)
                code, text = smtp.mail(sample.reverse_path)
                for recipient in sample.recipients:
                    code, text = smtp.rcpt(recipient)
                    if code != 250:
                        raise DemoFailed(
                            f"RCPT {recipient}: {code} {text!r}; server log: {self.lab.log_tail()}"
                        )
                code, text = smtp.data(sample.data)
            words = text.decode("utf-8", "replace").split()
            self.told.append(
                Told(sample, code == 250, f"{code} {' '.join(words)}", words[-1] if code == 250 else "")
            )

    def read_imap(self, person: str) -> list[tuple[str, str, str]]:
        """(folder, subject, from) of every message, by IMAP over TLS."""
        login = f"{person}@{samples.DOMAIN}"
        found: list[tuple[str, str, str]] = []
        with imaplib.IMAP4_SSL("127.0.0.1", self.lab.ports["imaps"], ssl_context=insecure()) as imap:
            imap.login(login, self.lab.passwords[login])
            _, rows = imap.list()
            folders = [
                row.rpartition(b' "/" ')[2].decode().strip('"') for row in rows if isinstance(row, bytes)
            ]
            for folder in folders:
                imap.select(f'"{folder}"', readonly=True)
                _, data = imap.search(None, "ALL")
                for number in data[0].split():
                    _, parts = imap.fetch(number.decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)])")
                    text = next(part[1] for part in parts if isinstance(part, tuple)).decode(
                        "utf-8", "replace"
                    )
                    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
                    found.append((folder, fields.get("Subject", ""), fields.get("From", "")))
                    self.first_read = self.first_read or time.monotonic() - self.lab.started
        return found

    def read_pop3(self, person: str) -> int:
        """How many messages POP3 shows, the first of them fetched whole."""
        login = f"{person}@{samples.DOMAIN}"
        pop = poplib.POP3_SSL("127.0.0.1", self.lab.ports["pop3s"], context=insecure(), timeout=30)
        try:
            pop.user(login)
            pop.pass_(self.lab.passwords[login])
            count = pop.stat()[0]
            if count:
                pop.retr(1)
            return count
        finally:
            pop.quit()

    def submit(self) -> str:
        """Ann answers somebody elsewhere: submission with her password; the text that the next hop got."""
        ann = f"ann@{samples.DOMAIN}"
        before = len(self.lab.hop.arrivals)
        with smtplib.SMTP_SSL(
            "127.0.0.1", self.lab.ports["submissions"], "localhost", context=insecure(), timeout=30
        ) as smtp:
            smtp.login(ann, self.lab.passwords[ann])
            smtp.sendmail(
                ann,
                ["friend@elsewhere.example"],
                f"From: Ann <{ann}>\r\nTo: friend@elsewhere.example\r\nSubject: Hello from the demo\r\n"
                "User-Agent: DeskMail/9.1\r\nX-Originating-IP: [192.0.2.55]\r\n\r\nIt works.\r\n",
            )
        self.wait_for_arrivals(before + 1)
        return self.lab.hop.arrivals[-1].data.decode("utf-8", "replace")

    def wait_for_arrivals(self, count: int) -> None:
        """Until the next hop has so many messages."""
        deadline = time.monotonic() + FORWARD_SECONDS
        while len(self.lab.hop.arrivals) < count:
            if time.monotonic() > deadline:
                raise DemoFailed(f"nothing reached the next hop; server log: {self.lab.log_tail()}")
            time.sleep(0.02)
