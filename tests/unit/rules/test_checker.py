"""What the checker reports: all errors, at their places, with a cure."""

from __future__ import annotations

import pytest

from rules.compiler import compile_script
from rules.errors import ScriptErrors, render
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import Limits
from rules.mail.message import Message
from rules.simplehost import SimpleHost


def errors(text: str) -> list[tuple[int, int, str]]:
    try:
        compile_script(text)
    except ScriptErrors as caught:
        return [(error.line, error.column, error.code) for error in caught.errors]
    return []


def codes(text: str) -> list[str]:
    return [code for _, _, code in errors(text)]


def warnings(text: str, own: tuple[str, ...] = ()) -> list[tuple[int, str]]:
    return [(warning.line, warning.code) for warning in compile_script(text, own_addresses=own).warnings]


def test_all_errors_of_a_script() -> None:
    text = (
        'require ["fileinto", "nonsense"];\n'
        "fileinto 3;\n"
        'if heder "a" "b" { keep; }\n'
        'fileinto :copy "a";\n'
        'redirect "x";\n'
        "keep\n"
    )
    assert errors(text) == [
        (1, 22, "unknown-capability"),
        (2, 10, "arguments"),
        (3, 4, "unknown-test"),
        (4, 10, "missing-require"),
        (5, 10, "address"),
        (7, 1, "semicolon"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('fileinto "a";', "missing-require"),
        ("keep; require [];", "syntax"),
        ('keep; require "fileinto";', "require-place"),
        ("else { keep; }", "elsif-place"),
        ("if true { } keep; elsif true { }", "elsif-place"),
        ("if true, false { }", "syntax"),
        ("if (true, false) { }", "tests"),
        ("if anyof true { }", "tests"),
        ("if true;", "block"),
        ("keep { }", "block"),
        ("keep true;", "tests"),
        ('keep redirect "a@b";', "semicolon"),
        ('if header :is :contains "a" "b" { }', "tag-conflict"),
        ('if header :is :is "a" "b" { }', "tag-twice"),
        ('if header :comparator "i;nope" "a" "b" { }', "comparator"),
        (
            'require "comparator-i;ascii-numeric";if header :contains :comparator "i;ascii-numeric" "a" "b" { }',
            "comparator",
        ),
        ('if header :comparator "i;ascii-numeric" "a" "b" { }', "missing-require"),
        ('if address "subject" "b" { }', "address-header"),
        ('if header matches "a" "b" { }', "arguments"),
        ("if size { }", "arguments"),
        ('require "envelope"; if envelope "cc" "b" { }', "envelope-part"),
        ('require "variables"; set "1" "x";', "variable-name"),
        ('require "variables"; set "a.b" "x";', "variable-name"),
        ('require "variables"; set "${a}" "x";', "constant"),
        ('require "variables"; set :lower :upper "a" "x";', "tag-conflict"),
        ('require "variables"; set "a" "${nope.x}";', "variable"),
        ('require "variables"; set "a" "${33}";', "variable"),
        ('require "encoded-character"; redirect "${unicode:d800}";', "encoded-character"),
        ('require "relational"; if header :count "xx" "a" "1" { }', "relation"),
        ('require "regex"; if header :regex "a" "[" { }', "regex"),
        ('require "include"; include "a/b";', "script-name"),
        ('require "include"; global "a";', "missing-require"),
        ('require ["date"]; if currentdate :zone "+5" "hour" "01" { }', "time-zone"),
        ('require ["date"]; if currentdate "hours" "01" { }', "date-part"),
        ('require ["index"]; if header :last "a" "b" { }', "tag-requires"),
        ('require ["vacation"]; vacation :seconds 3 "x";', "missing-require"),
        ('require ["vacation-seconds"]; vacation :seconds 3 :days 2 "x";', "tag-conflict"),
        ('require ["fcc", "mailbox", "vacation"]; vacation :create "x";', "tag-requires"),
        (
            'require ["mailboxid", "special-use", "fileinto"]; fileinto :mailboxid "a" :specialuse "\\\\Junk" "b";',
            "tag-conflict",
        ),
    ],
)
def test_one_error(text: str, code: str) -> None:
    assert code in codes(text)
    assert len(codes(text)) <= 2


