"""Passwords: argon2id (RFC 9106) with a short-lived memory of what was verified, and SCRAM's keys beside it.

What is stored is one text: the argon2id hash, then after a blank the keys of ``filterd.proto.sasl_keys`` (absent in accounts
of older versions: ``completed`` adds them when their owner logs in). Both stand together so that they change together.
The only importer of argon2-cffi. A verification costs about 30 ms of one core on purpose: callers run it in the pool. A
mail program that polls every few seconds does not pay it each time: a right password is remembered for a minute, as a
keyed digest (the key lives only in this process), and forgotten when the stored hash changes.
Invariants: a wrong password always costs a full verification; so does a log-in that does not exist (``verify`` with
``stored`` None), so that time tells nobody which names are real.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import unicodedata
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from filterd.proto import sasl_keys
from pipeline.ports import Clock

TIME_COST, MEMORY_KIB, LANES = 2, 19 * 1024, 1  # OWASP's first choice for argon2id
MAX_PASSWORD = 1024  # octets; longer ones are wrong
REMEMBER_SECONDS = 60.0
REMEMBER_MAX = 4096  # entries
GENERATED_GROUPS = 4
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike


def generate() -> str:
    """A password to print once: four groups of five letters, about 99 bits."""
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(GENERATED_GROUPS))
    return "-".join(groups)


def prepared(password: str) -> bytes:
    """RFC 8265 4.2 (OpaqueString) as far as it matters here: other spaces become U+0020, then NFC, then UTF-8."""
    spaced = "".join(" " if unicodedata.category(ch) == "Zs" else ch for ch in password)
    return unicodedata.normalize("NFC", spaced).encode("utf-8", "surrogatepass")


class Passwords:
    """Hashes and verifies; safe to use from several threads."""

    def __init__(self, clock: Clock, *, time_cost: int = TIME_COST, memory_kib: int = MEMORY_KIB) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=LANES)
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._remembered: OrderedDict[bytes, float] = OrderedDict()  # digest -> good until
        self._nobody = ""

    def hash(self, password: str) -> str:
        """What is to be stored."""
        return self.completed(self._hasher.hash(prepared(password)), password)

    @staticmethod
    def completed(stored: str, password: str) -> str:
        """``stored`` with the keys of SCRAM for the password, which was verified."""
        salt = secrets.token_bytes(sasl_keys.SALT_OCTETS)
        return f"{stored.partition(' ')[0]} {sasl_keys.derive(password, salt).text()}"

    @staticmethod
    def scram(stored: str) -> sasl_keys.ScramKeys | None:
        """SCRAM's keys, None when there are none."""
        return sasl_keys.parse(stored.partition(" ")[2])

    def verify(self, stored: str | None, password: str) -> bool:
        """Is ``password`` the one behind ``stored``? None: there is no such account; costs the same, says False."""
        nobody = self._nobody_hash()
        octets = prepared(password)
        if stored is None:
            self._check(nobody, octets[:MAX_PASSWORD])
            return False
        digest = hmac.digest(self._key, stored.encode() + b"\0" + octets, hashlib.sha256)
        if self._is_remembered(digest):
            return True
        if not self._check(stored, octets[:MAX_PASSWORD]) or len(octets) > MAX_PASSWORD:
            return False
        self._remember(digest)
        return True

    def outdated(self, stored: str) -> bool:
        """True when the hash was made with other parameters than today's."""
        try:
            return self._hasher.check_needs_rehash(stored.partition(" ")[0])
        except InvalidHashError:
            return True

    def _check(self, stored: str, octets: bytes) -> bool:
        try:
            return self._hasher.verify(stored.partition(" ")[0], octets)
        except (VerificationError, InvalidHashError):
            return False

    def _nobody_hash(self) -> str:
        """A hash that no password matches, made at the first use whatever that use is."""
        if not self._nobody:
            self._nobody = self._hasher.hash(secrets.token_bytes(32))
        return self._nobody

    def _is_remembered(self, digest: bytes) -> bool:
        with self._lock:
            until = self._remembered.get(digest)
            if until is None:
                return False
            if until <= self._clock.monotonic():
                del self._remembered[digest]
                return False
            return True

    def _remember(self, digest: bytes) -> None:
        with self._lock:
            self._remembered[digest] = self._clock.monotonic() + REMEMBER_SECONDS
            self._remembered.move_to_end(digest)
            while len(self._remembered) > REMEMBER_MAX:
                self._remembered.popitem(last=False)
