"""The registry drives configuration and manual: every entry is complete."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from filterd.ports import SystemClock, SystemIds
from pipeline.errors import PipelineError
from pipeline.registry import StageContext, build, documentation, find
from pipeline.stages import STAGES
from pipeline.stages.clamav import ClamavSettings
from pipeline.zone import Zone, ZoneResolver

CONTEXT = StageContext(SystemClock(), SystemIds(), ZoneResolver(Zone()), "mx.example.org", "mx.example.org")


@pytest.mark.parametrize("entry", STAGES, ids=lambda entry: entry.name)
def test_every_setting_has_a_default_and_a_text(entry) -> None:  # type: ignore[no-untyped-def]  # a parameter
    assert entry.doc.endswith(".")
    entry.settings()
    for key, default, kind, text in documentation(entry.settings):
        assert text and default is not dataclasses.MISSING, key
        assert kind in ("", "duration", "size", "choice", "socket", "patterns", "secrets"), key


def test_names_are_unique() -> None:
    names = [entry.name for entry in STAGES]
    assert len(set(names)) == len(names)


def test_build_makes_the_stages_of_the_list_in_its_order() -> None:
    async def main() -> list[str]:
        stages = build(
            STAGES,
            ["spamassassin", "clamav", "privacy", "srs"],
            {"clamav": ClamavSettings(timeout=3.0)},
            CONTEXT,
        )
        assert stages[1].timeout == 3.0
        return [stage.name for stage in stages]

    assert asyncio.run(main()) == ["spamassassin", "clamav"]


def test_build_refuses_what_it_does_not_know() -> None:
    with pytest.raises(PipelineError, match="clamov"):
        build(STAGES, ["clamov"], {}, CONTEXT)
    with pytest.raises(PipelineError, match="settings of stage clamav"):
        build(STAGES, ["clamav"], {"clamav": CONTEXT}, CONTEXT)
    assert find(STAGES, "srs").create is None
