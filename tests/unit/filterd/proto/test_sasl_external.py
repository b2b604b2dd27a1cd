"""EXTERNAL: whom the certificate names, and nobody else."""

import pytest

from filterd.proto import sasl
from filterd.proto.sasl import Challenge, Channel, Failed, Proof
from filterd.proto.sasl_external import External
from filterd.proto.sasl_offer import Mechanisms

ANN = Channel(names=("Ann@Example.org", "info@example.org"))


def test_the_first_name_or_the_one_that_is_asked_for() -> None:
    assert External(ANN).start(None) == Challenge(b"")
    assert External(ANN).start(b"") == Proof("ann@example.org", True)
    assert External(ANN).respond(b"info@EXAMPLE.org") == Proof("info@EXAMPLE.org", True)
    assert External(ANN).respond(b"bob@example.org") == Proof("bob@example.org", False)
    assert External(ANN).judged(None) is None


@pytest.mark.parametrize("data", [b"a\0b", b"\xff", b"x" * 1000])
def test_malformed(data: bytes) -> None:
    assert isinstance(External(ANN).respond(data), Failed)


def test_offered_only_with_a_certificate() -> None:
    offer = Mechanisms()
    assert "EXTERNAL" in offer.names(ANN, True) and "EXTERNAL" not in offer.names(sasl.NO_CHANNEL, True)
    assert isinstance(offer.begin("external", ANN, True), External)
    assert offer.begin("EXTERNAL", sasl.NO_CHANNEL, True) is sasl.WireFault.UNKNOWN_MECHANISM
