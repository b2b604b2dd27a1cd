"""Ten thousand messages for a hundred destinations, three of them dead (issue 7): the living ones do not wait."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.queuelab import Lab, Mood

DEAD = (
    "dead.example",
    "a.dead.example",
    "half.example",
)  # no answer, no answer, takes connections and says nothing
LIVING, EACH = 97, 100


@pytest.mark.slow
def test_the_living_do_not_wait(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.sink.moods["192.0.2.66"] = Mood(dead=True)
    lab.sink.moods["192.0.2.77"] = Mood(silent=True)
    began = lab.clock.now

    async def story() -> None:
        dead = [
            lab.out(f"u{n}@{place}", data=b"Subject: %d\r\n\r\nx\r\n" % n)
            for n in range(EACH)
            for place in DEAD
        ]
        living = [
            lab.out(f"u{n}@{lab.live(k)}", data=b"Subject: %d.%d\r\n\r\nx\r\n" % (n, k))
            for n in range(EACH)
            for k in range(LIVING)
        ]
        lab.put(*dead, *living)  # the dead ones came first
        async with lab.sending():
            await lab.until(lambda: len(lab.sink.taken) == len(living), 120)

    asyncio.run(story())
    assert lab.clock.now == began  # all of them without waiting for one retry
    ends = Counter((item.state, item.domain in DEAD) for item in lab.items())
    assert ends == {("sent", False): LIVING * EACH, ("queued", True): len(DEAD) * EACH}
    sent = Counter(recipient for _, recipient, _ in lab.sink.taken)
    assert set(sent.values()) == {1}
    assert lab.sink.tried["192.0.2.66"] < 30  # not once a message
