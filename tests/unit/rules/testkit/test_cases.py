"""Rule tests for people: expect.toml, its errors, every kind of expectation, the activation gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.testkit.cases import ExpectError, failures, read_folder, run_and_show, run_folder

MAIL = (
    "From: Ann <ann@example.com>\nTo: bob@example.org\nSubject: {}\nMessage-ID: <1@example.com>\n\nHello.\n"
)
SCRIPT = """require ["fileinto", "imap4flags", "reject", "vacation", "enotify", "duplicate", "editheader", "ihave"];
if duplicate { discard; stop; }
if header :contains "subject" "invoice" { addflag "\\\\Flagged"; fileinto "Bills"; redirect "books@example.net"; }
elsif header :contains "subject" "viagra" { reject "We do not want this."; }
elsif header :contains "subject" "urgent" { notify "mailto:me@example.net"; addheader "X-Urgent" "yes"; }
elsif header :contains "subject" "broken" { error "out of order"; }
else { vacation :subject "Away" "Back on Monday."; }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("invoice", "viagra", "urgent", "broken", "lunch"):
        (tmp_path / f"{name}.eml").write_text(MAIL.format(name))
    (tmp_path / "main.sieve").write_text(SCRIPT)
    return tmp_path


GOOD = """
["invoice.eml"]
filed = ["Bills"]
flags = ["\\\\Flagged"]
redirected = ["books@example.net"]
lines = [3]
["viagra.eml"]
rejected = "do not want"
filed = []
["urgent.eml"]
notified = ["me@example.net"]
filed = ["INBOX"]
header = { X-Urgent = "yes", X-Absent = "" }
["broken.eml"]
error = "out of order"
filed = ["INBOX"]
["lunch.eml"]
answered = "Monday"
rejected = false
"""


def test_everything_as_expected(folder: Path) -> None:
    (folder / "expect.toml").write_text(GOOD)
    report, code = run_and_show(str(folder))
    assert code == 0, report
    assert "ok    invoice.eml: file into Bills with \\Flagged; redirect to books@example.net" in report
    assert report.endswith("5 of 5 as expected\n")


@pytest.mark.parametrize(
    ("says", "wrong"),
    [
        ('filed = ["INBOX"]', 'filed: expected ["INBOX"], got ["Bills"]'),
        ("redirected = []", 'redirected: expected [], got ["books@example.net"]'),
        ('flags = ["\\\\Seen"]', 'flags in Bills: expected ["\\\\seen"], got ["\\\\flagged"]'),
        ("rejected = true", "rejected: it is not refused"),
        ("discarded = true", "discarded: expected true, got false"),
        ("error = true", "error: it is not failing"),
        ('answered = "x"', 'answered: expected "x" in []'),
        ("lines = [3, 7]", "lines: line 7 did not take part"),
        ('header = { Subject = "other" }', 'header Subject: expected "other", got "invoice"'),
    ],
)
def test_each_kind_of_failure(folder: Path, says: str, wrong: str) -> None:
    for name in ("viagra", "urgent", "broken", "lunch"):
        (folder / f"{name}.eml").unlink()
    (folder / "expect.toml").write_text(f'["invoice.eml"]\n{says}\n')
    assert failures(str(folder), SCRIPT) == [f"invoice.eml: {wrong}"]


def test_a_failure_shows_the_lines_that_decided(folder: Path) -> None:
    (folder / "expect.toml").write_text(GOOD.replace('filed = ["Bills"]', 'filed = ["Work"]'))
    report, code = run_and_show(str(folder))
    assert code == 1
    assert "FAIL  invoice.eml" in report and "main:3    true  header" in report


def test_mails_without_expectation_fail_until_written(folder: Path) -> None:
    (folder / "expect.toml").write_text('["invoice.eml"]\nfiled = ["Bills"]\n')
    report, code = run_and_show(str(folder))
    assert code == 1 and "expect.toml says nothing about it" in report
    report, code = run_and_show(str(folder), write=True)
    assert code == 0, report
    assert run_and_show(str(folder)) == (report, 0)
    assert '["viagra.eml"]\nfiled = []\nrejected = true\n' in (folder / "expect.toml").read_text()


def test_memory_from_case_to_case(folder: Path) -> None:
    (folder / "expect.toml").write_text(
        'remember = true\n["first"]\nmessage = "lunch.eml"\nanswered = true\n'
        '["again"]\nmessage = "lunch.eml"\ndiscarded = true\n'
    )
    found = {one.name: one.failures for one in run_folder(read_folder(str(folder)))}
    assert found["first"] == [] and found["again"] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '["invoice.eml"]\nfield = ["A"]\n',
            'the key "field" is not known in ["invoice.eml"]; did you mean "filed"?',
        ),
        ("scrpt = 'x'\n", 'did you mean "script"?'),
        ("not toml", "expect.toml:"),
    ],
)
def test_faults_of_the_file(folder: Path, text: str, says: str) -> None:
    (folder / "expect.toml").write_text(text)
    with pytest.raises(ExpectError, match=r"expect\.toml") as caught:
        read_folder(str(folder))
    assert says in str(caught.value)
    assert run_and_show(str(folder))[1] == 2
    assert len(failures(str(folder), SCRIPT)) == 1


def test_the_gate_tells_compile_errors_and_never_raises(folder: Path, tmp_path: Path) -> None:
    (folder / "expect.toml").write_text(GOOD)
    assert failures(str(folder), SCRIPT) == []
    assert failures(str(folder), "nonsense;") == ['line 1: the command "nonsense" is not known']
    assert failures(str(tmp_path / "absent"), SCRIPT) != []


def test_the_envelope_may_be_given(folder: Path) -> None:
    script = 'require ["envelope", "fileinto", "subaddress"]; if envelope :detail "to" "x" { fileinto "X"; }'
    (folder / "expect.toml").write_text('to = "bob+x@example.org"\n["lunch.eml"]\nfiled = ["X"]\n')
    found = {one.name: one.failures for one in run_folder(read_folder(str(folder)), script)}
    assert found["lunch.eml"] == []