def test_did_you_mean() -> None:
    with pytest.raises(ScriptErrors) as caught:
        compile_script('if header :contans "a" "b" { kepe; }')
    cures = " ".join(error.cure for error in caught.value.errors)
    assert ":contains" in cures and "keep" in cures
    with pytest.raises(ScriptErrors) as caught:
        compile_script('requir "fileinto"; keep;')
    assert "require" in caught.value.errors[0].cure


def test_unknown_words_are_told_once() -> None:
    assert codes("foo; foo; foo; bar;") == ["unknown-command", "unknown-command"]


def test_a_broken_statement_has_no_aftermath() -> None:
    assert codes('require ["fileinto" "copy"];\nfileinto :copy "a";\n') == ["syntax"]
    assert codes("if not { keep; } elsif true { keep; } else { stop; }") == ["tests"]


def test_error_limit() -> None:
    with pytest.raises(ScriptErrors) as caught:
        compile_script("keep 1;" * 1000, limits=Limits(errors=10))
    assert len(caught.value.errors) == 10


def test_capabilities_can_be_restricted() -> None:
    with pytest.raises(ScriptErrors) as caught:
        compile_script('require "fileinto";', capabilities=["envelope"])
    assert "switched off" in caught.value.errors[0].message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stop;\nkeep;", [(2, "dead-code")]),
        ('if header :contains "a" "" { keep; }', [(1, "broad-contains")]),
        ('if header "a" "b" { stop; }\nif header "a" "b" { keep; }', [(2, "shadowed")]),
        ('if header "a" ["b", "c"] { stop; }\nif header "a" "c" { keep; }', [(2, "shadowed")]),
        ('if header "a" "b" { stop; }\nif header "a" ["b", "c"] { keep; }', []),
        ('if header "a" "b" { keep; }\nif header "a" "b" { keep; }', []),
        ('if header "a" "b" { stop; } elsif true { keep; }\nif header "a" "b" { keep; }', [(2, "shadowed")]),
        ("if anyof (true, size :over 5) { stop; }\nif anyof (true, size :over 5) { keep; }", []),
        ("if not size :over 5 { stop; }\nif not size :over 5 { keep; }", [(2, "shadowed")]),
        (
            'require "editheader"; if header "a" "b" { stop; } deleteheader "a";\nif header "a" "b" { keep; }',
            [],
        ),
        ("if true { stop; }\nkeep;", [(2, "dead-code")]),
        (
            'if not false { keep; }\nelsif header "a" "b" { stop; }\nelse { stop; }',
            [(2, "dead-code"), (3, "dead-code")],
        ),
        ('if false { keep; }\nif header "a" "b" { keep; }', [(1, "dead-code")]),
        ("if false { keep; } else { stop; }\nkeep;", [(1, "dead-code"), (2, "dead-code")]),
        ("if true { keep; }\nkeep;", []),
        (
            'if header :contains "a" "Spam" { stop; }\nif header :contains "a" "spammy" { keep; }',
            [(2, "shadowed")],
        ),
        ('if header :contains "a" "spammy" { stop; }\nif header :contains "a" "spam" { keep; }', []),
        ('if header "a" "spam" { stop; }\nif header "a" ["SPAM"] { keep; }', [(2, "shadowed")]),
        ('if header :contains "A" "pam" { stop; }\nif header :is ["a"] "spam" { keep; }', [(2, "shadowed")]),
        ('if header "a" "pam" { stop; }\nif header :contains "a" "pam" { keep; }', []),
        (
            'if address :all "From" "x@y.z" { stop; }\nif address :is "from" "x@y.z" { keep; }',
            [(2, "shadowed")],
        ),
        ('if address :domain "from" "y.z" { stop; }\nif address "from" "y.z" { keep; }', []),
        (
            'if header :comparator "i;octet" "a" "b" { stop; }\nif header :comparator "i;octet" "a" "B" { keep; }',
            [],
        ),
        (
            'require "regex"; if header :regex "a" "\\\\S" { stop; }\nif header :regex "a" "\\\\s" { keep; }',
            [],
        ),
        ('redirect "me@example.org";', [(1, "redirect-loop")]),
        ('if header "subject:" "b" { }', [(1, "header-name")]),
    ],
)
def test_warnings(text: str, expected: list[tuple[int, str]]) -> None:
    assert warnings(text, ("Me@example.org",)) == expected


