"""argon2id with a short memory; the same work for log-ins that do not exist."""

from filterd.accounts.password import MAX_PASSWORD, REMEMBER_SECONDS, Passwords, generate
from pipeline.ports import Clock


class Hands(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Counting(Passwords):
    """Counts the verifications that cost something."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, time_cost=1, memory_kib=8)
        self.checks = 0

    def _check(self, stored: str, octets: bytes) -> bool:
        self.checks += 1
        return super()._check(stored, octets)


def test_right_and_wrong() -> None:
    passwords = Counting(Hands())
    stored = passwords.hash("pässword ✓")
    assert stored.startswith("$argon2id$") and "pässword" not in stored
    assert passwords.verify(stored, "pässword ✓")
    assert passwords.verify(stored, "pa\u0308ssword\u00a0✓"), "RFC 8265: NFC, other spaces are spaces"
    assert not passwords.verify(stored, "password ✓")
    assert not passwords.verify(stored, "")
    assert not passwords.verify("not a hash", "x")


def test_a_right_password_is_remembered_for_a_minute() -> None:
    clock = Hands()
    passwords = Counting(clock)
    stored, other = passwords.hash("x"), passwords.hash("x")
    assert passwords.verify(stored, "x") and passwords.verify(stored, "x")
    assert passwords.checks == 1
    assert passwords.verify(other, "x"), "a changed hash is looked at again"
    assert passwords.checks == 2
    clock.at += REMEMBER_SECONDS
    assert passwords.verify(stored, "x")
    assert passwords.checks == 3


def test_wrong_ones_and_unknown_names_cost_the_same() -> None:
    passwords = Counting(Hands())
    stored = passwords.hash("x")
    for _ in range(2):
        assert not passwords.verify(stored, "y")
        assert not passwords.verify(None, "y")
    assert passwords.checks == 4


def test_very_long_ones_are_wrong_but_cost_the_same() -> None:
    passwords = Counting(Hands())
    stored = passwords.hash("x" * MAX_PASSWORD)
    assert passwords.verify(stored, "x" * MAX_PASSWORD)
    assert not passwords.verify(stored, "x" * (MAX_PASSWORD + 1))
    assert passwords.checks == 2


def test_generated_ones_differ() -> None:
    assert len({generate() for _ in range(50)}) == 50
    assert len(generate()) == 23


def test_old_parameters_are_noticed() -> None:
    passwords = Counting(Hands())
    assert not passwords.outdated(passwords.hash("x"))
    assert Passwords(Hands()).outdated(passwords.hash("x"))


def test_the_keys_of_scram_stand_beside_the_hash() -> None:
    passwords = Counting(Hands())
    stored = passwords.hash("x")
    keys = passwords.scram(stored)
    assert keys is not None and keys.known and keys == passwords.scram(stored)
    only_hash = stored.partition(" ")[0]
    assert passwords.scram(only_hash) is None and passwords.verify(only_hash, "x")
    completed = passwords.completed(only_hash, "x")
    assert passwords.scram(completed) is not None and passwords.verify(completed, "x")
    assert not passwords.outdated(stored) and passwords.scram("rubbish") is None
