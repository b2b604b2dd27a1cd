"""Runs: actions, implicit keep, chains, errors, limits, trace."""

from __future__ import annotations

import pytest

from rules.actions import Discard, FileInto, Keep, Redirect, Reject, RunResult
from rules.compiler import compile_script
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import Limits
from rules.mail.message import Message
from rules.simplehost import SimpleHost

MAIL = (
    b"From: Joe <joe+tag@Example.COM>\r\nTo: me@example.org, you@example.net\r\nSubject: =?utf-8?q?Caf=C3=A9?= offer\r\n"
    b"List-Id: <list.example>\r\nX-N: 7\r\nX-N: 8\r\n\r\nHello\r\n"
)


def go(
    *texts: str, mail: bytes = MAIL, limits: Limits | None = None, envelope: ScriptEnvelope | None = None
) -> RunResult:
    limits = limits or Limits()
    scripts = [compile_script(text, name=f"s{number}") for number, text in enumerate(texts)]
    envelope = envelope or ScriptEnvelope("joe@example.com", "me+box@example.org")
    return run(scripts, Message(mail), envelope, SimpleHost(), limits=limits)


def kinds(result: RunResult) -> list[str]:
    return [type(action).__name__ for action in result.actions]


def holds(test: str, require: str = "", **more: bytes) -> bool:
    names = ["fileinto", *require.split()]
    text = (
        f'require [{", ".join(chr(34) + name + chr(34) for name in names)}]; if {test} {{ fileinto "yes"; }}'
    )
    result = go(text, **more)
    assert result.error is None, result.error
    return kinds(result) == ["FileInto"]


def test_implicit_keep() -> None:
    (keep,) = go("").actions
    assert isinstance(keep, Keep) and keep.implicit
    assert kinds(go("discard;")) == ["Discard"]
    assert kinds(go("discard; keep;")) == ["Discard", "Keep"]
    assert kinds(go('redirect "a@b.example";')) == ["Redirect"]
    assert kinds(go('require "copy"; redirect :copy "a@b.example";')) == ["Redirect", "Keep"]
    assert kinds(go('require "fileinto"; fileinto "a";')) == ["FileInto"]
    assert kinds(go('require ["fileinto", "copy"]; fileinto :copy "INBOX";')) == ["FileInto"]


def test_duplicates() -> None:
    assert kinds(go("keep; keep;")) == ["Keep"]
    assert kinds(go('require "fileinto"; keep; fileinto "inbox";')) == ["Keep"]
    assert kinds(go('require "fileinto"; fileinto "a"; fileinto "a"; fileinto "b";')) == ["FileInto"] * 2
    assert (
        kinds(go('redirect "a@b.example"; redirect "a@B.example"; redirect "A@b.example";'))
        == ["Redirect"] * 2
    )


@pytest.mark.parametrize(
    "other", ["keep;", 'fileinto "a";', 'redirect "a@b.example";', 'reject "again";', 'vacation "x";']
)
@pytest.mark.parametrize("first", [True, False])
def test_reject_goes_with_no_delivery(other: str, first: bool) -> None:
    mail = MAIL.replace(b"List-Id", b"X-List")
    head = 'require ["reject", "fileinto", "vacation"];'
    text = f'{head} reject "no"; {other}' if first else f'{head} {other} reject "no";'
    result = go(text, mail=mail)
    assert result.error is not None
    (keep,) = result.actions
    assert isinstance(keep, Keep) and keep.implicit


def test_reject_goes_with_discard() -> None:
    result = go('require "ereject"; ereject "no"; discard;')
    assert isinstance(result.actions[0], Reject) and result.actions[0].ereject
    assert isinstance(result.actions[1], Discard)


def test_control() -> None:
    assert kinds(go("if false { discard; } elsif true { stop; } else { discard; } discard;")) == ["Keep"]
    assert kinds(go("if anyof (false, not false) { discard; }")) == ["Discard"]
    assert kinds(go("if allof (true, size :over 1, not true) { discard; }")) == ["Keep"]
    text = 'if exists "nope" { keep; } elsif exists "subject" { discard; } elsif exists "subject" { keep; }'
    assert kinds(go(text)) == ["Discard"]


def test_header_values_are_decoded() -> None:
    assert holds('header :contains "subject" "café"', "")
    assert holds('header :is "SUBJECT" "CAFé OFFER"')
    assert not holds('header :is :comparator "i;octet" "subject" "CAFé OFFER"')
    assert holds(
        'header :comparator "i;unicode-casemap" "subject" "CAFÉ OFFER"', "comparator-i;unicode-casemap"
    )
    assert holds('header "x-n" "8"')
    assert not holds('header "x-none" ""')
    assert not holds('header :matches "x-none" "*"')


