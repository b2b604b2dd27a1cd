"""Delivery without a socket: ``filterd deliver``, mail of the queue for our own people, stores rolled forward.

Exit codes of the commands are the callers'; here a reply says how it ended.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filterd.accounts.directory import Account
from filterd.delivery import Delivery
from filterd.local_text import MAILBOX, NO_ADDRESS, NO_PARAMS, crlf, is_path
from filterd.outgoing import LARGE
from filterd.queue.base import PendingChange, PendingStore
from filterd.reception import Reception
from filterd.servers.ports import SmtpSession, SmtpTransaction
from pipeline.envelope import Client, Profile
from pipeline.reply import Reply

OF_RECIPIENT = ("NOTIFY", MAILBOX)  # the others belong to MAIL
EACH = "PRDR"  # of MAIL: a reply for each recipient of a transaction
AT_ONCE = 100  # recipients of a transaction


async def _smtp_text(data: bytes) -> bytes:
    """With CRLF; a large one is looked through in a thread."""
    return crlf(data) if len(data) <= LARGE else await asyncio.to_thread(crlf, data)


@dataclass(slots=True)
class LocalDelivery:
    """The reception, asked as a door would ask it."""

    reception: Reception
    delivery: Delivery

    async def deliver(
        self,
        reverse_path: str,
        recipients: list[str],
        data: bytes,
        profile: Profile,
        account: Account | None = None,
        params: Mapping[str, str] = NO_PARAMS,
    ) -> list[Reply]:
        """One reply a recipient for ``Profile.DELIVER``; refused recipients keep their refusal. ``data``: any line ends;
        ``params``: NOTIFY and XMAILBOX for each recipient, RET, ENVID and BODY for the message (RFC 3461, RFC 6152)."""
        session = self._session(profile, account)
        await self.reception.connect(session)
        text = await _smtp_text(data)
        if account is not None:
            return await self._together(session, reverse_path, recipients, text, params, heard=True)
        replies: list[Reply] = []
        for address in recipients:
            replies.append(await self._one(session, reverse_path, address, text, params))
            self.reception.acknowledged(session)  # who called us has the answer in hand
        return replies

    @staticmethod
    def _session(profile: Profile, account: Account | None) -> SmtpSession:
        client = Client(helo=socket.gethostname(), facts_trusted=False, auth=account.id if account else "")
        return SmtpSession(profile, profile.value, client, account=account)

    async def _one(
        self,
        session: SmtpSession,
        reverse_path: str,
        address: str,
        data: bytes,
        params: Mapping[str, str] = NO_PARAMS,
    ) -> Reply:
        of_recipient = {name: value for name, value in params.items() if name in OF_RECIPIENT}
        of_mail = {name: value for name, value in params.items() if name not in OF_RECIPIENT}
        transaction = SmtpTransaction(reverse_path=reverse_path, mail_params=of_mail)
        reply = await self.reception.mail(session, transaction)
        if not reply.positive:
            return reply
        reply = await self.reception.rcpt(session, transaction, address, of_recipient)
        if not reply.positive:
            return reply
        transaction.recipients.append(address)
        transaction.rcpt_params.append(of_recipient)
        return (await self.reception.message(session, transaction, data))[0]

    async def _together(
        self,
        session: SmtpSession,
        reverse_path: str,
        recipients: Sequence[str],
        data: bytes,
        params: Mapping[str, str],
        heard: bool = False,
    ) -> list[Reply]:
        """Mail of our own people: looked at once, and what leaves is one text for all (one transaction at the next hop, too).
        ``heard``: who called us has the answers in hand."""
        of_recipient = {name: value for name, value in params.items() if name in OF_RECIPIENT}
        of_mail = {name: value for name, value in params.items() if name not in OF_RECIPIENT} | {EACH: ""}
        replies: list[Reply] = []
        for start in range(0, len(recipients), AT_ONCE):
            transaction = SmtpTransaction(reverse_path=reverse_path, mail_params=of_mail)
            some = recipients[start : start + AT_ONCE]
            begun = await self.reception.mail(session, transaction)
            if not begun.positive:
                replies += [begun] * len(some)
                continue
            answers: list[Reply] = []
            for address in some:
                answer = await self.reception.rcpt(session, transaction, address, of_recipient)
                if answer.positive:
                    transaction.recipients.append(address)
                    transaction.rcpt_params.append(of_recipient)
                answers.append(answer)
            if transaction.recipients:
                ends = await self.reception.message(session, transaction, data)
                each = iter(ends if len(ends) > 1 else [*ends] * len(transaction.recipients))
                answers = [next(each) if answer.positive else answer for answer in answers]
            replies += answers
            if heard:  # a transaction's promises are forgotten when the next one makes its own
                self.reception.acknowledged(session)
        return replies

    async def dropped(
        self,
        reverse_path: str,
        recipients: Sequence[str],
        data: bytes,
        account: Account,
        params: Mapping[str, str],
    ) -> list[Reply]:
        """As ``deliver``, for the maildrop. Not acknowledged: a crash before the file is gone brings it again; the key tells."""
        session = self._session(Profile.DELIVER, account)
        await self.reception.connect(session)
        good = [one for one in recipients if is_path(one)]
        try:
            text = await _smtp_text(data)
            replies = iter(await self._together(session, reverse_path, good, text, params))
        finally:
            self.reception.ended(session)
        return [next(replies) if is_path(one) else NO_ADDRESS for one in recipients]

    async def queued(self, reverse_path: str, recipient: str, data: bytes) -> Reply:
        """A queued message for one of our own people: a bounce that came home, a redirect inside the house.

        Not acknowledged: a crash before the queue has recorded the end brings it again, and the key then tells.
        """
        session = self._session(Profile.DELIVER, None)
        await self.reception.connect(session)
        try:
            return await self._one(session, reverse_path, recipient, await _smtp_text(data))
        finally:
            self.reception.ended(session)

    async def store_later(self, pending: PendingStore | PendingChange) -> None:
        """Roll forward what a worker began (HOUSE item 10). Raises StoreError."""
        await self.delivery.performer.redo(pending)