def test_ihave() -> None:
    assert errors('require "ihave"; if ihave "nope" { nope :x "y"; } else { keep; }') == []
    assert errors('require "ihave"; if allof (ihave "nope", nope "x") { keep; }') == []
    assert errors('require "ihave"; if ihave "fileinto" { fileinto "a"; } fileinto "b";') == []
    assert errors('require "ihave"; if not ihave "nope" { stop; } nope "x"; if nopetest { }') == []
    assert codes('require "ihave"; if true { nope; }') == ["unknown-command"]
    # section 4: extensions that change how a script is read cannot be tested for
    assert codes('require "ihave"; if ihave "variables" { set "a" "b"; }') == []
    assert compile_script('require "ihave"; if ihave "variables" { set "a" "b"; }').uses == {"ihave"}


def test_facts_of_a_script() -> None:
    script = compile_script('require ["reject", "body"]; if body :contains "a" { reject "b"; }', name="x")
    assert script.can_reject and script.needs_body and not script.header_only
    assert script.name == "x" and script.uses == {"reject", "body"} and len(script.digest) == 64
    plain = compile_script('if header "a" "b" { keep; }')
    assert not plain.can_reject and not plain.needs_body and plain.header_only


def test_render() -> None:
    text = 'keep;\n\tfileinto "x";\n'
    with pytest.raises(ScriptErrors) as caught:
        compile_script(text)
    report = render(caught.value.errors, text, "a.sieve")
    lines = report.splitlines()
    assert lines[0].startswith("a.sieve:2:2: error: ")
    assert lines[1].index("fileinto") == lines[2].index("^")
    assert "cure: " in lines[3]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('if header "a" "b" keep;', [(1, 19, "block")]),
        ("if not true\n  keep;\n", [(2, 3, "block")]),
        ("if true { keep; } else if true { keep; } else { stop; }", [(1, 19, "elsif")]),
        ('require "fileinto"\nfileinto "x";\n', [(1, 1, "semicolon")]),
        ("text: hello\n.\nkeep;\n", [(1, 1, "unterminated-text")]),
        (
            'require "fileinto"; fileinto \u201cx\u201d; keep "y";',
            [(1, 30, "curly-quotes"), (1, 40, "arguments")],
        ),
        ("require 'fileinto';", [(1, 9, "curly-quotes")]),
        ('stop "x" true { keep; }', [(1, 1, "block"), (1, 6, "arguments")]),
    ],
)
def test_one_fault_is_told_once(text: str, found: list[tuple[int, int, str]]) -> None:
    assert errors(text) == found


def test_a_tag_that_was_forgotten_is_named() -> None:
    with pytest.raises(ScriptErrors) as caught:
        compile_script('require "imap4flags"; if size 100K { keep "x"; } if header "a" "b" "c" { stop; }')
    cures = [error.cure for error in caught.value.errors]
    assert cures[:2] == ["is :over or :under missing before it?", "is :flags missing before it?"]
    assert cures[2].startswith("usage: header")


def test_references_are_seen_however_they_are_written() -> None:
    text = 'require ["variables", "fileinto"]; set "a" "x"; fileinto "$\\{a}";'
    action = run([compile_script(text)], Message(b"\r\n"), ScriptEnvelope("", "a@b.example"), SimpleHost())
    assert [getattr(one, "mailbox", "") for one in action.actions] == ["x"]


@pytest.mark.parametrize(
    ("script", "cure"),
    [
        ("frobnicate;", "look at its spelling, or remove it"),
        ("if frobnicate { keep; }", "look at its spelling, or remove it"),
        ("if not { keep; }", "write a test behind it"),
        ("if not (true, false) { keep; }", "join several with anyof (...) or allof (...)"),
        (
            "if allof (true false) { keep; }",
            "end the arguments before it, or write a comma between two tests",
        ),
        (
            "if anyof true, false { keep; }",
            "several tests stand in (...) behind anyof or allof, strings in [...]",
        ),
    ],
)
def test_each_of_these_has_its_cure(script: str, cure: str) -> None:
    with pytest.raises(ScriptErrors) as caught:
        compile_script(script)
    assert cure in [error.cure for error in caught.value.errors]
