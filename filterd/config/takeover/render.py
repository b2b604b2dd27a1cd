"""A draft as a filterd.toml that `config check` has nothing against.

What the check refuses (a certificate that is not there, a list that has no place) is taken out again, stays as a comment
with the check's words, and its line counts as left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from filterd.config import schema
from filterd.config.edit import literal
from filterd.config.errors import ConfigErrors, Problem, render
from filterd.config.load import parse
from filterd.config.takeover.draft import Draft, Fate, Line, Outcome, Setting, Table
from filterd.config.values import Kind

ROUNDS = 60  # a round takes out one mistake of each table at least


Owner = tuple[str, dict[str, Setting], str]  # what to name it, where it is, its key


class Unusable(Exception):
    """No configuration comes out of it: the text says what is missing."""


@dataclass(slots=True)
class _Written:
    text: str
    owners: dict[int, Owner]
    heads: dict[int, Table]  # which element begins at a line, if the file can do without it


def finished(draft: Draft, path: str, unusable: Callable[[schema.Config, str], tuple[Problem, ...]]) -> str:
    """The file's text; ``draft`` also learns what had to go. Raises Unusable."""
    out: dict[int, str] = {}  # id of a setting -> why it is only a comment
    for _ in range(ROUNDS):
        written = _write(draft, out)
        try:
            config = parse(written.text, path)
            problems = unusable(config, path)
        except ConfigErrors as error:
            problems = error.errors
        if not problems:
            return written.text
        if not _take_out(draft, written, problems, out):
            break
    raise Unusable(render(problems))


def _take_out(draft: Draft, written: _Written, problems: tuple[Problem, ...], out: dict[int, str]) -> bool:
    """The settings that the problems are about; False when none is found."""
    any_found = False
    for problem in problems:
        why = f"{problem.kind}: {problem.text or problem.about}"
        for shown, settings, key in _blamed(draft, written, problem, out):
            setting = settings[key]
            out[id(setting)] = why
            draft.outcomes = [
                one
                for one in draft.outcomes
                if not (one.line == setting.line and one.why.split(":")[0] == shown)
            ]
            draft.outcomes.append(Outcome(setting.line, Fate.LEFT, f"{shown} was refused: {why}"))
            any_found = True
    return any_found


def _blamed(draft: Draft, written: _Written, problem: Problem, out: dict[int, str]) -> list[Owner]:
    """The setting that has to go; all of an element that lacks what it cannot be without."""
    table = written.heads.get(problem.line)
    if table is not None:
        at = (table.head, table.name)
        rest = [key for key, setting in table.settings.items() if id(setting) not in out]
        return [(Draft.shown(key, at), table.settings, key) for key in rest]
    found = written.owners.get(problem.line)
    if found is None or id(found[1][found[2]]) in out:
        found = _owner_of(draft, problem, out)
    return [] if found is None or found[2] in ("name", "hostname") else [found]


def _owner_of(draft: Draft, problem: Problem, out: dict[int, str]) -> Owner | None:
    """By the key that it names: itself, else one of its table (tls.cert is missing: tls.mode has to go)."""
    name = problem.about.split(" ")[0]
    section = name.rpartition(".")[0]
    related = {
        "dkim": ("dkim.key_table", "dkim.signing_table"),
        "server.proxy_trusted": ("server.proxy_listeners",),
    }
    for key in (name, *related.get(name, ()), f"{section}.mode"):
        if key in draft.settings and id(draft.settings[key]) not in out:
            return key, draft.settings, key
    for table in draft.tables:
        for key in table.settings:
            if id(table.settings[key]) not in out and key != "name" and name in (f"{table.head}.{key}", key):
                return Draft.shown(key, (table.head, table.name)), table.settings, key
    return None


def _write(draft: Draft, out: dict[int, str]) -> _Written:
    lines: list[str] = [
        "# Made by `filterd config import`; every key that is not here has its default.",
        "version = 1",
    ]
    owners: dict[int, Owner] = {}
    table_heads: dict[int, Table] = {}

    def put(settings: dict[str, Setting], key: str, name: str, shown: str) -> None:
        setting = settings[key]
        if setting.note:
            lines.append(f"# NOTE {_flat(setting.note)}")
        text = f"{name} = {literal(setting.value, wide=True)}"
        if id(setting) in out:
            lines.append(f"# {text}   # left out: {_flat(out[id(setting)])}")
            return
        lines.append(text + (f"   # {_flat(setting.line.place)}" if setting.line.file else ""))
        owners[len(lines)] = (shown, settings, key)

    heads = [key for key in _tables() if not key.endswith("]")]
    for head in sorted({key.rpartition(".")[0] for key in draft.settings}, key=heads.index):
        lines += ["", f"[{head}]"]
        for key in draft.settings:
            if key.rpartition(".")[0] == head:
                put(draft.settings, key, key.rpartition(".")[2], key)
    for table in _ordered(draft):
        gone = all(id(setting) in out for setting in table.settings.values())
        lines += ["", f"{'# ' if gone else ''}[[{table.head}]]"]
        if table.head != "domain":
            table_heads[len(lines)] = table
        for key in table.settings:
            put(table.settings, key, key, Draft.shown(key, (table.head, table.name)))
    lines += list(_remarks(draft))
    return _Written("\n".join(lines) + "\n", owners, table_heads)


def _tables() -> list[str]:
    """Every table of the schema in the order of a file."""
    return ["", *(key.name for key in schema.all_keys() if key.section and key.kind is Kind.TABLE)]


def _ordered(draft: Draft) -> list[Table]:
    heads = ["domain", "stage.milters", "queue.route", "queue.tls_policy"]
    return sorted(draft.tables, key=lambda table: heads.index(table.head))


def _remarks(draft: Draft) -> Iterator[str]:
    left = [one for one in draft.outcomes if one.fate is Fate.LEFT]
    if draft.accounts:
        yield ""
        yield "# Accounts to make (`filterd account add ADDRESS`; mail that is there: `filterd help store`):"
        yield from (f"#   {address}" for address in draft.accounts)
    if left:
        yield ""
        yield "# Not taken over:"
        yield from (f"#   {told(one)}" for one in left)


def told(outcome: Outcome) -> str:
    line: Line = outcome.line
    return f"{line.place}  {_flat(line.shown)[:100]}   {_flat(outcome.why)}"


def _flat(text: str) -> str:
    """One line, whatever the foreign file held."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
