"""``/q/TOKEN``: the page that a digest's link leads to. GET shows what would be released and a button; only POST releases, because
mail scanners and browsers follow links by themselves. No cookies, no scripts, nothing but the token decides."""

from __future__ import annotations

import html
import logging
from datetime import UTC, datetime

from filterd.proto.http import Request
from filterd.quarantine.base import ASKED, HELD, RELEASED, Held
from filterd.quarantine.keeper import Quarantine
from filterd.quarantine.links import PATH, Links
from filterd.store.base import StoreUnavailable
from filterd.web.page import Page, page
from pipeline.ports import Clock

log = logging.getLogger("filterd.web")

UNKNOWN = "This link leads to nothing: it is not complete, or the message is not held any more."
WORDS = {
    ASKED: "It is on its way to your mailbox.",
    RELEASED: "It was delivered to your mailbox.",
}


class HeldPages:
    """One a worker."""

    def __init__(self, quarantine: Quarantine, links: Links, clock: Clock) -> None:
        self._quarantine = quarantine
        self._links = links
        self._clock = clock

    async def answer(self, request: Request) -> Page:
        path = request.path.partition("?")[0]
        if not path.startswith(PATH):
            return page(404, "Not found", "<p>There is no such page.</p>")
        if request.method not in ("GET", "HEAD", "POST"):
            return page(405, "Not allowed", "<p>This cannot be done here.</p>", Allow="GET, HEAD, POST")
        try:
            return await self._held(request.method, path[len(PATH) :])
        except StoreUnavailable as error:
            log.warning("%s", error)
            return page(503, "Not now", "<p>Please try again in a moment.</p>", Retry_After="30")

    async def _held(self, method: str, token: str) -> Page:
        row = await self._find(token)
        if row is None:
            return page(404, "Not found", f"<p>{html.escape(UNKNOWN)}</p>")
        if method == "POST" and row.state == HELD:
            now, name = self._clock.time(), row.id
            await self._quarantine.run(lambda database: database.ask(name, now))
            log.info("%s released by the link of %s", name, row.account)
            row = await self._find(token) or row
        words = WORDS.get(row.state)
        if words is not None:
            return page(200, "Released", f"{_about(row)}<p>{words}</p>")
        if row.state != HELD:
            return page(404, "Not found", f"<p>{html.escape(UNKNOWN)}</p>")
        note = f"<p>{html.escape(row.note)}</p>" if row.note else ""
        button = '<form method="post"><button type="submit">Release this message</button></form>'
        return page(200, "Held message", f"{_about(row)}{note}{button}")

    async def _find(self, token: str) -> Held | None:
        if not self._quarantine.exists():
            return None
        now = self._clock.time()
        return await self._quarantine.run(lambda database: self._links.opens(token, now, database.find))


def _about(row: Held) -> str:
    facts = {
        "Subject": row.subject or "(none)",
        "From": row.sender or "(nobody)",
        "Held since": datetime.fromtimestamp(row.created, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Held by": row.stage,
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>"
