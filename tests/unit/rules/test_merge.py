"""Merged runs of rules decide what the rules one by one decide: a differential test against the plain walk."""

from __future__ import annotations

import random

import pytest

from rules.actions import Keep
from rules.compiler import Op, compile_script
from rules.context import Run
from rules.host import ScriptEnvelope
from rules.interpreter import run, start_script
from rules.limits import Limits
from rules.mail.message import Message
from rules.merge import Region
from rules.simplehost import SimpleHost

_WORDS = ["alpha", "beta", "ab", "b", "a", "alphabet", "gamma ray", "x*y", "tag", "[tag]", ""]
_HEAD = 'require ["fileinto", "envelope", "imap4flags", "body", "copy", "relational", "regex"{more}];\n'


def regions(text: str) -> list[Region]:
    code = compile_script(text).code
    return [step.region for step in code if step.op is Op.HOP and step.no < 0 and step.region is not None]


class Maker:
    """Random scripts of rules, most of them mergeable."""

    def __init__(self, seed: int, variables: bool) -> None:
        self.random = random.Random(seed)
        self.variables = variables
        self.count = 0

    def string(self) -> str:
        value = self.random.choice(_WORDS)
        if self.variables and self.random.random() < 0.1:
            value += "${v}${1}"
        return f'"{value}"'

    def strings(self) -> str:
        return "[" + ", ".join(self.string() for _ in range(self.random.randint(1, 3))) + "]"

    def pattern(self) -> str:
        pieces = [
            self.random.choice(["*", "?", "alpha", "b", "tag", "\\\\*"])
            for _ in range(self.random.randint(1, 4))
        ]
        return '"' + "".join(pieces) + '"'

    def leaf(self) -> str:
        match = self.random.choice([":is", ":contains", ":matches"])
        keys = self.pattern() if match == ":matches" else self.strings()
        comparator = self.random.choice(["", "", ':comparator "i;octet"'])
        kind = self.random.randrange(8)
        if kind < 4:
            names = self.random.choice(['"subject"', '["subject", "x-a"]', '"list-id"'])
            return f"header {match} {comparator} {names} {keys}"
        if kind == 4:
            part = self.random.choice([":all", ":localpart", ":domain"])
            return f'address {match} {part} {comparator} ["from", "to"] {keys}'
        if kind == 5:
            return f'envelope {match} {comparator} "from" {keys}'
        if kind == 6:
            return f"body :text {match} {comparator} {keys}"
        simple = ["true", "false", "size :over 10", "size :under 200", 'exists "x-a"', 'hasflag "f1"']
        simple += ['exists ["subject", "x-a"]', 'header :count "ge" "x-a" ["1", "2"]', 'hasflag ["f0", "f2"]']
        simple += [
            f'header :value "{self.random.choice(("gt", "ge", "lt", "le", "eq", "ne"))}" "subject" {keys}'.replace(
                keys, self.strings()
            )
        ]
        simple += ['header :regex "subject" "^al.ha"', 'header :regex ["x-a", "list-id"] "bet?a*$"']
        if self.variables:
            simple += [
                'string :contains "${v}" "x"',
                'string "${1}" ["alpha", ""]',
                'string :matches "${v}" "*x"',
            ]
        return self.random.choice(simple)

    def test(self, depth: int = 0) -> str:
        kind = self.random.randrange(8) if depth < 3 else 0
        if kind < 5:
            return self.leaf()
        if kind == 5:
            return "not " + self.test(depth + 1)
        inner = ", ".join(self.test(depth + 1) for _ in range(self.random.randint(1, 3)))
        return f"{'anyof' if kind == 6 else 'allof'} ({inner})"

    def block(self, depth: int) -> str:
        self.count += 1
        name = f"f{self.count % 12}" + (".${1}.${0}" if self.variables else "")
        out = [f'fileinto :copy "{name}";']
        if self.random.random() < 0.2:
            out.append(f'addflag "f{self.random.randrange(3)}";')
        if self.variables and self.random.random() < 0.3:
            out.append('set "v" "${1}x";')
        if depth < 2 and self.random.random() < 0.15:
            out.append(self.rules(self.random.randint(1, 6), depth + 1))
        if self.random.random() < 0.05:
            out.append('addheader "Subject" "gamma ray";')
        if self.random.random() < 0.25:
            out.append("stop;")
        return "{ " + " ".join(out) + " }"

    def rules(self, number: int, depth: int = 0) -> str:
        out: list[str] = []
        for _ in range(number):
            rule = f"if {self.test()} {self.block(depth)}"
            while self.random.random() < 0.3:
                rule += f" elsif {self.test()} {self.block(depth)}"
            if self.random.random() < 0.2:
                rule += f" else {self.block(depth)}"
            out.append(rule)
            if self.random.random() < 0.05:
                out.append(
                    self.random.choice(
                        ["discard;", 'addflag "f1";', 'setflag "f0";', 'fileinto :copy "plain";']
                    )
                )
        return "\n".join(out)

    def script(self) -> str:
        more = ', "variables"' if self.variables else ""
        return _HEAD.format(more=more + ', "editheader"') + self.rules(self.random.randint(3, 14))

    def mail(self) -> bytes:
        def words() -> bytes:
            return " ".join(self.random.choice(_WORDS) for _ in range(self.random.randint(0, 3))).encode()

        fields = [b"Subject: " + words(), b"X-A: " + words(), b"X-A: " + words(), b"List-Id: " + words()]
        self.random.shuffle(fields)
        fields = fields[: self.random.randint(0, 4)] + [b"From: alpha@beta, b@a", b"To: Tag <ab@alpha>"]
        return b"\r\n".join(fields) + b"\r\n\r\n" + words() + b"\r\n"


