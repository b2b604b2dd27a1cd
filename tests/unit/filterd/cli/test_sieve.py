"""`filterd sieve` without a server: check, run (the JSON contract of SIEVE.md 2), batch, the stored scripts."""

import io
import json
from pathlib import Path

import pytest

from filterd.__main__ import main

SCRIPT = """require ["fileinto", "copy", "imap4flags"];
if header :contains "subject" "list" { setflag "\\\\Seen"; fileinto "Lists/x"; stop; }
if header :is "subject" "both" { redirect :copy "b@example.net"; }
if header :is "subject" "gone" { discard; }
"""


@pytest.fixture
def files(tmp_path: Path):
    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return str(path)

    return write


def message(subject: str) -> str:
    return f"From: Ann <ann@example.com>\nTo: bob@example.org\nSubject: {subject}\n\nbody\n"


def answer(capsys, *words: str) -> dict:
    main(["sieve", "run", "--json", *words])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("subject", "actions"),
    [
        ("my list", [("store", "Lists/x", ["\\Seen"])]),
        ("both", [("redirect", "b@example.net", None), ("store", "INBOX", [])]),
        ("gone", []),
        ("else", [("store", "INBOX", [])]),
    ],
)
def test_run(files, capsys, subject: str, actions: list) -> None:
    found = answer(
        capsys, "--script", files("s.sieve", SCRIPT), "--message", files("m.eml", message(subject))
    )
    shown = [(one["type"], one.get("mailbox") or one.get("to"), one.get("flags")) for one in found["actions"]]
    assert sorted(shown, key=str) == sorted(actions, key=str)
    for one in found["actions"]:
        assert one["message"] == message(subject).replace("\n", "\r\n")
    assert all(
        isinstance(step["line"], int) and "test" in step and "result" in step for step in found["trace"]
    )


def test_the_envelope_comes_from_the_message_or_the_options(files, capsys) -> None:
    script = files(
        "s.sieve",
        'require ["envelope", "fileinto"]; if envelope "from" "x@y.example" { fileinto "X"; } redirect "a@b.example";',
    )
    mail = files("m.eml", message("x"))
    found = answer(capsys, "--script", script, "--message", mail)
    assert [(one["type"], one.get("envelope_from")) for one in found["actions"]] == [
        ("redirect", "ann@example.com")
    ]
    found = answer(capsys, "--script", script, "--message", mail, "--from", "x@y.example")
    assert {one["type"] for one in found["actions"]} == {"store", "redirect"}
    found = answer(capsys, "--script", script, "--message", mail, "--from", "")
    assert found["actions"][0]["envelope_from"] == ""


def test_compile_errors_are_all_there(files, capsys) -> None:
    script = files("s.sieve", 'foo;\nif head { }\nfileinto "x";\n')
    assert (
        main(["sieve", "run", "--json", "--script", script, "--message", files("m.eml", message("x"))]) == 1
    )
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["compile_errors"]
    assert [one["line"] for one in found["compile_errors"]] == [1, 2, 3]
    assert all(one["column"] >= 1 and one["message"] for one in found["compile_errors"])


def test_octets_that_are_no_text_survive(files, capsys, tmp_path: Path) -> None:
    mail = tmp_path / "m.eml"
    mail.write_bytes(b"Subject: \xff\r\n\r\n\x80\xfe\r\n")
    found = answer(capsys, "--script", files("s.sieve", "keep;"), "--message", str(mail))
    assert found["actions"][0]["message"].encode("utf-8", "surrogateescape") == mail.read_bytes()


def test_batch(files, capsys, monkeypatch) -> None:
    script = files("s.sieve", SCRIPT)
    requests = [
        {"id": 1, "script": script, "message": files("m.eml", message("gone"))},
        {"id": 2, "script": script, "message": "/nonexistent"},
        {"script_text": "bogus;", "message_text": message("x")},
        {
            "script_text": "keep;",
            "message_text": message("x"),
            "from": "",
            "to": "q@example.org",
            "config": {"max_redirects": 1},
        },
        {"script": script},
    ]
    lines = [json.dumps(one) for one in requests]
    lines.insert(2, "no json")
    path = files("b.jsonl", "\n".join(lines) + "\n")
    assert main(["sieve", "run", "--batch", path]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[0] == {"id": 1, "actions": [], "trace": found[0]["trace"]}
    assert "error" in found[1] and "error" in found[2] and "error" in found[5]
    assert "compile_errors" in found[3]
    assert found[4]["actions"][0]["mailbox"] == "INBOX"


def test_run_for_people(files, capsys) -> None:
    assert (
        main(
            [
                "sieve",
                "run",
                "--script",
                files("s.sieve", SCRIPT),
                "--message",
                files("m.eml", message("my list")),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "store: mailbox Lists/x" in out and "s:2" in out


def test_check(files, capsys) -> None:
    good, bad = files("good.sieve", "keep;"), files("bad.sieve", "if head { }\nfoo;\n")
    assert main(["sieve", "check", good]) == 0
    assert "is fine" in capsys.readouterr().out
    assert main(["sieve", "check", good, bad]) == 1
    out = capsys.readouterr().out
    assert f"{bad}:1:4: error:" in out and f"{bad}:2:1: error:" in out and "2 errors" in out
    assert main(["sieve", "check", "--json", bad]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["line"] for one in report[0]["errors"]] == [1, 2]
    assert main(["sieve", "check", "/nonexistent"]) == 2


def test_stored_scripts_of_an_account(files, capsys, tmp_path: Path, monkeypatch) -> None:
    config = files(
        "filterd.toml",
        '[server]\nhostname = "mail.example.org"\ndata_dir = "d"\n[[domain]]\nname = "example.org"\n',
    )
    assert main(["account", "add", "-c", config, "ann@example.org"]) == 0
    script = files("main.sieve", "keep;")
    assert main(["sieve", "put", "-c", config, "nobody@example.org", script]) == 1
    assert main(["sieve", "put", "-c", config, "ann@example.org", files("bad.sieve", "foo;")]) == 1
    assert main(["sieve", "put", "-c", config, "ann@example.org", script, "--activate"]) == 0
    assert main(["sieve", "put", "-c", config, "ann@example.org", script, "--name", "two"]) == 0
    capsys.readouterr()
    assert main(["sieve", "list", "-c", config, "ann@example.org", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "main", "active": True},
        {"name": "two", "active": False},
    ]
    assert main(["sieve", "rm", "-c", config, "ann@example.org", "main"]) == 1
    assert main(["sieve", "activate", "-c", config, "--local", "ann@example.org", "two"]) == 0
    assert main(["sieve", "rm", "-c", config, "ann@example.org", "main"]) == 0
    assert main(["sieve", "activate", "-c", config, "ann@example.org"]) == 0
    assert main(["sieve", "get", "-c", config, "ann@example.org"]) == 2


def test_standard_input(files, capsys, monkeypatch) -> None:
    class Input:
        buffer = io.BytesIO(message("gone").encode())

    monkeypatch.setattr("sys.stdin", Input())
    assert answer(capsys, "--script", files("s.sieve", SCRIPT))["actions"] == []


def test_a_certificate_that_nobody_vouches_for_says_what_to_do() -> None:
    from filterd.cli.managesieve_client import _told

    text = "SSL error: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)"
    assert _told(text).startswith(
        "the server's certificate is not trusted (self-signed certificate); --ca FILE"
    )
    assert _told("Connection refused") == "Connection refused"
