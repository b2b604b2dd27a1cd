"""Rest and room of a destination."""

from __future__ import annotations

from filterd.queue.destinations import REST_SECONDS, Destination


def test_one_connection_until_something_is_left_behind() -> None:
    place = Destination("@x", "x")
    assert place.wants_another()
    place.active = 1
    assert not place.wants_another()
    place.hungry = True
    assert place.wants_another()
    place.active = place.limit
    assert not place.wants_another()


def test_rest_is_for_those_who_answer_nobody() -> None:
    place = Destination("@x", "x", active=3)
    assert not place.unreachable(100.0, "451 no", 900.0) and not place.resting(101.0) and place.limit == 2
    place.active = 1
    assert place.unreachable(100.0, "451 no", 900.0)
    assert place.resting(100.0 + REST_SECONDS - 1) and not place.resting(100.0 + REST_SECONDS)
    place.active = 0
    assert not place.forgettable(101.0) and place.forgettable(100.0 + REST_SECONDS)
    place.wake()
    assert not place.resting(101.0)


def test_room_comes_back_one_by_one() -> None:
    place = Destination("@x", "x", active=5)
    place.crowded()
    place.crowded()
    assert place.limit == 4
    place.active = 1
    place.crowded()
    assert place.limit == 1
    for _ in range(9):
        place.worked()
    assert place.limit == place.most