def compare(seed: int, variables: bool) -> int:
    maker = Maker(seed, variables)
    script = compile_script(maker.script())
    limits = Limits(actions=1000)
    for _ in range(4):
        mail = Message(maker.mail())
        envelope = ScriptEnvelope(maker.random.choice(["alpha@beta", "b@tag", ""]), "me@x")
        merged = run([script], mail, envelope, SimpleHost(), limits=limits)
        plain = run([script], mail, envelope, SimpleHost(), limits=limits, merge=False)
        assert merged.error == plain.error, script.text
        assert merged.actions == plain.actions, script.text
    return sum(step.op is Op.HOP and step.no < 0 for step in script.code)


@pytest.mark.parametrize("variables", [False, True])
def test_merged_is_unmerged(variables: bool) -> None:
    assert sum(compare(seed, variables) for seed in range(60)) > 20


@pytest.mark.fuzz
@pytest.mark.parametrize("variables", [False, True])
def test_merged_is_unmerged_at_length(variables: bool) -> None:
    assert sum(compare(seed, variables) for seed in range(1000, 1500)) > 100


def rules(
    number: int, test: str = 'header :contains "subject" "word{0}x"', block: str = 'fileinto "a{0}"; stop;'
) -> str:
    body = "".join(f"if {test.format(index)} {{ {block.format(index)} }}\n" for index in range(number))
    return (
        'require ["fileinto", "variables", "editheader", "duplicate", "regex", "imap4flags", "relational", "date", '
        '"copy", "body"];\n' + body
    )


MAIL = b"From: boss@corp.example\r\nSubject: a word7x\r\n\r\nbody\r\n"


def candidates(text: str, mail: bytes = MAIL) -> list[int]:
    """The rules that the first region of a script does not leave out."""
    script = compile_script(text)
    envelope = ScriptEnvelope("a@b", "c@d")
    state = Run(Message(mail), envelope, SimpleHost(), Limits(), trace=False)
    start_script(state, script)
    (region,) = [step.region for step in script.code if step.op is Op.HOP and step.no < 0 and step.region]
    return [number for number, bit in enumerate(region.candidates(state)) if bit == "1"]


@pytest.mark.parametrize(
    ("test", "block", "left"),
    [
        ('header :contains "subject" "word{0}x"', "stop;", [7]),
        ('header :contains "subject" "word{0}x"', 'fileinto :copy "a";', [7]),
        ('header :contains "subject" "word{0}x"', 'addflag "b"; set "v" "x";', [7]),
        ('not header :contains "subject" ["word", "x{0}"]', "stop;", []),
        ('not header :contains "subject" "word{0}x"', "stop;", [n for n in range(50) if n != 7]),
        ('allof (exists "from", not header :is "from" "x{0}", header "subject" "a word{0}x")', "stop;", [7]),
        ("allof (size :over {0}, size :under 9)", "stop;", []),
        ("size :over {0}", "stop;", list(range(50))),
        ("size :over 1{0}M", "stop;", []),
        ('anyof (size :over 1M, header "subject" "a word{0}x")', "stop;", [7]),
        ('exists "x-{0}"', "stop;", []),
        ('exists ["subject", "x-{0}"]', "stop;", []),
        ('not exists ["subject", "from"]', "stop;", []),
        ('exists "from"', 'if header "subject" "a word{0}x" {{ stop; }}', [7]),
        ('header :matches "subject" "*wo?d{0}x"', "stop;", [7]),
        ('header :matches "subject" "a*"', "stop;", list(range(50))),
        ('header :regex "subject" "^a.*word{0}x$"', "stop;", [7]),
        ('header :count "gt" "subject" "{0}"', "stop;", [0]),
        ('header :value "le" :comparator "i;octet" "subject" "a word{0}"', "stop;", [8, 9]),
        ('allof (duplicate, header "subject" "a word{0}x")', "stop;", list(range(50))),
        ('allof (header "subject" "a word{0}x", duplicate)', "stop;", [7]),
        ('string "${{v}}" "{0}"', "stop;", []),
        ('string "${{v}}" "{0}"', 'set "v" "x";', None),
        ('hasflag "f{0}"', "stop;", []),
        ('hasflag "f{0}"', 'addflag "x";', None),
        ('currentdate :value "lt" "year" "1{0}"', "stop;", [0, 1]),
        ('header :contains "subject" ""', "stop;", list(range(50))),
        ('header :contains "x-y" ""', "stop;", []),
    ],
)
def test_what_is_left_out(test: str, block: str, left: list[int] | None) -> None:
    text = rules(50, test, block)
    if test.startswith("currentdate"):
        assert candidates(text) == []
    elif left is None:
        assert regions(text) == [] or candidates(text) == list(range(50))
    elif test.startswith("header :value"):
        assert set(candidates(text)) == {n for n in range(50) if f"A WORD{n}" >= "A WORD7X"}
    else:
        assert candidates(text) == left


