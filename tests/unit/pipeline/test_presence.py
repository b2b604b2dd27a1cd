"""auto: absent until it answered once, a fault from then on."""

from __future__ import annotations

import errno

from pipeline.presence import PAUSE, Presence


class Clock:
    now = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_auto() -> None:
    clock = Clock()
    presence = Presence("auto", clock)
    assert not presence.skipped()
    assert presence.missing() and presence.skipped()
    clock.now += PAUSE
    assert not presence.skipped()  # time for another look
    presence.answered()
    assert not presence.missing() and not presence.skipped()


def test_on_and_off() -> None:
    assert not Presence("on", Clock()).missing()
    assert (
        Presence("off", Clock()).off and Presence("false", Clock()).off and not Presence("true", Clock()).off
    )


def test_nobody() -> None:
    assert Presence.nobody(ConnectionRefusedError(errno.ECONNREFUSED, "x"))
    assert Presence.nobody(OSError("Multiple exceptions: refused, refused"))
    assert not Presence.nobody(OSError(errno.EMFILE, "x")) and not Presence.nobody(TimeoutError())
