"""The svtest runner itself: blocks, failures, state, reports, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.testkit.runner import Report, run_file, run_files

HEAD = 'require "vnd.dovecot.testsuite";\n'


@pytest.fixture
def svtest(tmp_path: Path):
    def run(text: str, **others: str) -> Report:
        for name, content in others.items():
            (tmp_path / f"{name}.sieve").write_text(content)
        path = tmp_path / "a.svtest"
        path.write_text(text)
        return run_file(str(path))

    return run


def outcomes(report: Report) -> list[tuple[str, str | None]]:
    return [(case.name, case.reason) for case in report.cases]


def test_a_failure_ends_its_block_and_the_next_ones_go_on(svtest) -> None:
    report = svtest(
        HEAD
        + 'require "variables";\nset "a" "1";\n'
        + 'test "one" { if true { test_fail "because ${a}"; } set "a" "2"; }\n'
        + 'test "two ${a}" { if not string "${a}" "1" { test_fail "went on"; } }\n'
    )
    assert outcomes(report) == [("one", "because 1"), ("two 1", None)]
    assert report.failed == 1 and not report.passed and report.error == ""


def test_a_failure_inside_a_loop_leaves_the_loop(svtest) -> None:
    report = svtest(
        HEAD
        + 'require ["foreverypart", "variables", "extracttext"];\n'
        + 'test "one" { foreverypart { test_fail "in the loop"; } }\n'
        + 'test "two" { set "n" ""; foreverypart { set "n" "${n}x"; } if not string "${n}" "x" { test_fail "${n}"; } }\n'
    )
    assert outcomes(report) == [("one", "in the loop"), ("two", None)]


def test_stop_ends_the_file_without_a_failure(svtest) -> None:
    report = svtest(HEAD + 'test "one" { stop; }\ntest "two" { test_fail "never"; }\n')
    assert report.passed and outcomes(report) == []


def test_a_failure_outside_of_a_block_aborts_the_file(svtest) -> None:
    report = svtest(HEAD + 'test "one" { }\ntest_fail "here";\ntest "two" { }\n')
    assert outcomes(report) == [("one", None)]
    assert report.error == "line 3: here" and not report.passed


def test_an_abort_fails_the_open_test(svtest) -> None:
    report = svtest(HEAD + 'test "one" { test_binary_load "nothing"; }\n')
    assert report.failed == 1 and "nothing was saved" in report.error


def test_nested_tests_and_unknown_objects_do_not_compile(svtest) -> None:
    report = svtest(HEAD + 'test "a" { test "b" { } }\ntest_set "envelope.nobody" "x";\n')
    assert [error.code for error in report.errors] == ["test-place", "test-object"]
    assert not report.passed


def test_the_start_state(svtest) -> None:
    report = svtest(
        HEAD
        + 'require ["envelope", "variables"];\n'
        + 'test "start" {\n'
        + '  if not header "subject" "Frop!" { test_fail "subject"; }\n'
        + '  if not envelope "from" "sender@example.com" { test_fail "from"; }\n'
        + '  if not envelope "to" "recipient@example.org" { test_fail "to"; }\n'
        + '  if not envelope "auth" "testsuite mail user" { test_fail "auth"; }\n'
        + '  if string "${tst.path}" "" { test_fail "tst.path"; }\n'
        + '  if not string "${tst.other}%{file:x.sieve}" "[FILE: x.sieve]" { test_fail "strings"; }\n'
        + "}\n"
    )
    assert outcomes(report) == [("start", None)]


def test_envelope_derivation(svtest) -> None:
    report = svtest(
        HEAD
        + 'require "envelope";\n'
        + 'test "derived" {\n  test_set "message" text:\n'
        + "Return-Path: <bounce@example.com>\nFrom: ann@example.com\nEnvelope-To: real@example.org\n"
        + "To: list@example.org\n\n.\n;\n"
        + '  if not envelope "from" "bounce@example.com" { test_fail "from"; }\n'
        + '  if not envelope ["to", "orig_to"] "real@example.org" { test_fail "to"; }\n'
        + "}\n"
    )
    assert outcomes(report) == [("derived", None)]


def test_a_script_with_the_test_extension_may_fail_itself(svtest) -> None:
    report = svtest(
        HEAD + 'test "inner" { if not test_script_compile "inner.sieve" { test_fail "compile"; }\n'
        '  if test_script_run { test_fail "it failed itself"; } }\n',
        inner=HEAD + 'test_fail "inside";\n',
    )
    assert outcomes(report) == [("inner", None)]


def test_a_failed_compile_keeps_the_script_before_it(svtest) -> None:
    report = svtest(
        HEAD + 'test "both" {\n'
        '  if not test_script_compile "good.sieve" { test_fail "good"; }\n'
        '  if test_script_compile "bad.sieve" { test_fail "bad"; }\n'
        '  if not test_error :index 2 :contains "validation failed" { test_fail "summary"; }\n'
        '  if not allof (test_script_run, test_result_action "discard") { test_fail "the good one is gone"; }\n'
        "}\n",
        good="discard;",
        bad="nonsense;",
    )
    assert outcomes(report) == [("both", None)]


def test_exit_codes_and_the_report(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.svtest", tmp_path / "bad.svtest"
    good.write_text(HEAD + 'test "fine" { }\n')
    bad.write_text(HEAD + 'test "wrong" { test_fail "why not"; }\n')
    lines: list[str] = []
    assert run_files([str(good)], write=lines.append) == 0
    assert run_files([str(good), str(bad)], write=lines.append) == 1
    assert run_files([str(tmp_path / "absent.svtest")], write=lines.append) == 2
    text = "".join(lines)
    assert "  1: Test 'fine' SUCCEEDED" in text and "PASS: 1 tests succeeded." in text
    assert "  1: Test 'wrong' FAILED: why not (line 2)" in text and "FAIL: 1 of 1 tests failed." in text
