"""``filterd sieve run --json``: the contract of SIEVE.md section 2, key by key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from filterd.cli.sieve_run import Request, answer, request_of

NOW = 1_790_000_000.0
MAIL = (
    "From: Ann <ann@example.org>\r\nTo: bob+lists@example.com\r\nSubject: hello\r\nMessage-ID: <1@example.org>\r\n"
    "X-Score: 7.5\r\nX-Stars: *****\r\nX-Verdict: it is Spam\r\nX-Virus: 5\r\n\r\nbody\r\n"
)
Answer = dict[str, object]
Ask = Callable[..., Answer]


@pytest.fixture
def ask() -> Ask:
    """ask(script, message=..., option=...): the answer, gone through JSON."""

    def asked(script: str, message: str = MAIL, now: float = NOW, **options: object) -> Answer:
        fields: dict[str, object] = {"script_text": script, "message_text": message, **options}
        found = answer(request_of(fields), {}, now)
        return cast(Answer, json.loads(json.dumps(found)))

    return asked


def actions(found: Answer) -> list[dict[str, object]]:
    assert "runtime_error" not in found, found
    return cast(list[dict[str, object]], found["actions"])


def types(found: Answer) -> list[object]:
    return [action["type"] for action in actions(found)]


def stored(found: Answer) -> list[object]:
    return [action["mailbox"] for action in actions(found) if action["type"] == "store"]


def test_keep_is_a_store_into_inbox(ask: Ask) -> None:
    for script in ("", "keep;", 'if header "subject" "no" { discard; }'):
        assert actions(ask(script)) == [{"type": "store", "mailbox": "INBOX", "flags": [], "message": MAIL}]
    (one,) = actions(ask('require "imap4flags"; addflag ["\\\\Seen", "$x"]; keep;'))
    assert one["flags"] == ["\\Seen", "$x"]


def test_discard_is_no_action(ask: Ask) -> None:
    assert actions(ask("discard;")) == []


def test_the_message_is_the_final_text(ask: Ask) -> None:
    script = 'require ["editheader", "fileinto"]; fileinto "a"; addheader "X-New" "1"; deleteheader "X-Score"; keep;'
    first, second = actions(ask(script))
    assert first["message"] == MAIL
    assert second["message"] == "X-New: 1\r\n" + MAIL.replace("X-Score: 7.5\r\n", "")


def test_redirect(ask: Ask) -> None:
    (one,) = actions(ask('redirect "c@d.example";', **{"from": "x@y.example"}))
    assert one == {"type": "redirect", "to": "c@d.example", "envelope_from": "x@y.example", "message": MAIL}
    (one,) = actions(ask('redirect "c@d.example";', **{"from": ""}))
    assert one["envelope_from"] == ""


def test_redirect_with_parameters_comes_from_the_owner(ask: Ask) -> None:
    script = 'require ["redirect-dsn", "redirect-deliverby"]; redirect :notify "NEVER" :ret "HDRS" :bytimerelative 60 "c@d.e";'
    (one,) = actions(ask(script, to="bob@example.com", **{"from": "x@y.example"}))
    assert one["envelope_from"] == "bob@example.com" and one["by_time"] == 60 and one["by_mode"] == "R"
    assert (one["notify"], one["ret"]) == ("NEVER", "HDRS")
    (one,) = actions(ask(script, to="bob@example.com", **{"from": ""}))
    assert one["envelope_from"] == ""


def test_reject(ask: Ask) -> None:
    (one,) = actions(ask('require "reject"; reject "not here";'))
    assert (one["type"], one["reason"], one["ereject"]) == ("reject", "not here", False)


def test_vacation(ask: Ask, tmp_path: Path) -> None:
    script = 'require "vacation"; vacation :subject "Away" "I am out.";'
    options = {"from": "ann@example.org", "to": "bob+lists@example.com", "state": str(tmp_path / "state")}
    away, kept = actions(ask(script, **options))
    assert {name: away[name] for name in ("type", "to", "from", "subject", "body")} == {
        "type": "vacation",
        "to": "ann@example.org",
        "from": "bob+lists@example.com",
        "subject": "Away",
        "body": "I am out.",
    }
    text = cast(str, away["message"])
    assert "Auto-Submitted: auto-replied" in text and "In-Reply-To: <1@example.org>" in text
    assert kept["mailbox"] == "INBOX"
    assert types(ask(script, **options)) == ["store"]
    assert types(ask(script, now=NOW + 8 * 86_400, **options)) == ["vacation", "store"]


def test_notify_and_its_copy(ask: Ask) -> None:
    script = (
        'require ["enotify", "fcc", "imap4flags"]; notify :fcc "Sent" :flags "\\\\Seen" :message "You have mail" '
        '"mailto:pager@example.net";'
    )
    told, copied, kept = actions(ask(script))
    assert (told["type"], told["method"], told["to"]) == (
        "notify",
        "mailto:pager@example.net",
        "pager@example.net",
    )
    assert told["subject"] == "You have mail" and isinstance(told["body"], str)
    assert (copied["type"], copied["mailbox"], copied["flags"]) == ("store", "Sent", ["\\Seen"])
    assert copied["message"] == told["message"] and kept["mailbox"] == "INBOX"


def test_compile_errors(ask: Ask) -> None:
    found = ask('keep;\nfoo;\nfileinto "x";\nif header { }\n')
    errors = cast(list[dict[str, object]], found["compile_errors"])
    assert set(found) == {"compile_errors"} and [error["line"] for error in errors] == [2, 3, 4]
    assert all(error["column"] == (4 if error["line"] == 4 else 1) and error["message"] for error in errors)


def test_a_run_that_fails_keeps_the_message(ask: Ask) -> None:
    found = ask('require ["variables", "ihave"]; discard; set "a" "no address"; error "it ${a}";')
    assert "it no address" in cast(str, found["runtime_error"])
    assert [action["mailbox"] for action in cast(list[dict[str, object]], found["actions"])] == ["INBOX"]


def test_trace_has_every_test(ask: Ask) -> None:
    rules = "".join(f'if header :contains "subject" "word{n}" {{ stop; }}\n' for n in range(50))
    found = ask(rules + 'if header :contains "subject" ["x", "ell"] { stop; }')
    trace = cast(list[dict[str, object]], found["trace"])
    assert len(trace) == 52
    assert {name: trace[0][name] for name in ("line", "test", "value", "key", "result")} == {
        "line": 1,
        "test": "header",
        "value": "hello",
        "key": "word0",
        "result": False,
    }
    assert (trace[50]["line"], trace[50]["key"], trace[50]["result"]) == (51, "ell", True)
    assert (trace[51]["test"], trace[51]["result"]) == ("stop", None)


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ({"type": "score", "header": "X-Score", "max": 10}, 7),  # 1 + floor(0.75 * 9)
        ({"type": "score", "header": "X-Score", "max": 7.5}, 10),
        ({"type": "score", "header": "X-Score", "max": "15"}, 5),
        ({"type": "strlen", "header": "X-Stars", "max": 10}, 5),
        (
            {
                "type": "text",
                "header": "X-Verdict",
                "regex": "it is (.*)",
                "values": {"10": "Spam", "1": "Ham"},
            },
            10,
        ),
        ({"type": "text", "header": "X-Verdict", "regex": "it is (.*)", "values": {"Spam": 4}}, 4),
        ({"type": "text", "header": "X-Verdict", "values": {"10": "Spam"}}, 0),
        ({"type": "score", "header": "X-None", "max": 10}, 0),
        (None, 0),
    ],
)
def test_spamtest(ask: Ask, config: dict[str, object] | None, value: int) -> None:
    script = (
        'require ["spamtest", "relational", "comparator-i;ascii-numeric", "fileinto"];\n'
        f'if spamtest :value "eq" :comparator "i;ascii-numeric" "{value}" {{ fileinto "yes"; }}\n'
        'if spamtest :count "eq" :comparator "i;ascii-numeric" "1" { fileinto "tested"; }'
    )
    expected = ["yes"] if value == 0 else ["yes", "tested"]
    assert stored(ask(script, config={"spamtest": config} if config else {})) == expected


def test_spamtestplus(ask: Ask) -> None:
    script = (
        'require ["spamtestplus", "relational", "comparator-i;ascii-numeric", "fileinto"];\n'
        'if spamtest :percent :value "eq" :comparator "i;ascii-numeric" "75" { fileinto "yes"; }'
    )
    assert stored(ask(script, config={"spamtest": {"type": "score", "header": "X-Score", "max": 10}})) == [
        "yes"
    ]


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ({"type": "score", "header": "X-Virus", "max": 5}, 5),
        ({"type": "score", "header": "X-Virus", "max": 10}, 3),
        ({"type": "text", "header": "X-Verdict", "values": {"4": "it is Spam"}}, 4),
        ({"type": "text", "header": "X-Verdict", "values": {"4": "other"}}, 0),
    ],
)
def test_virustest(ask: Ask, config: dict[str, object], value: int) -> None:
    script = (
        'require ["virustest", "relational", "comparator-i;ascii-numeric", "fileinto"];\n'
        f'if virustest :value "eq" :comparator "i;ascii-numeric" "{value}" {{ fileinto "yes"; }}'
    )
    assert stored(ask(script, config={"virustest": config})) == ["yes"]


def test_recipient_delimiter(ask: Ask) -> None:
    script = (
        'require ["subaddress", "envelope", "fileinto"]; if envelope :detail "to" "x" { fileinto "yes"; }'
    )
    assert stored(ask(script, to="bob-x@example.com")) == ["INBOX"]
    assert stored(ask(script, to="bob-x@example.com", config={"recipient_delimiter": "-"})) == ["yes"]
    assert stored(ask(script, to="bob+x@example.com")) == ["yes"]


def test_special_use(ask: Ask) -> None:
    script = 'require ["special-use", "fileinto"]; fileinto :specialuse "\\\\Junk" "Spam";'
    assert stored(ask(script)) == ["Spam"]
    assert stored(ask(script, config={"special_use": {"Bad": "\\Junk"}})) == ["Bad"]
    assert stored(ask(script, config={"special_use": {"Bad": "\\Junk", "Spam": "\\junk"}})) == ["Spam"]
    test = 'require "special-use"; if {} {{ discard; }}'
    uses = {"special_use": {"A": "\\Junk", "B": ["\\Sent", "\\All"]}}
    for condition, holds in (
        ('specialuse_exists ["\\\\Junk", "\\\\Sent"]', True),
        ('specialuse_exists "A" ["\\\\Junk", "\\\\Sent"]', False),
        ('specialuse_exists "B" ["\\\\all", "\\\\Sent"]', True),
        ('specialuse_exists "\\\\Trash"', False),
    ):
        assert (stored(ask(test.format(condition), config=uses)) == []) is holds, condition


def test_max_redirects(ask: Ask) -> None:
    script = 'redirect "a@b.example"; redirect "c@d.example";'
    assert types(ask(script, config={"max_redirects": 2})) == ["redirect", "redirect"]
    assert "runtime_error" in ask(script, config={"max_redirects": 1})


def test_lists(ask: Ask) -> None:
    config = {"lists": {"friends": ["Ann@example.org", "c@d.example"], ":addrbook:default": ["z@z.example"]}}
    script = 'require ["extlists", "fileinto"]; if address :list "from" "friends" { fileinto "yes"; }'
    assert stored(ask(script, config=config)) == ["yes"]
    found = actions(ask('require "extlists"; redirect :list "friends";', config=config))
    assert [action["to"] for action in found] == ["Ann@example.org", "c@d.example"]
    book = 'require "extlists"; if valid_ext_list "urn:ietf:params:sieve:addrbook:DEFAULT" { discard; }'
    assert actions(ask(book, config=config)) == []
    assert "runtime_error" in ask('require "extlists"; redirect :list "nobody";', config=config)


def test_metadata(ask: Ask) -> None:
    config = {"metadata": {"/shared/Comment": "server", "INBOX": {"/private/comment": "box"}}}
    script = (
        'require ["mboxmetadata", "servermetadata", "fileinto"];\n'
        'if metadata "INBOX" "/private/Comment" "box" { fileinto "a"; }\n'
        'if servermetadata "/shared/comment" "server" { fileinto "b"; }\n'
        'if metadataexists "INBOX" ["/private/none"] { fileinto "c"; }'
    )
    assert stored(ask(script, config=config)) == ["a", "b"]


def test_parameters_of_the_recipient(ask: Ask) -> None:
    script = (
        'require ["envelope", "envelope-dsn", "fileinto"];\n'
        'if envelope "notify" "DELAY" { fileinto "a"; }\n'
        'if envelope "orcpt" "rfc822;x+y@z" { fileinto "b"; }\nif envelope "ret" "FULL" { fileinto "c"; }'
    )
    config = {"rcpt_params": {"NOTIFY": "FAILURE,DELAY", "ORCPT": "rfc822;x+2By@z", "RET": "FULL"}}
    assert stored(ask(script, config=config)) == ["a", "b", "c"]


def test_mailboxes(ask: Ask) -> None:
    script = 'require ["fileinto", "mailbox"]; fileinto "Work"; fileinto :create "New";'
    assert stored(ask(script)) == ["Work", "New"]
    assert stored(ask(script, mailboxes="Work,Play")) == ["Work", "New"]
    found = ask(script, mailboxes="Play")
    assert "Work" in cast(str, found["runtime_error"])
    mailboxes = [action["mailbox"] for action in cast(list[dict[str, object]], found["actions"])]
    assert mailboxes == ["INBOX", "New"]
    test = 'require "mailbox"; if mailboxexists ["INBOX", "Play"] { discard; }'
    assert actions(ask(test, mailboxes="Play")) == [] and stored(ask(test)) == ["INBOX"]


def test_includes(ask: Ask, tmp_path: Path) -> None:
    for folder, text in (
        ("p", 'require "fileinto"; fileinto "mine";'),
        ("g", 'require "fileinto"; fileinto "ours";'),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.sieve").write_text(text)
    options = {"personal": str(tmp_path / "p"), "global": str(tmp_path / "g")}
    script = 'require "include"; include :personal "x"; include :global "x"; include :optional "y";'
    assert stored(ask(script, **options)) == ["mine", "ours"]
    assert "runtime_error" in ask(
        'require "include"; include "../p/x";', **options
    ) or "compile_errors" in ask('require "include"; include "../p/x";', **options)


def test_duplicate(ask: Ask, tmp_path: Path) -> None:
    script = 'require "duplicate"; if duplicate { discard; }'
    assert stored(ask(script)) == stored(ask(script)) == ["INBOX"]
    assert stored(ask(script, state=str(tmp_path))) == ["INBOX"]
    assert stored(ask(script, state=str(tmp_path))) == []


def test_the_envelope(ask: Ask) -> None:
    script = (
        'require ["envelope", "fileinto"];\nif envelope "from" "f@x" { fileinto "a"; }\nif envelope "to" "t@x" { fileinto "b"; }\n'
        'if envelope "orig_to" "o@x" { fileinto "c"; }\nif envelope "auth" "me" { fileinto "d"; }'
    )
    found = ask(script, to="<t@x>", orig_to="o@x", auth="me", **{"from": "<f@x>"})
    assert stored(found) == ["a", "b", "c", "d"]


def test_texts_in_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "s.sieve").write_text("discard;")
    for script in ("discard;", str(tmp_path / "s.sieve")):
        request = request_of({"script": script, "message": MAIL})
        assert isinstance(request, Request) and answer(request, {}, NOW)["actions"] == []
