"""Keys for the DKIM tests: made once a session."""

from __future__ import annotations

import pytest

from pipeline.adapters.crypto import PrivateKey, generate


@pytest.fixture(scope="session")
def rsa_key() -> PrivateKey:
    return generate("rsa", 2048)


@pytest.fixture(scope="session")
def ed_key() -> PrivateKey:
    return generate("ed25519")
