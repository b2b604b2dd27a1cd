"""``[[stage.milters]]``, ``listen.milter`` and ``[milter]``: from the file to the stage and the door."""

from __future__ import annotations

import pytest

from filterd.assembly import stage_settings
from filterd.config import describe
from filterd.config.errors import ConfigErrors
from filterd.config.load import parse
from filterd.config.schema import Config
from pipeline.stages.milters import MilterSettings, MiltersSettings

BASE = '[server]\nhostname = "mx.example.org"\n[[domain]]\nname = "example.org"\n'


def config(text: str = "") -> Config:
    return parse(BASE + text)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as found:
        config(text)
    return [f"{one.line}: {one.kind}: {one.about} {one.text}" for one in found.value.errors]


def test_no_filter_is_needed() -> None:
    made = config()
    assert made.stage.milters == () and not made.listen.milter
    assert stage_settings(made)["milters"] == MiltersSettings()
    assert "milters" in made.pipeline.incoming and "milters" in made.pipeline.outgoing


def test_filters_reach_the_stage_in_their_order() -> None:
    made = config(
        '[[stage.milters]]\nname = "a"\nsocket = "inet:8891@127.0.0.1"\ntimeout = "3s"\non_error = "accept"\n'
        '[[stage.milters]]\nname = "b"\nsocket = "local:/run/b"\nlisteners = ["lmtp", "milter"]\n'
    )
    assert stage_settings(made)["milters"] == MiltersSettings(
        (
            MilterSettings("a", "127.0.0.1:8891", 3.0, "accept"),
            MilterSettings("b", "unix:/run/b", listeners=("lmtp", "milter")),
        )
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[stage.milters]]\nname = "a"\n', "5: missing key: stage.milters.socket"),
        ('[[stage.milters]]\nsocket = "/run/a"\n', "5: missing key: stage.milters.name"),
        ('[[stage.milters]]\nname = "a"\nsocket = "8891"\n', "7: bad value: stage.milters.socket"),
        (
            '[[stage.milters]]\nname = "a"\nsocket = "/a"\non_error = "tempfail"\n',
            "8: bad value: stage.milters.on_error",
        ),
        ('[[stage.milters]]\nname = "a"\nsocket = "/a"\nlisteners = ["smpt"]\n', 'did you mean "smtp"'),
        (
            '[[stage.milters]]\nname = "a"\nsocket = "/a"\n[[stage.milters]]\nname = "a"\nsocket = "/b"\n',
            "two filters",
        ),
        ('[[stage.milters]]\nname = "a"\nsocket = "/a"\ntimout = "3s"\n', 'did you mean "timeout"'),
        ('[milter]\ninternal = ["nowhere"]\n', "milter.internal"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    (problem,) = problems(text)
    assert said in problem


def test_an_open_milter_door_is_warned_of() -> None:
    def warned(address: str) -> bool:
        return any(
            "listen.milter" in one.about for one in config(f'[listen]\nmilter = ["{address}"]\n').warnings
        )

    assert warned("0.0.0.0:8891") and warned(":8891")
    assert not warned("127.0.0.1:8891") and not warned("[::1]:8891") and not warned("unix:/run/m")


def test_the_sample_shows_a_filter_as_an_example() -> None:
    assert "## [[stage.milters]]" in describe.sample()
    assert "stage.milters.on_error" in describe.manual()
