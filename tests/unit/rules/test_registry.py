"""The registry is the only source of capability strings, and it is sound."""

from __future__ import annotations

from pathlib import Path

from rules.compiler import compile_script
from rules.ext import EXTENSIONS
from rules.registry import capabilities, default_registry

_BASE = """fileinto envelope encoded-character reject ereject variables vacation vacation-seconds relational imap4flags subaddress
copy body date index environment ihave duplicate editheader include enotify spamtest spamtestplus virustest mailbox mboxmetadata
servermetadata special-use mailboxid fcc extlists envelope-dsn envelope-deliverby redirect-dsn redirect-deliverby regex
comparator-i;octet comparator-i;ascii-casemap comparator-i;ascii-numeric comparator-i;unicode-casemap"""


def test_what_is_announced() -> None:
    announced = capabilities()
    assert set(_BASE.split()) <= set(announced)
    assert len(announced) == len(set(announced))
    assert announced == capabilities()


def test_every_capability_can_be_required() -> None:
    for capability in capabilities():
        assert capability in compile_script(f'require "{capability}";').uses


def test_words_are_whole() -> None:
    registry = default_registry()
    for command in registry.commands.values():
        assert command.link or command.emit or command.name in ("if", "elsif", "else"), command.name
    for test in registry.tests.values():
        assert test.link or test.emit or test.name in ("allof", "anyof", "not") or test.constant, test.name
        assert not test.matches or test.params, test.name
    known = set(registry.known)
    for extension in EXTENSIONS:
        assert extension.__doc__ and extension.dialect, extension.name
        for word in (
            *extension.commands,
            *extension.tests,
            *extension.tags,
            *extension.matches,
            *extension.parts,
        ):
            assert set(word.needs) <= known, word


def test_the_manual_has_every_word() -> None:
    manual = (Path(__file__).parents[3] / "filterd" / "docs" / "sieve.md").read_text("utf-8")
    registry = default_registry()
    missing = [name for name in registry.known if f"`{name}`" not in manual]
    assert missing == []
    for extension in registry.extensions:
        if extension.dialect == "filterd":
            for word in (*extension.commands, *extension.tests):
                assert f"`{word.name} " in manual, word.name


def test_the_examples_of_the_manual_compile() -> None:
    manual = (Path(__file__).parents[3] / "filterd" / "docs" / "sieve.md").read_text("utf-8")
    blocks = [block for block in manual.split("\n\n") if block.startswith("    require")]
    assert len(blocks) == 7
    for block in blocks:
        assert compile_script(block, capabilities=default_registry().known).warnings == []
