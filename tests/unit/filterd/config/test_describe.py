"""The sample, the manual and the explanations come from the schema and are right."""

from filterd.config import describe, schema
from filterd.config.load import parse
from filterd.config.values import Kind

GOOD = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n'


def test_the_sample_is_a_valid_file() -> None:
    config = parse(describe.sample())
    assert config == parse(GOOD)


def test_the_sample_uncommented_is_valid_and_changes_nothing() -> None:
    lines = [line[2:] if line.startswith("# ") else line for line in describe.sample().split("\n")[3:]]
    cut = next(index for index, line in enumerate(lines) if line.startswith("[domain.dkim]"))
    end = next(index for index in range(cut + 1, len(lines)) if lines[index].startswith("["))
    config = parse("\n".join(lines[:cut] + lines[end:]))
    assert config.pipeline == schema.Pipeline()
    assert config.stage == schema.Stages()
    assert config.limits == schema.Limits()


def test_every_key_is_documented_everywhere() -> None:
    sample, manual = describe.sample(), describe.manual()
    for key in schema.all_keys():
        name = key.name.replace("[]", "")
        assert len(key.doc) > 10, name
        assert describe.explain(name), name
        if not key.section:
            assert f"`{name}`" in manual
            assert f"{name.rpartition('.')[2]} = " in sample


def test_explain_tells_choices_default_and_environment() -> None:
    text = describe.explain("stage.clamav.found") or ""
    assert "reject, quarantine, tag" in text and '"reject"' in text and "FILTERD_STAGE__CLAMAV__FOUND" in text
    assert describe.explain("[listen]") == describe.explain("listen")
    assert describe.explain("no.such") is None
    assert describe.suggest("fuond") == "" or "found" in describe.suggest("fuond")
    assert describe.suggest("found") == 'did you mean "stage.clamav.found"?'


def test_values_in_force_with_origin() -> None:
    config = parse(GOOD + '[limits]\nmessage_size = "10 MiB"\n', "f.toml")
    rows = {key: (value, origin) for key, value, origin in describe.values(config)}
    assert rows["limits.message_size"] == ('"10 MiB"', "f.toml:6")
    assert rows["queue.retry"] == ('["5m", "15m", "1h", "4h", "8h"]', "default")
    assert rows["domain[0].name"] == ('"example.org"', "f.toml:4")


def test_secrets_are_hidden() -> None:
    config = parse(
        GOOD + '[srs]\nsecrets = ["very secret indeed"]\n[queue]\nrelay = "smtp://me:pass@h.example:25"\n'
    )
    shown = "\n".join(value for _, value, _ in describe.values(config))
    assert "very secret" not in shown and "pass@" not in shown


def test_values_read_back() -> None:
    assert describe.toml_value(Kind.DURATION, 90.0) == '"90s"'
    assert describe.toml_value(Kind.SWITCH, "off") == "false"
    assert describe.toml_value(Kind.TEXTS, ("a", 'b"')) == '["a", "b\\""]'
