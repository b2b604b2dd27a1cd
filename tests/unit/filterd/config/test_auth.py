"""The checks of [auth] and tls.client_ca."""

from pathlib import Path

import pytest

from filterd.config.errors import ConfigErrors
from filterd.config.load import parse

BASE = '[server]\nhostname = "mx.example.org"\n[[domain]]\nname = "example.org"\n'


def problems(text: str, folder: Path) -> str:
    try:
        parse(BASE + text, str(folder / "filterd.toml"))
    except ConfigErrors as error:
        return str(error)
    return ""


def test_defaults() -> None:
    config = parse(BASE)
    assert (config.auth.scram, parse(BASE + "[auth]\nscram = true\n").auth.scram) == ("auto", "on")
    assert not config.auth.scram_without_tls and not config.auth.oauth.keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('[auth.oauth]\nkeys = "https://x.example/"\n', {"auth.oauth.issuer", "auth.oauth.audience"}),
        (
            '[auth.oauth]\nkeys = "http://x.example/"\nissuer = "x"\naudience = "x"\n',
            {"auth.oauth.keys"},
        ),
        ('[auth.oauth]\nkeys = "/absent"\nissuer = "x"\naudience = "x"\n', {"/absent"}),
        (
            '[auth.oauth]\nintrospection = "https://x.example/"\n',
            {"auth.oauth.client_id", "auth.oauth.client_secret"},
        ),
        (
            '[auth.oauth]\nintrospection = "x"\nclient_id = "x"\nclient_secret = ["x"]\n',
            {"auth.oauth.introspection"},
        ),
        ('[auth]\nscram = "sometimes"\n', {"auth.scram"}),
        ('[tls]\nmode = "off"\nclient_ca = "filterd.toml"\n', {"tls.client_ca"}),
    ],
)
def test_what_does_not_hold(text: str, keys: set[str], tmp_path: Path) -> None:
    (tmp_path / "filterd.toml").write_text("")
    told = problems(text, tmp_path)
    assert told and all(key in told for key in keys), told


def test_what_holds(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    oauth = f'[auth.oauth]\nissuer = "https://x"\naudience = "mail"\nkeys = "{tmp_path}/keys.json"\n'
    assert not problems(oauth, tmp_path)
    warned = parse(BASE + "[auth]\nscram_without_tls = true\n").warnings
    assert [one.about for one in warned] == ["auth.scram_without_tls"]
