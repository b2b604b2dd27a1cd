"""What the manual shows is true: its commands are understood, its settings are taken, its scripts compile, its limits hold."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

from filterd.cli import COMMANDS
from filterd.cli.parser import Parser
from filterd.config.errors import ConfigErrors
from filterd.config.load import parse
from filterd.config.stages import Stages
from rules.compiler import compile_script
from rules.limits import Limits
from rules.registry import capabilities

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "filterd" / "docs").glob("*.md")}
PAGES["README.md"] = (ROOT / "README.md").read_text("utf-8")
ABSENT = ("no such file", "cannot read")  # files of the reader's machine, not of this one
THEIR_OWN = ("deliver", "sendmail")  # parse their words themselves


def shown(page: str) -> list[str]:
    """The indented and fenced blocks of a page, each as it would be copied; blank lines end an indented one."""
    text = PAGES[page]
    indented = [
        re.sub(r"^    ", "", block, flags=re.M) for block in re.findall(r"(?:^    .*\n)+", text, re.M)
    ]
    return indented + re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)


def command_lines() -> list[tuple[str, str]]:
    """(where, line) of every `filterd ...` at the beginning of a line that is shown, in the manual and in the help texts."""
    texts = [(page, block) for page in PAGES for block in shown(page)]
    texts += [(one.name, importlib.import_module(one.module).__doc__ or "") for one in COMMANDS]
    return [
        (where, line) for where, text in texts for line in re.findall(r"^(?:  )?filterd (\S.*)$", text, re.M)
    ]


def test_commands_are_understood() -> None:
    parsers = {}
    for one in COMMANDS:
        if one.name not in THEIR_OWN:
            parsers[one.name] = Parser(prog=one.name, allow_abbrev=False)
            importlib.import_module(one.module).configure(parsers[one.name])
    wrong, count = [], 0
    for where, line in command_lines():
        words = re.split(r"\s{2,}|\s[#<>|]\s|\s\(", line)[0]  # what stands behind tells what it does
        words = re.sub(
            r"\|\w+", "", words.replace("[", "").replace("]", "")
        )  # spam|ham: either; [--option]: may be there
        command, *rest = shlex.split(words)
        if command in THEIR_OWN:
            continue
        count += 1
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
                parsers[command].parse_args(rest)
        except (SystemExit, KeyError) as error:
            if not isinstance(error, SystemExit) or error.code:
                wrong.append(f"{where}: filterd {line}: {said.getvalue()[-100:]}")
    assert not wrong, "\n".join(wrong)
    assert count > 80  # they are found


@pytest.mark.parametrize("page", sorted(PAGES))
def test_settings_are_taken(page: str) -> None:
    for block in shown(page):
        if not re.match(r"(version = 1\n\s*)?\[\[?[a-z_.]+\]\]?\s*(#.*)?\n", block):
            continue
        text = "" if "version = 1" in block else "version = 1\n"
        if "hostname" not in block:
            host = '[server]\nhostname = "mail.example.org"\n'
            block, found = re.subn(r"^\[server\]\n", host, block, count=1, flags=re.M)
            text += "" if found else host
        if "[[domain]]" not in block:
            text += '[[domain]]\nname = "example.org"\n'
        try:
            parse(text + block, "/nowhere/filterd.toml")
        except ConfigErrors as errors:
            wrong = [str(one) for one in errors.errors if not any(word in str(one) for word in ABSENT)]
            assert not wrong, "\n".join([*wrong, text + block])


def test_scripts_compile() -> None:
    every = {*capabilities(), "vnd.dovecot.pipe", "vnd.dovecot.filter", "vnd.dovecot.execute"}
    scripts = [(page, block) for page in PAGES for block in shown(page) if block.startswith("require")]
    for page, block in scripts:
        assert compile_script(block, capabilities=every), page
    assert len(scripts) >= 7


def test_the_limits_of_scripts_are_those_of_the_manual() -> None:
    one, ours = Stages().sieve.limits, Limits()
    lines = (
        ("redirects, notifications, actions of one run", f"{one.redirects}, {ours.notifies}, {one.actions}"),
        ("CPU time of one run", f"{one.cpu} s"),
        ("steps of one run", f"{ours.steps:,}"),
        ("size of a script, scripts of an account", f"{one.script >> 10} KB, {one.scripts}"),
        ("nesting of blocks, of tests", f"{ours.nesting}"),
        (
            "variables: number, size of one, of all",
            f"{ours.variables}, {ours.variable_size >> 10} KB, {ours.variables_total >> 20} MB",
        ),
        ("includes: number, depth", f"{ours.includes}, {ours.include_depth}"),
        ("a regular expression", f"{ours.regex_size >> 10} KB, {ours.regex_memory >> 20} MB of memory"),
        ("header edits, a field's size", f"{ours.header_edits}, {ours.header_value >> 10} KB"),
        ("body text looked at", f"{ours.body_text >> 20} MB"),
    )
    for what, value in lines:
        assert f"| {what} | {value} |\n" in PAGES["sieve.md"], (what, value)
