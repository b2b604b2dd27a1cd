"""What fails beside the sending begins again, and ends nothing."""

import asyncio

import pytest

from filterd.beside import beside


def test_it_begins_again_until_it_ends_or_must_stop(caplog: pytest.LogCaptureFixture) -> None:
    begun: list[int] = []

    async def fails_twice(stop: asyncio.Event) -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise KeyError("a mistake")

    async def fails(stop: asyncio.Event) -> None:
        stop.set()
        raise OSError("and we stop")

    async def main() -> None:
        stop = asyncio.Event()
        async with asyncio.timeout(20):
            await asyncio.gather(beside("one", fails_twice, stop, 0.0))
            await beside("two", fails, stop, 3600.0)
            await beside("three", fails_twice, stop, 3600.0)

    asyncio.run(main())
    assert begun == [0, 1, 2]
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["one", "one", "two"]
