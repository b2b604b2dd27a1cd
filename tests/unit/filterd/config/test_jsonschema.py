"""The JSON Schema says what the reader takes: every shipped file passes, slips are found, both agree on single values.

The validator here knows just the words that our schema uses; tests/peers/test_jsonschema.py asks a real one.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from filterd.config import describe, schema
from filterd.config.jsonschema import DIALECT, document
from filterd.config.load import parse
from filterd.config.values import BadValue, Kind, read

ROOT = Path(__file__).resolve().parents[4]
SMALL = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n'
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def faults(node: dict, value: object, at: str = "") -> Iterator[str]:
    """What this value does against the schema."""
    for word, wanted in node.items():
        match word:
            case "type":
                number = wanted in ("integer", "number")
                if not isinstance(value, TYPES[wanted]) or (number and isinstance(value, bool)):
                    yield f"{at}: not {wanted}"
            case "enum" if value not in wanted:
                yield f"{at}: none of {wanted}"
            case "const" if value != wanted:
                yield f"{at}: not {wanted}"
            case "pattern" if isinstance(value, str) and not re.search(wanted, value):
                yield f"{at}: {value!r} is not {wanted}"
            case "minimum" if isinstance(value, (int, float)) and value < wanted:
                yield f"{at}: below {wanted}"
            case "maximum" if isinstance(value, (int, float)) and value > wanted:
                yield f"{at}: above {wanted}"
            case "minItems" if isinstance(value, list) and len(value) < wanted:
                yield f"{at}: too few"
            case "items" if isinstance(value, list):
                for number, item in enumerate(value):
                    yield from faults(wanted, item, f"{at}[{number}]")
            case "anyOf" if all(any(faults(one, value)) for one in wanted):
                yield f"{at}: {value!r} fits nothing"
            case "required" if isinstance(value, dict):
                yield from (f"{at}.{name} is missing" for name in wanted if name not in value)
            case "propertyNames" if isinstance(value, dict):
                for name in value:
                    yield from faults(wanted, name, at)
            case "additionalProperties" if isinstance(value, dict):
                for name, item in value.items():
                    inner = node.get("properties", {}).get(name, wanted)
                    if inner is False:
                        yield f"{at}.{name} is not known"
                    else:
                        yield from faults(inner, item, f"{at}.{name}")
            case _:
                assert word in (
                    "$schema", "title", "description", "default", "properties",
                    "enum", "const", "pattern", "minimum", "maximum", "minItems", "items", "anyOf", "required",
                    "propertyNames", "additionalProperties",
                ), f"the validator does not know {word}"  # fmt: skip


def shipped() -> Iterator[tuple[str, str]]:
    yield "sample", describe.sample()
    yield "the smallest", SMALL
    for page in [ROOT / "README.md", *(ROOT / "filterd" / "docs").rglob("*.md")]:
        for number, block in enumerate(
            re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
        ):
            whole = block if "[server]" in block else block + ("" if "[[domain]]" in block else SMALL)
            whole = whole if "[server]" in whole else whole + SMALL.partition("[[")[0]
            yield f"{page.name}:{number}", whole


@pytest.mark.parametrize(("name", "text"), [pytest.param(*one, id=one[0]) for one in shipped()])
def test_what_is_shipped_passes(name: str, text: str) -> None:
    assert list(faults(document(), tomllib.loads(text))) == []


def test_the_uncommented_sample_passes() -> None:
    text = "\n".join(
        line[2:] if line.startswith("# ") else line for line in describe.sample().split("\n")[3:]
    )
    sample = tomllib.loads(text)
    del sample["domain"][0]["dkim"]  # shown, without the values that only a person knows
    assert list(faults(document(), sample)) == []


@pytest.mark.parametrize(
    "slip",
    [
        "hostnam = 1", "[server]\nworkers = 0", "[log]\nlevel = \"loud\"", "[limits]\nrecipients = -1",
        "[limits]\nmessage_size = \"5 parsecs\"", "[queue]\nmax_age = \"5\"", "[stage.clamav]\nfuond = \"tag\"",
        "[listen]\nsmtp = [25]", "[pipeline]\nincoming = [\"spam\"]", "version = 2", "[queue]\nrelay = \"mail.example\"",
        "[[stage.milters]]\nname = \"x\"", "[tls]\nallow_plaintext_login = \"yes\"",
    ],
)  # fmt: skip
def test_slips_are_found(slip: str) -> None:
    first = slip if slip.startswith("version") else ""
    document_ = tomllib.loads(f"{first}\n{SMALL}") if first else tomllib.loads(SMALL)
    if not first:
        for table, inner in tomllib.loads(slip).items():
            document_[table] = {**document_.get(table, {}), **inner} if isinstance(inner, dict) else inner
    assert list(faults(document(), document_)), slip


VALUES: list[object] = [
    "", "x", "auto", "AUTO", True, False, 0, 1, -1, 1.5, "5m", "1h 30m", "5", "25 S", "50 MiB", "1.5g", "5 Ki", "[::]:25", "25",
    ":25", "unix:/run/x", "/run/x", "fd:smtp", "inet:8891@127.0.0.1", "127.0.0.1", "10.0.0.0/8", "::1", "ann@example.org",
    "example.org", ".example.org", "<>", "smtp://h:25", "lmtp:unix:/x", "smtps://u:p@h", "file:x", "hash:/etc/x", [], ["5m"],
    ["127.0.0.1:53"], [1], {}, {"info": "ann@example.org"}, {"a@b": "x@y.z"}, {"a": []}, "pcre:/x", "any", "reject",
]  # fmt: skip


def test_the_reader_takes_nothing_that_the_schema_refuses() -> None:
    wrong = []
    nodes = {key.name: key for key in schema.all_keys() if not key.section and key.name != "version"}
    for name, key in nodes.items():
        node = document()
        for part in name.replace("[]", ".[]").split("."):
            node = node["items"] if part == "[]" else node["properties"][part]
        for value in VALUES:
            try:
                read(key.kind, copy.deepcopy(value), key.choices)
            except BadValue:
                continue
            if found := list(faults(node, value)):
                wrong.append(f"{name} ({key.kind.name}): {found}")
    assert not wrong, "\n".join(wrong)


def test_every_key_is_in_it_with_its_words() -> None:
    node = document()
    assert node["$schema"] == DIALECT and node["additionalProperties"] is False
    for key in schema.all_keys():
        at = node
        for part in key.name.replace("[]", ".[]").split("."):
            at = at["items"] if part == "[]" else at["properties"][part]
        assert key.doc in at["description"]
        if not key.section and not key.required:
            assert not list(faults(at, at["default"])), key.name
        if key.kind is Kind.CHOICE:
            assert at["enum"] == list(key.choices)


def test_the_smallest_file_is_the_smallest() -> None:
    assert parse(SMALL)
    for cut in ("hostname", "name", "[server]"):
        text = "\n".join(line for line in SMALL.splitlines() if not line.startswith(cut))
        assert list(faults(document(), tomllib.loads(text))), cut
