"""All of one message past a scanner: the order, the deadline, and what ends it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import pytest

from pipeline.adapters.pyclamd import Absent
from pipeline.ambiguity import LIMIT, VIEWS
from pipeline.clamsweep import Sweep, Swept
from pipeline.endpoint import Endpoint
from pipeline.errors import StageFault
from pipeline.ports import Clock
from pipeline.wire.clamd import Scan
from rules.mail.message import Message

WHERE = Endpoint("127.0.0.1", 3310)
BAD = b"a virus of these tests"


@dataclass
class Hands:
    """A clock that goes on as the scanner works."""

    now: float = 100.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@dataclass
class Scanner:
    """Finds BAD; each scan takes ``cost`` seconds; ``faults`` by the number of the question."""

    clock: Hands
    cost: float = 0.0
    faults: dict[int, StageFault] = field(default_factory=dict)
    asked: list[tuple[bytes, float]] = field(default_factory=list)
    stopped: int = 0
    sweep: Sweep | None = None
    stop_at: int = -1

    def __call__(self, endpoint: Endpoint, seconds: float, clock: Clock) -> Asked:
        assert endpoint == WHERE and clock is self.clock
        return Asked(self, seconds)


@dataclass
class Asked:
    scanner: Scanner
    seconds: float

    def scan(self, data: bytes) -> Scan:
        scanner = self.scanner
        number = len(scanner.asked)
        scanner.asked.append((data, self.seconds))
        scanner.clock.now += scanner.cost
        if number == scanner.stop_at:
            assert scanner.sweep is not None
            scanner.sweep.stop()
        if number in scanner.faults:
            raise scanner.faults[number]
        return Scan("Own.Mark" if BAD in data else "")

    def stop(self) -> None:
        self.scanner.stopped += 1


def part(content: bytes, encoding: bytes = b"base64") -> bytes:
    return (
        b"--b\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + base64.b64encode(content) + b"\r\n"
    )


def mixed(*parts: bytes) -> Message:
    return Message(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"".join(parts) + b"--b--\r\n")


def swept(
    message: Message, every: bool = True, octets: int = 1 << 20, **more: object
) -> tuple[Swept | StageFault, Scanner]:
    clock = Hands()
    scanner = Scanner(clock, **more)  # type: ignore[arg-type]  # free fields
    scanner.sweep = Sweep(WHERE, 10.0, clock, scanner)
    try:
        return scanner.sweep.run(message, every, octets), scanner
    except StageFault as fault:
        return fault, scanner


def test_the_message_then_each_part() -> None:
    message = mixed(part(b"one"), part(b"two"))
    found, scanner = swept(message, cost=3.0)
    assert found == Swept("", "", 2, ())
    assert scanner.asked == [(message.data, 10.0), (b"one", 7.0), (b"two", 4.0)]


def test_the_first_find_ends_it() -> None:
    found, scanner = swept(mixed(part(b"one"), part(b"x" + BAD), part(b"three")))
    assert found == Swept("Own.Mark", "decoded part 2", 2, ()) and len(scanner.asked) == 3
    found, scanner = swept(Message(b"Subject: x\r\n\r\n" + BAD))
    assert found == Swept("Own.Mark", "the message as it came", 0, ()) and len(scanner.asked) == 1


def test_parts_of_what_is_not_ambiguous_are_left_out_when_that_is_asked() -> None:
    found, scanner = swept(mixed(part(BAD)), every=False)
    assert found == Swept("", "", 0, ()) and len(scanner.asked) == 1
    found, scanner = swept(mixed(part(BAD, b"x-odd")), every=False)
    assert isinstance(found, Swept) and found.virus == "Own.Mark" and found.words


def test_one_deadline_for_all() -> None:
    found, scanner = swept(mixed(*(part(b"%d" % number) for number in range(9))), cost=4.0)
    assert isinstance(found, StageFault) and found.kind == "timeout"
    assert [seconds for _, seconds in scanner.asked] == [10.0, 6.0, 2.0]


def test_told_to_stop_between_two_questions() -> None:
    found, scanner = swept(mixed(part(b"one"), part(b"two")), stop_at=1)
    assert isinstance(found, StageFault) and found.kind == "timeout"
    assert len(scanner.asked) == 2 and scanner.stopped == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_could_not_be_scanned_is_never_clean(number: int) -> None:
    message = mixed(part(b"one"), part(BAD))
    found, scanner = swept(message, faults={number: StageFault("protocol", "odd")})
    assert isinstance(found, StageFault) and found.kind == "protocol" and len(scanner.asked) == number + 1


def test_only_the_first_question_may_say_that_nobody_is_there() -> None:
    message = mixed(part(b"one"))
    first, _ = swept(message, faults={0: Absent("refused")})
    assert isinstance(first, Absent)
    later, _ = swept(message, faults={1: Absent("refused")})
    assert isinstance(later, StageFault) and not isinstance(later, Absent) and later.kind == "unavailable"


def test_more_parts_than_are_looked_at() -> None:
    found, scanner = swept(mixed(*(part(b"%d" % number) for number in range(VIEWS + 1))))
    assert found == Swept("", "", VIEWS, (LIMIT,)) and len(scanner.asked) == VIEWS + 1
