"""Scripts of accounts: what PUTSCRIPT, CHECKSCRIPT and SETACTIVE tell their authors."""

from __future__ import annotations

from pathlib import Path

import pytest

from filterd.accounts.scripts import FileScriptStore, ScriptLimits
from filterd.accounts.scripts_base import ScriptStoreError
from filterd.proto.managesieve import answer
from filterd.scripts import ScriptService
from filterd.store.durable import RealDisk

ACCOUNT = "ann@example.org"


@pytest.fixture
def service(tmp_path: Path) -> ScriptService:
    (tmp_path / "ann").mkdir()
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "company.sieve").write_text("keep;\n")
    return ScriptService(
        lambda account: FileScriptStore(str(tmp_path / "ann"), RealDisk(), ScriptLimits()),
        own_addresses=lambda account: [account, "postmaster@example.org"],
        global_dir=tmp_path / "global",
    )


def warned(service: ScriptService, text: str) -> str:
    errors, warnings = service.check(ACCOUNT, text)
    assert errors == []
    return "\n".join(warnings)


def test_every_error_with_its_place(service: ScriptService) -> None:
    errors, warnings = service.check(ACCOUNT, 'keep;\nredirekt "a";\nfileinto "x";\n')
    told = "\n".join(errors)
    assert warnings == [] and "script:2:1: error:" in told and "script:3:1: error:" in told
    assert '    2 | redirekt "a";' in errors and "      | ^" in errors
    assert 'did you mean "redirect"?' in told and 'add "fileinto" to require' in told


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("stop;\nkeep;\n", "dead-code"),
        ('if exists "x" { stop; } else { keep; stop; }\nkeep;\n', "dead-code"),
        ('if header :contains "subject" "" { discard; }\n', "broad-contains"),
        ('redirect "ANN@example.org";\n', "redirect-loop"),
        ('redirect "Ann <ann+list@example.org>";\n', "redirect-loop"),
        ('redirect "Postmaster@Example.Org";\n', "redirect-loop"),
        (
            'if header :is "subject" ["a", "b"] { stop; }\nif header :is "subject" "b" { discard; }\n',
            "shadowed",
        ),
        ('require "include"; include "absent";\n', "include-absent"),
        ('require "include"; include :global "absent";\n', "include-absent"),
    ],
)
def test_warnings(service: ScriptService, text: str, code: str) -> None:
    told = warned(service, text)
    assert "warning:" in told and f"[{code}]" in told and "^" in told


@pytest.mark.parametrize(
    "text",
    [
        'redirect "bob@example.org";',
        'require "include"; include :optional "absent";',
        'require "include"; include :global "company";',
        'if exists "x" { stop; } elsif exists "y" { stop; }\nkeep;',
        'if header :contains "subject" "a" { stop; }\nif header :contains "subject" "b" { stop; }',
    ],
)
def test_nothing_to_warn_of(service: ScriptService, text: str) -> None:
    assert warned(service, text) == ""


def refused(service: ScriptService, name: str) -> str:
    with pytest.raises(ScriptStoreError) as caught:
        service.of(ACCOUNT).activate(name)
    return caught.value.text


def test_activation_looks_at_what_is_included(service: ScriptService) -> None:
    store = service.of(ACCOUNT)
    store.put("main", 'require "include"; include "one"; include :optional "none";')
    store.put("one", 'require "include";\n\ninclude "two";')
    assert 'the included script "one" fails in line 3: there is no personal script "two"' in refused(
        service, "main"
    )
    store.put("two", "keep;\nfileinto;\n")
    told = refused(service, "main")
    assert "two:2:1: error:" in told and "    2 | fileinto;" in told
    store.put("two", 'require "include"; include "one";')
    assert "includes itself" in refused(service, "main")
    store.put("two", "keep;")
    store.activate("main")
    active = store.active()
    assert active is not None and active[0] == "main"
    store.activate("")
    assert store.active() is None


def test_a_broken_script_is_not_activated(service: ScriptService) -> None:
    store = service.of(ACCOUNT)
    store.put("bad", "fileinto;")
    assert "bad:1:1: error" in refused(service, "bad")
    with pytest.raises(ScriptStoreError) as caught:
        store.activate("nothing")
    assert caught.value.code == "NONEXISTENT"


def test_warnings_as_managesieve_sends_them(service: ScriptService) -> None:
    _, warnings = service.check(ACCOUNT, "stop;\nkeep;\n")
    line = answer("OK", "\r\n".join(warnings), "WARNINGS")
    assert line.startswith(b"OK (WARNINGS) {") and b"script:2:1: warning: this is never reached" in line
    assert b"    2 | keep;\r\n      | ^" in line


def test_a_failing_rule_test_refuses_activation(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    files = FileScriptStore(str(tmp_path), RealDisk(), ScriptLimits())
    service = ScriptService(lambda account: files, tests_of=lambda account: str(tests))
    store = service.of(ACCOUNT)
    store.put("bills", 'require ["fileinto", "include"]; include "rest";')
    store.put("rest", 'require "fileinto"; if header :contains "subject" "bill" { fileinto "Bills"; }')
    store.put("wrong", 'require "fileinto"; fileinto "Elsewhere";')
    store.activate("wrong")  # there are no tests yet
    tests.mkdir()
    (tests / "bill.eml").write_text("Subject: a bill\n\nPay.\n")
    (tests / "expect.toml").write_text('["bill.eml"]\nfiled = ["Bills"]\n')
    store.activate("bills")
    for refused in (lambda: store.activate("wrong"), lambda: store.put("bills", "keep;")):
        with pytest.raises(ScriptStoreError) as failure:
            refused()
        assert "test bill.eml: filed: " in failure.value.text
    assert store.active() == ("bills", 'require ["fileinto", "include"]; include "rest";')
    store.put("wrong", "discard;")  # not the active one
    (tests / "expect.toml").write_text("nonsense")
    with pytest.raises(ScriptStoreError, match=r"expect\.toml"):
        store.activate("bills")
