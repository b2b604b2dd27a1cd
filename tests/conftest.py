"""What all tests share: no deadline for a single example, because a busy machine is no failure."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("filterd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("filterd")