def test_address_parts() -> None:
    assert holds('address :domain "from" "example.com"')
    assert holds('address :localpart "from" "JOE+TAG"')
    assert holds('address "to" "you@example.net"')
    assert holds('address :user "from" "joe"', "subaddress")
    assert holds('address :detail "from" "tag"', "subaddress")
    assert not holds('address :detail "to" ""', "subaddress")
    assert not holds('address :contains "to" "@"', mail=b"To: undisclosed-recipients:;\r\n\r\n")


def test_envelope() -> None:
    assert holds('envelope "from" "joe@example.com"', "envelope")
    assert holds('envelope :detail "to" "box"', "envelope subaddress")
    null = ScriptEnvelope("", "<me@example.org>")
    text = 'require "envelope"; if allof (envelope :is "from" "", envelope :domain "to" "example.org") { discard; }'
    assert kinds(go(text, envelope=null)) == ["Discard"]
    broken = ScriptEnvelope("a@@b", "a b@c")
    assert kinds(
        go('require "envelope"; if envelope :contains ["from", "to"] "" { discard; }', envelope=broken)
    ) == ["Keep"]


def test_size_counts_crlf() -> None:
    lf = b"A: b\n\nx\n"
    assert kinds(go("if allof (size :over 10, size :under 12) { discard; }", mail=lf)) == ["Discard"]


def test_relational() -> None:
    numeric = ':comparator "i;ascii-numeric"'
    require = "relational comparator-i;ascii-numeric"
    assert holds(f'header :value "gt" {numeric} "x-n" "7"', require)
    assert not holds(f'header :value "gt" {numeric} "x-n" "8"', require)
    assert holds(f'header :count "eq" {numeric} "x-n" "2"', require)
    assert holds(f'address :count "eq" {numeric} ["from", "to"] "3"', require)
    assert holds(f'header :count "eq" {numeric} "x-none" "0"', require)


def test_variables() -> None:
    head = 'require ["variables", "fileinto"]; '
    result = go(
        head
        + 'if header :matches "subject" "* *" { set :upperfirst :lower "a" "${1}"; } fileinto "x.${a}.${2}.${9}.${b}";'
    )
    assert isinstance(result.actions[0], FileInto) and result.actions[0].mailbox == "x.Café.offer.."
    result = go(head + 'set "A" "1"; set "b" "${a}${{a}${a"; fileinto "${B}";')
    assert isinstance(result.actions[0], FileInto) and result.actions[0].mailbox == "1${{a}${a"
    text = (
        head
        + 'set :length "n" "äb"; set :quotewildcard "q" "*?\\\\"; if string :is "${n} ${q}" "2 \\\\*\\\\?\\\\\\\\" { discard; }'
    )
    assert kinds(go(text)) == ["Discard"]


def test_failed_match_leaves_match_variables() -> None:
    text = (
        'require ["variables", "fileinto"]; if header :matches "subject" "*offer" { if header :matches "subject" "*x" { keep; } '
        'fileinto "${0}"; }'
    )
    (action,) = go(text).actions
    assert isinstance(action, FileInto) and action.mailbox == "Café offer"


def test_flags() -> None:
    head = 'require ["imap4flags", "fileinto", "variables"]; '
    result = go(
        head
        + 'setflag "\\\\seen A"; addflag ["a", "B \\\\Recent"]; removeflag "b"; fileinto "x"; keep :flags "\\\\flagged";'
    )
    one, two = result.actions
    assert isinstance(one, FileInto) and one.flags == ("\\Seen", "A")
    assert isinstance(two, Keep) and two.flags == ("\\Flagged",)
    (keep,) = go(head + 'addflag "\\\\Deleted";').actions
    assert isinstance(keep, Keep) and keep.implicit and keep.flags == ("\\Deleted",)
    assert kinds(go(head + 'setflag "v" "x y"; if hasflag "v" "Y" { discard; }')) == ["Discard"]
    assert kinds(go(head + 'setflag "x y"; if hasflag :contains ["z", "nope Y"] { discard; }')) == ["Discard"]