def test_captures_count_only_where_match_variables_are_used() -> None:
    test = 'allof (header :matches "subject" "*x", header "from" "boss{0}")'
    assert candidates(rules(50, test)) == []
    used = rules(50, test) + 'fileinto "${1}";'
    assert candidates(used)[:50] == list(range(50))


def test_plain_commands_between_rules() -> None:
    text = "".join(
        f'addflag "k{index % 3}";\nif header :contains "subject" "word{index}x" {{ addflag "hit"; }}\n'
        for index in range(20)
    )
    script = compile_script('require ["imap4flags"];\nif false {}\n' + text)
    assert any(step.op is Op.HOP for step in script.code)
    result = run([script], Message(MAIL), ScriptEnvelope(), SimpleHost())
    (keep,) = result.actions
    assert isinstance(keep, Keep) and set(keep.flags) == {"k0", "k1", "k2", "hit"}


@pytest.mark.parametrize(
    "script",
    [
        rules(50, block='addheader "subject" "x";'),
        rules(50, test='header :contains "subject" "${{v}}"'),
        rules(50, test="duplicate"),
        rules(50, test='header :regex "subject" "(x{0})|y"'),
        rules(50, test='header :matches "subject" "**?"'),
        rules(3),
    ],
)
def test_what_is_not_merged(script: str) -> None:
    assert regions(script) == []


def test_the_body_is_left_alone_when_no_rule_needs_it() -> None:
    test = 'allof (header :contains "subject" "nothing{0}", body :contains "word{0}")'
    script = compile_script(rules(50, test))
    state = Run(Message(MAIL), ScriptEnvelope(), SimpleHost(), Limits(), trace=False)
    start_script(state, script)
    (region,) = regions(rules(50, test))
    assert "1" not in region.candidates(state)
    assert "body" not in state.state


def test_the_dispatch_is_in_the_trace() -> None:
    script = compile_script(rules(50))
    result = run([script], Message(b"Subject: a word7x\r\n\r\n"), ScriptEnvelope(), SimpleHost())
    assert [(step.line, step.what, step.result) for step in result.trace] == [
        (2, "rules", False),
        (9, "header", True),
        (9, "fileinto", None),
        (9, "stop", None),
    ]


def test_hostile_keys_and_values() -> None:
    nested = "".join(
        f'if header :contains "subject" "{"a" * (index + 1)}b" {{ stop; }}\n' for index in range(300)
    )
    script = compile_script('require "fileinto";\n' + nested)
    mail = Message(b"Subject: " + b"a" * 200_000 + b"b\r\n\r\n")
    assert run([script], mail, ScriptEnvelope(), SimpleHost()).error is None


@pytest.mark.fuzz
@pytest.mark.parametrize("variables", [False, True])
def test_large_regions_with_many_shapes(variables: bool) -> None:
    for seed in range(6):
        maker = Maker(seed, variables)
        more = ', "variables"' if variables else ""
        text = "".join(f"if {maker.test()} {maker.block(1)}\n" for _ in range(400))
        text = text.replace('addheader "Subject" "gamma ray";', "").replace("stop;", "")
        script = compile_script(_HEAD.format(more=more + ', "editheader"') + text)
        limits = Limits(actions=2000)
        for _ in range(5):
            mail = Message(maker.mail())
            envelope = ScriptEnvelope(maker.random.choice(["alpha@beta", "b@tag", ""]), "me@x")
            merged = run([script], mail, envelope, SimpleHost(), limits=limits)
            plain = run([script], mail, envelope, SimpleHost(), limits=limits, merge=False)
            assert merged.error == plain.error
            assert merged.actions == plain.actions


@pytest.mark.parametrize(
    "mail", [b"Subject: x\n\na\nb\n\r\nc", b"Subject: x\r\n\r\na\r\n", b"S: \n\n" + b"\n" * 40]
)
def test_limits_of_size_between_the_octets_and_the_virtual_size(mail: bytes) -> None:
    size = len(mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    for word, true in (("over", lambda n: size > n), ("under", lambda n: size < n)):
        text = "".join(f"if size :{word} {n} {{ stop; }}\n" for n in range(120))
        assert candidates(text, mail) == [n for n in range(120) if true(n)]
