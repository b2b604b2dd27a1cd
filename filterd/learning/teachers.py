"""The engines that are daemons: spamd learns by TELL, rspamd by its controller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from filterd.learning.lesson import (
    AGAIN,
    CHANGED,
    FAILED,
    FORGOTTEN,
    HAM,
    LEARNED,
    NONE,
    SKIPPED,
    SPAM,
    Lesson,
    Outcome,
)
from pipeline import endpoint
from pipeline.errors import StageFault
from pipeline.presence import Presence
from pipeline.spam import rspamd
from pipeline.stages.spamassassin import SpamassassinSettings, user_name
from pipeline.wire import rspamd as wire

LEARN_SECONDS: Final = 30.0  # learning takes longer than judging


class DaemonTeacher:
    """One lesson after another, each over a connection of its own, each in time."""

    def __init__(self, settings: SpamassassinSettings) -> None:
        self.name = settings.engine
        self.max_size = settings.max_size
        self._settings = settings
        self._rspamd = settings.engine == "rspamd"
        where, port = (settings.rspamd_controller, 11334) if self._rspamd else (settings.socket, 783)
        self._endpoint = endpoint.parse(where, default_port=port)
        self._seconds = max(LEARN_SECONDS, settings.timeout)

    async def teach(self, account: str, lessons: Sequence[Lesson]) -> list[Outcome]:
        return [await self._one(account, lesson) for lesson in lessons]

    async def close(self) -> None:
        """Nothing is kept."""

    async def _one(self, account: str, lesson: Lesson) -> Outcome:
        if len(lesson.data) > self.max_size:
            return Outcome(SKIPPED, f"{len(lesson.data)} octets, the limit is {self.max_size}")
        try:
            async with asyncio.timeout(self._seconds):
                try:
                    reader, writer = await rspamd.dial(self._endpoint)
                except OSError as error:
                    absent = self._settings.enabled == "auto" and Presence.nobody(error)
                    text = f"cannot reach {self._endpoint}: {error.strerror or error}"
                    return Outcome(FAILED, text, absent)
                if self._rspamd:
                    return await self._tell_rspamd(reader, writer, account, lesson)
                return await self._tell_spamd(reader, writer, account, lesson)
        except TimeoutError:
            return Outcome(FAILED, f"{self.name} did not answer within {self._seconds:g} s")
        except StageFault as fault:
            return Outcome(FAILED, fault.reason)

    async def _tell_spamd(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, account: str, lesson: Lesson
    ) -> Outcome:
        from pipeline.adapters import aiospamc  # late: see the adapter's heading

        user = user_name(self._settings.user, account)
        spam = (lesson.before if lesson.kind == NONE else lesson.kind) == SPAM
        new = await aiospamc.tell(reader, writer, spam, lesson.kind == NONE, lesson.data, user, self._seconds)
        return _outcome(lesson, new)

    async def _tell_rspamd(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, account: str, lesson: Lesson
    ) -> Outcome:
        if lesson.kind == NONE:
            writer.transport.abort()
            return Outcome(SKIPPED, "rspamd cannot forget")
        fields = [("Password", one) for one in self._settings.rspamd_password[:1]]
        user = user_name(self._settings.user, account)
        fields += [("Deliver-To", user)] if user else []
        path = "/learnham" if lesson.kind == HAM else "/learnspam"
        host = self._endpoint.host or "localhost"
        response = await rspamd.post(reader, writer, path, host, fields, lesson.data)
        return _outcome(lesson, wire.learned(response))


def _outcome(lesson: Lesson, new: bool) -> Outcome:
    if not new:
        return Outcome(AGAIN)
    if lesson.kind == NONE:
        return Outcome(FORGOTTEN)
    return Outcome(CHANGED if lesson.before else LEARNED)
