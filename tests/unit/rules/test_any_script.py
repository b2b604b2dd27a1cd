"""Random scripts over the whole registry: compiling reports or succeeds, running never raises."""

from __future__ import annotations

import random

import pytest

from rules.actions import Keep
from rules.ast import quote
from rules.compiler import compile_script
from rules.errors import ScriptErrors
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import Limits
from rules.mail.message import Message
from rules.registry import CommandSpec, Kind, Tests, TestSpec, default_registry
from rules.simplehost import SimpleHost

_WORDS = [
    "", "a", "subject", "from", "to", "a@b.example", "*", "?x*", "${1}", "${a}", "${hex:00}", "\\Seen", "\\Junk", "text", "year",
    "+0100", "mailto:a@b.example", "2026-01-01T00:00:00Z", "gt", "i;octet", "i;ascii-numeric", "FULL", "NEVER", "return", "inner",
    "(a+)+", "[", "/private/x", "é", "x" * 300, "Content-Type: text/plain\r\n\r\nx", "online", ":addrbook:default", "1", "notify",
]  # fmt: skip
_MAILS = [
    b"",
    b"Subject: a\r\nFrom: Joe <a@b.example>\r\nTo: me@example.org\r\nMessage-ID: <x@y>\r\n"
    b"Date: 1 Jan 2026 00:00:00 +0000\r\n\r\nbody\r\n",
    b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n<b>x\n--b--\n",
    bytes(range(256)) * 4,
]


class Maker:
    """Draws scripts out of the registry: mostly right arguments, sometimes wrong ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.registry = default_registry()

    def value(self, kind: Kind) -> str:
        if self.random.random() < 0.02:
            kind = self.random.choice(list(Kind))
        if kind is Kind.NUMBER:
            return str(self.random.choice([0, 1, 2, 60, 2**31, 2**64 - 1]))
        if kind is Kind.STRING or self.random.random() < 0.5:
            return quote(self.random.choice(_WORDS))
        return (
            "[" + ", ".join(quote(self.random.choice(_WORDS)) for _ in range(self.random.randint(1, 3))) + "]"
        )

    def words(self, spec: CommandSpec | TestSpec) -> str:
        out = []
        for tag in self.registry.tags_of(spec).values():
            if self.random.random() < 0.12:
                out.append(f":{tag.name}" + (" " + self.value(tag.kind) if tag.kind is not None else ""))
        self.random.shuffle(out)
        for param in spec.params:
            if not param.optional or self.random.random() < 0.5:
                out.append(self.value(param.kind))
        return " ".join([spec.name, *out])

    def test(self, depth: int = 0) -> str:
        specs = list(self.registry.tests.values())
        spec = self.random.choice(specs)
        while depth > 3 and spec.tests is not Tests.NONE:
            spec = self.random.choice(specs)
        text = self.words(spec)
        if spec.tests is Tests.ONE:
            return f"{text} {self.test(depth + 1)}"
        if spec.tests is Tests.LIST:
            return f"{text} ({', '.join(self.test(depth + 1) for _ in range(self.random.randint(1, 3)))})"
        return text

    def command(self, depth: int = 0) -> str:
        specs = [spec for spec in self.registry.commands.values() if spec.name not in ("elsif", "else")]
        spec = self.registry.commands["if"] if self.random.random() < 0.4 else self.random.choice(specs)
        text = self.words(spec)
        if spec.tests is Tests.ONE:
            text += " " + self.test()
        if not spec.block:
            return text + ";"
        count = self.random.randint(0, 3) if depth < 3 else 0
        return text + " { " + " ".join(self.command(depth + 1) for _ in range(count)) + " }"

    def script(self) -> str:
        names = [name for name in self.registry.default if self.random.random() < 0.97]
        return f"require [{', '.join(map(quote, names))}];\n" + "\n".join(
            self.command() for _ in range(self.random.randint(1, 6))
        )


def try_one(seed: int) -> bool:
    maker = Maker(seed)
    text = maker.script()
    try:
        script = compile_script(text)
    except ScriptErrors as caught:
        assert caught.errors and all(error.line >= 1 and error.message for error in caught.errors)
        return False
    host = SimpleHost(addresses=["me@example.org"], spam=(1.0, 5.0), scripts={("personal", "inner"): "keep;"})
    for mail in _MAILS:
        result = run(
            [script],
            Message(mail),
            ScriptEnvelope("a@b.example", "me@example.org"),
            host,
            limits=Limits(steps=5000),
        )
        assert "internal error" not in (result.error or ""), (result.error, text)
        if result.error is not None:
            assert result.actions == [Keep(implicit=True)]
    return True


def test_random_scripts() -> None:
    assert sum(try_one(seed) for seed in range(1500)) > 50


@pytest.mark.fuzz
def test_random_scripts_at_length() -> None:
    assert sum(try_one(seed) for seed in range(10_000, 16_000)) > 300
