from __future__ import annotations

import pytest

from filterd.net.limits import Admission, AdmissionLimits, network_key, plain_ip


def test_one_address_cannot_take_all() -> None:
    admission = Admission(AdmissionLimits(total=100, per_address=10))
    flood = [admission.admit("192.0.2.1") for _ in range(500)]
    assert sum(ticket is not None for ticket in flood) == 10
    assert admission.refused == 490
    assert admission.admit("192.0.2.2") is not None


def test_released_places_come_back_and_nothing_is_left() -> None:
    admission = Admission(AdmissionLimits(total=2, per_address=1))
    first = admission.admit("192.0.2.1")
    assert first is not None
    assert admission.admit("192.0.2.1") is None
    first.release()
    first.release()
    again = admission.admit("192.0.2.1")
    assert again is not None
    again.release()
    assert (admission.total, admission.by_key, admission.newcomers, admission.tickets) == (0, {}, {}, set())


def test_the_oldest_newcomer_makes_room_and_settled_ones_stay() -> None:
    admission = Admission(AdmissionLimits(total=3, per_address=1))
    cut: list[str] = []
    for name in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        ticket = admission.admit(name)
        assert ticket is not None
        ticket.evict = lambda name=name: cut.append(name)
        if name == "192.0.2.1":
            ticket.settle()
    assert admission.admit("192.0.2.4") is not None
    assert cut == ["192.0.2.2"]
    for ticket in list(admission.newcomers):
        ticket.settle()
    assert admission.admit("192.0.2.5") is None
    assert admission.total == 3


def test_unix_sockets_count_in_the_total_only() -> None:
    admission = Admission(AdmissionLimits(total=3, per_address=1))
    tickets = [admission.admit(None) for _ in range(3)]
    assert None not in tickets


def test_shut_down_asks_every_connection() -> None:
    admission = Admission(AdmissionLimits())
    stopped: list[int] = []
    for number in range(3):
        ticket = admission.admit("192.0.2.1")
        assert ticket is not None
        ticket.stop = lambda number=number: stopped.append(number)
    assert admission.admit("192.0.2.1") is not None  # still in its handshake: has no way to be asked
    admission.shut_down()
    assert sorted(stopped) == [0, 1, 2]


@pytest.mark.parametrize(
    ("ip", "key"),
    [
        (None, ""),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_network_key(ip: str | None, key: str) -> None:
    assert network_key(ip) == key


def test_plain_ip() -> None:
    assert plain_ip(("::ffff:192.0.2.1", 25, 0, 0)) == ("192.0.2.1", 25)
    assert plain_ip(("fe80::1%eth0", 25, 0, 2)) == ("fe80::1", 25)
    assert plain_ip("/run/socket") == (None, 0)
    assert plain_ip(None) == (None, 0)