def test_chain_hands_the_keep_on() -> None:
    before, user, after = 'require "fileinto"; fileinto "copy"; keep;', "", "discard;"
    assert kinds(go(before, user, after)) == ["FileInto", "Discard"]
    assert kinds(go("discard;", "keep;")) == ["Discard"]
    result = go("stop;", 'require "fileinto"; fileinto "b";')
    assert kinds(result) == ["FileInto"]
    (keep,) = go('require "imap4flags"; keep :flags "\\\\Seen";', "").actions
    assert isinstance(keep, Keep) and keep.flags == ("\\Seen",)


def test_a_failed_run_keeps_the_original() -> None:
    text = (
        'require ["fileinto", "variables", "editheader"]; addheader "X" "y";\nfileinto "a"; redirect "${1}";'
    )
    result = go(text)
    assert (
        kinds(result) == ["Keep"]
        and isinstance(result.actions[0], Keep)
        and result.actions[0].message is None
    )
    assert result.error is not None and "not an address" in result.error
    assert result.error_place is not None and (result.error_place.line, result.error_place.column) == (2, 15)
    assert result.trace[-1].what == "error"


def test_limits() -> None:
    many = " ".join(f'redirect "a{number}@b.example";' for number in range(5))
    assert "redirect" in (go(many).error or "") and "4" in (go(many).error or "")
    loop = 'require ["variables"]; set "a" "xxxxxxxxxx"; ' + 'set "a" "${a}${a}"; ' * 30
    assert go(loop).error is None
    files = 'require "fileinto"; ' + " ".join(f'fileinto "b{number}";' for number in range(40))
    assert "at most 32 actions" in (go(files).error or "")
    assert "steps" in (go("if size :over 1 { keep; }" * 300, limits=Limits(steps=256)).error or "")
    assert "CPU" in (go("if size :over 1 { keep; }" * 600, limits=Limits(cpu_seconds=-1)).error or "")
    many = b"To: " + b", ".join(b"u%d@example.org" % number for number in range(3000)) + b"\r\n\r\n"
    one = 'if address :all :matches "to" "*a*b*c*" { discard; }'  # one step, but with many values
    assert "CPU" in (go(one, mail=many, limits=Limits(cpu_seconds=-1)).error or "")
    assert go(one, mail=many).error is None


def test_many_values_are_matched_as_one_list() -> None:
    """Values are looked at in slices: a hit in a late one, :count, and many rules of which few can be ruled out early."""
    many = b"To: " + b", ".join(b"u%d@example.org" % number for number in range(700)) + b"\r\n\r\n"
    assert holds('address "to" "u699@example.org"', mail=many)
    assert not holds('address "to" "u700@example.org"', mail=many)
    assert holds('address :count "eq" "to" "700"', "relational", mail=many)
    rules = "".join(
        f'if address :all :matches "to" "*u{n}@*g" {{ fileinto "f{n}"; }}\n' for n in range(690, 720)
    )
    found = go('require "fileinto";' + rules, mail=many)
    assert [action.mailbox for action in found.actions if isinstance(action, FileInto)] == [
        f"f{n}" for n in range(690, 700)
    ]
    wide = (
        'require ["variables"]; set "a" "' + "x" * 60_000 + '"; if string "' + "${a}" * 30 + '" "x" { keep; }'
    )
    assert "too long" in (go(wide).error or "")


def test_trace() -> None:
    result = go('if header :contains "subject" "offer" {\n  keep;\n}')
    header, keep = result.trace
    assert (header.script, header.line, header.what, header.result) == ("s0", 1, "header", True)
    assert header.value == "Café offer" and header.key == "offer"
    assert (keep.line, keep.what, keep.result) == (2, "keep", None)
    untraced = run([compile_script("keep;")], Message(MAIL), ScriptEnvelope(), SimpleHost(), trace=False)
    assert untraced.trace == []


def test_redirect_options() -> None:
    text = 'require "redirect-dsn"; redirect :notify "success,failure" :ret "hdrs" "Joe <a@b.example>";'
    (action,) = go(text).actions
    assert isinstance(action, Redirect)
    assert (action.address, action.notify, action.ret) == ("a@b.example", "SUCCESS,FAILURE", "HDRS")


def test_never_raises_on_odd_mail() -> None:
    for mail in (b"", b"\r\n", b"\0" * 100, b":" * 1000, b"From: <<<>>>,,;;\r\n\r\n", bytes(range(256)) * 10):
        text = 'require ["body", "envelope"]; if anyof (address :contains "from" "x", body :contains "y", header "x" "y") { keep; }'
        assert go(text, mail=mail).error is None
