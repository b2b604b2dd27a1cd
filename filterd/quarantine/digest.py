"""Once a day, to each person who wants to know: what was held back for him since the last time, with a link to release each.

The mail goes through our queue like any other of our own making: null reverse-path, ``Auto-Submitted``, plain text and HTML. Its
key is the account and the day, so that doing it again after a crash sends nothing twice. Subjects and senders are strangers'
words: they stay on their line and are escaped in HTML; nothing in the mail is loaded from elsewhere.
"""

from __future__ import annotations

import hashlib
import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from filterd.accounts.directory import Directory
from filterd.quarantine.base import HELD, Held
from filterd.quarantine.keeper import Quarantine
from filterd.quarantine.links import Links
from filterd.queue.base import Outgoing, Spool
from pipeline.ports import Clock

log = logging.getLogger("filterd.quarantine")

MOST = 200  # copies told of in one mail
SHOWN = 100  # characters of a subject
INTRODUCTION = "These messages for you were held back. What nobody releases is thrown away on the day named."


@dataclass(slots=True)
class Digests:
    """``hour``: of the server's local time, from which a day's mails are sent."""

    quarantine: Quarantine
    directory: Directory
    spool: Spool
    links: Links
    clock: Clock
    hostname: str
    hour: int = 7

    async def send_due(self) -> list[str]:
        """Queue the mails that are due; whom they went to. Raises StoreUnavailable."""
        now = self.clock.time()
        since = self._moment(now)
        told, rows = await self.quarantine.run(lambda database: (database.told(), database.rows()))
        waiting: dict[str, list[Held]] = {}
        for row in rows:
            last = told.get(row.account, 0.0)
            if last < row.created <= since and row.state == HELD:
                waiting.setdefault(row.account, []).append(row)
        out = []
        for account, mine in waiting.items():
            if await self._send(account, mine, now, since):
                out.append(account)
        return out

    async def send_now(self, account: str = "") -> list[str]:
        """Queue a mail about all that is held, whatever was told before. Raises StoreUnavailable."""
        now = self.clock.time()
        rows = await self.quarantine.run(lambda database: database.rows(account))
        waiting: dict[str, list[Held]] = {}
        for row in rows:
            if row.state == HELD:
                waiting.setdefault(row.account, []).append(row)
        return [one for one, mine in waiting.items() if await self._send(one, mine, now, now)]

    def _moment(self, now: float) -> float:
        """The last time that it struck ``hour``."""
        local = datetime.fromtimestamp(now).astimezone()
        struck = local.replace(hour=self.hour, minute=0, second=0, microsecond=0)
        return (struck if struck <= local else struck - timedelta(days=1)).timestamp()

    async def _send(self, account: str, rows: Sequence[Held], now: float, until: float) -> bool:
        """``until``: what came later is for the next mail."""
        found = self.directory.account(account)
        if found is None or not found.enabled:
            return False
        key = hashlib.blake2b(f"quarantine|{account}|{until}".encode(), digest_size=16).digest()
        data = compose(account, rows, self.links, self.hostname, now, key.hex())
        await self.spool.enqueue([Outgoing(key, "", account, data, "report")])
        await self.quarantine.run(lambda database: database.tell(account, until))
        log.info("digest of %d held messages queued for %s", len(rows), account)
        return True


def text(rows: Sequence[Held], links: Links) -> str:
    """For people and programs that read plain text."""
    out = [INTRODUCTION, ""]
    for row in rows[:MOST]:
        out += [
            f"  {row.subject[:SHOWN] or '(no subject)'}",
            f"    from {row.sender or 'nobody'}, {_day(row.created)}, {row.size} bytes",
            f"    held by {row.stage} until {_day(row.expires)}",
            f"    release: {links.url(row)}"
            if links.base_url
            else f"    its number, for your postmaster: {row.id}",
            "",
        ]
    if len(rows) > MOST:
        out.append(f"  and {len(rows) - MOST} more.")
    return "\n".join(out) + "\n"


def page(rows: Sequence[Held], links: Links) -> str:
    """The same as HTML."""
    out = [f"<html><body><p>{html.escape(INTRODUCTION)}</p>", "<table cellpadding='6'>"]
    for row in rows[:MOST]:
        subject, sender = (
            html.escape(row.subject[:SHOWN] or "(no subject)"),
            html.escape(row.sender or "nobody"),
        )
        way = (
            f'<a href="{html.escape(links.url(row))}">Release</a>' if links.base_url else html.escape(row.id)
        )
        about = f"{_day(row.created)}, {row.size} bytes; held by {html.escape(row.stage)} until {_day(row.expires)}"
        out.append(f"<tr><td><b>{subject}</b><br>from {sender}<br>{about}</td><td>{way}</td></tr>")
    more = f"<p>and {len(rows) - MOST} more.</p>" if len(rows) > MOST else ""
    return "\n".join([*out, "</table>", more, "</body></html>"]) + "\n"


def compose(account: str, rows: Sequence[Held], links: Links, hostname: str, now: float, name: str) -> bytes:
    """The mail, with CRLF."""
    count = len(rows)
    mail = EmailMessage(policy=SMTP)
    mail["From"] = f"Held mail <postmaster@{account.rpartition('@')[2]}>"
    mail["To"] = account
    mail["Subject"] = f"{count} message{'s' if count > 1 else ''} held back for you"
    mail["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    mail["Message-ID"] = f"<{name}@{hostname}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text(rows, links), cte="quoted-printable")
    mail.add_alternative(page(rows, links), subtype="html", cte="quoted-printable")
    return mail.as_bytes()


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
