"""Sections become the settings of the parts that use them."""

from filterd.config.bridge import filled
from filterd.config.load import parse
from pipeline.stages import STAGES

GOOD = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n'


def test_every_stage_gets_its_section() -> None:
    config = parse(GOOD + '[stage.spamassassin]\nsocket = "127.0.0.1:7783"\nparallel = 2\nenabled = true\n')
    for entry in STAGES:
        section = config.srs if entry.name == "srs" else getattr(config.stage, entry.name)
        made = filled(section, entry.settings)
        assert isinstance(made, entry.settings)
    made = filled(config.stage.spamassassin, next(e.settings for e in STAGES if e.name == "spamassassin"))
    assert (made.socket, made.parallel, made.enabled) == ("127.0.0.1:7783", 2, "on")
