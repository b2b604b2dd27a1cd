"""Our Sieve beside Debian's Pigeonhole (sieve-test): the same scripts on the same mails, the outcomes compared.

An outcome is what the scripts decide: compile error, run-time error, stores with mailbox and flags, redirects,
rejects, discard, answers, notifications. Where we differ on purpose the pair stands in ``DIFFERENCES`` with the
reason; a difference that is not there, or one that is there and no more seen, fails.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from rules.actions import FileInto, Keep, Notify, Redirect, Reject, Vacation
from rules.compiler import compile_script
from rules.errors import ScriptErrors
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.mail.message import Message
from rules.simplehost import SimpleHost

pytestmark = pytest.mark.peer

SENDER, RECIPIENT = "ann@example.com", "bob+box@example.org"
REQUIRE = (
    'require ["fileinto", "envelope", "imap4flags", "copy", "reject", "variables", "relational", "subaddress", '
    '"comparator-i;ascii-numeric", "body", "date", "index", "regex", "editheader", "environment", "ihave", '
    '"encoded-character", "vacation", "enotify", "mailbox", "duplicate", "mime", "foreverypart", "extracttext"];\n'
)

MAILS = {
    "plain": (
        "From: Ann Archer <ann@example.com>\nTo: bob+box@example.org\nSubject: Lunch at noon\n"
        "Date: Sat, 31 Jan 2026 23:30:00 -0500\nMessage-ID: <plain@example.com>\n\nToday?\n"
    ),
    "list": (
        'From: "Doe, Jo" <jo.doe@Lists.Example.NET>\nTo: gardening@lists.example.net\nCc: bob+box@example.org\n'
        "Subject: [gardening] Roses (fwd)\nList-Id: Gardens <gardening.lists.example.net>\nPrecedence: list\n"
        "X-Multi: one\nX-Multi: two\nX-Multi: three\nDate: 01 Feb 2026 04:05:06 GMT\nMessage-ID: <list@example.net>\n\n"
        "When do you cut them?\n"
    ),
    "encoded": (
        "From: =?utf-8?q?J=C3=BCrgen?= <juergen@example.de>\nTo: bob+box@example.org\n"
        "Subject: =?iso-8859-1?Q?Gr=FC=DFe_aus?= =?utf-8?b?IEvDtmxu?=\nX-Number: 0042\nX-Score: 12.5\n"
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n"
        "MIME-Version: 1.0\nMessage-ID: <encoded@example.de>\n\nSch=F6ne Gr=FC=DFe\n"
    ),
    "multipart": (
        "From: robot@shop.example.com\nTo: Bob <bob+box@example.org>\nSubject: Invoice 4711\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="b1"\nMessage-ID: <m@shop.example.com>\n'
        "Received: from a by b; Sun, 1 Feb 2026 10:00:00 +0000\nReceived: from c by a; Sun, 1 Feb 2026 09:00:00 +0100\n\n"
        "preamble\n--b1\nContent-Type: text/plain\n\nPlease pay 12.00 for item\n--b1\nContent-Type: text/html\n\n"
        "<p>Please <b>pay</b></p>\n--b1\nContent-Type: application/pdf; name=bill.pdf\n"
        "Content-Disposition: attachment; filename=bill.pdf\nContent-Transfer-Encoding: base64\n\nJVBERi0=\n--b1--\n"
    ),
    "odd": (
        "From: \nTo: undisclosed-recipients:;\nSubject:    spaced   out  \t\nX-Empty:\nX-Folded: first\n\tsecond\n  third\n"
        "X-Star: a*b?c\\d\nAuto-Submitted: auto-generated\nDate: never\nMessage-ID: <odd@example.com>\n\n"
    ),
    "many": (
        'From: a@example.com, b@example.com\nTo: c@one.example, Dee <d+x+y@two.example>,\n\t"quoted local"@three.example\n'
        "Cc: group: e@four.example, f@five.example;\nSubject: Re: Re: money $$$ 100%\nX-Spam-Flag: YES\nX-Spam-Level: *****\n"
        "Message-ID: <many@example.com>\n\nline one\nline two\n"
    ),
}

_TESTS = {
    "control": 'if allof (true, not false) { fileinto "A"; } elsif true { fileinto "B"; } else { discard; }',
    "stop": 'fileinto "A"; if header :contains "subject" "invoice" { stop; } fileinto "B"; keep;',
    "discard": 'if exists "list-id" { discard; stop; } keep;',
    "keep-twice": 'keep; keep; fileinto "INBOX"; fileinto "inbox";',
    "duplicate-store": 'fileinto "A"; fileinto "A"; fileinto :copy "A"; fileinto "a";',
    "redirects": 'redirect "x@one.example"; redirect "X@ONE.EXAMPLE"; redirect "<y@two.example>"; keep;',
    "redirect-copy": 'redirect :copy "x@one.example"; redirect "x@one.example";',
    "reject": 'if header :contains "subject" "money" { reject "No money."; } else { keep; }',
    "reject-conflict": 'fileinto "A"; reject "no";',
    "reject-twice": 'reject "one"; reject "two";',
    "flags": 'addflag ["\\\\Seen", "$a"]; addflag "$A $b"; removeflag "\\\\seen"; keep; fileinto :flags "\\\\Draft" "F";',
    "flags-variable": 'setflag "v" "x y"; if hasflag "v" "y" { fileinto :flags "${v}" "A"; }',
    "flags-last-wins": 'keep :flags "\\\\Seen"; keep :flags "\\\\Answered";',
    "flags-implicit": 'setflag "\\\\Flagged"; if hasflag :count "eq" :comparator "i;ascii-numeric" "1" { addflag "$one"; }',
    "header-list": 'if header :contains ["subject", "x-folded", "from"] ["roses", "second", "jürgen"] { fileinto "A"; }',
    "header-empty": 'if header :is "x-empty" "" { fileinto "A"; } if header :contains "x-absent" "" { fileinto "B"; }',
    "header-trim": (
        'if header :is "subject" "spaced   out" { fileinto "A"; } '
        'if header "x-folded" "first second third" { fileinto "B"; }'
    ),
    "header-folded": 'if header :matches "x-folded" "first*second*third" { fileinto "A"; }',
    "header-encoded": 'if header "subject" "Grüße aus Köln" { fileinto "A"; }',
    "header-octet": 'if header :comparator "i;octet" :contains "subject" "LUNCH" { fileinto "A"; } else { fileinto "B"; }',
    "header-escapes": 'if header :matches "x-star" "a\\\\*b\\\\?c\\\\\\\\d" { fileinto "A"; }',
    "matches-groups": 'if header :matches "subject" "[*] *(*)" { fileinto "L.${1}"; set "x" "${2}"; fileinto "M.${x}"; }',
    "matches-greedy": 'if header :matches "subject" "*e*" { fileinto "1 ${1}"; fileinto "2 ${2}"; }',
    "address-parts": (
        'if address :localpart "from" "ann" { fileinto "A"; } if address :domain ["to", "cc"] "three.example" { fileinto "B"; } '
        'if address :all :contains "cc" "@four" { fileinto "C"; } if address :detail "to" "x+y" { fileinto "D"; } '
        'if address :user "to" "d" { fileinto "E"; }'
    ),
    "address-name": 'if address :contains "from" "archer" { fileinto "A"; }',
    "address-empty": 'if address :contains ["from", "to"] "" { fileinto "A"; } else { fileinto "B"; }',
    "address-quoted": 'if address :localpart "to" "quoted local" { fileinto "A"; }',
    "address-count": 'if address :count "ge" :comparator "i;ascii-numeric" ["from", "to", "cc"] "3" { fileinto "A"; }',
    "envelope": (
        'if envelope "from" "ann@example.com" { fileinto "A"; } if envelope :detail "to" "box" { fileinto "B"; } '
        'if envelope :domain :matches "to" "*.org" { fileinto "C ${1}"; }'
    ),
    "exists": 'if exists ["list-id", "subject"] { fileinto "A"; } if exists "x-empty" { fileinto "B"; }',
    "size": 'if size :over 500 { fileinto "big"; } if size :under 400 { fileinto "small"; }',
    "relational": (
        'if header :value "ge" :comparator "i;ascii-numeric" "x-number" "42" { fileinto "A"; } '
        'if header :value "gt" :comparator "i;ascii-numeric" "x-score" "12" { fileinto "B"; } '
        'if header :count "eq" :comparator "i;ascii-numeric" "x-multi" "3" { fileinto "C"; } '
        'if header :value "lt" "subject" "m" { fileinto "D"; }'
    ),
    "numeric-equal": 'if header :is :comparator "i;ascii-numeric" "x-number" "42" { fileinto "A"; }',
    "variables": (
        'set :length "n" "${none}abc"; set :upper "u" "éa"; set :quotewildcard "q" "a*"; set "s" "${n}${u}${q}"; '
        'fileinto "${s}"; if string :matches "${s}" "3*" { fileinto "T ${1}"; }'
    ),
    "variables-case": 'set "A" "x"; if string "${a}" "X" { fileinto "same"; } else { fileinto "other"; }',
    "variables-modifiers": 'set :lower :upperfirst "a" "ÄBC dEF"; set :length "b" "äöü"; fileinto "${a}-${b}";',
    "body-text": 'if body :text :contains "please pay" { fileinto "A"; } if body :contains "grüße" { fileinto "B"; }',
    "body-raw": 'if body :raw :contains "--b1" { fileinto "A"; } if body :raw :contains "Gr=FC" { fileinto "B"; }',
    "body-content": (
        'if body :content "text/html" :contains "<b>pay</b>" { fileinto "A"; } if body :content "text" :contains "12.00" '
        '{ fileinto "B"; } if body :content "application/pdf" :contains "%PDF" { fileinto "C"; }'
    ),
    "date": (
        'if date :originalzone "date" "hour" "23" { fileinto "A"; } if date :zone "+0000" "date" "date" "2026-02-01" '
        '{ fileinto "B"; } if date :zone "+0100" "received" "hour" "11" { fileinto "C"; }'
    ),
    "date-parts": (
        'if date :originalzone :matches "date" "weekday" "*" { fileinto "w${1}"; } '
        'if date :originalzone :matches "date" "julian" "*" { fileinto "j${1}"; } '
        'if date :originalzone :matches "date" "std11" "*" { fileinto "s${1}"; }'
    ),
    "index": 'if header :index 2 "x-multi" "two" { fileinto "A"; } if header :last :index 1 "x-multi" "three" { fileinto "B"; }',
    "date-index": 'if date :index 2 :originalzone "received" "hour" "09" { fileinto "A"; }',
    "date-index-behind": 'if date :originalzone :index 2 "received" "hour" "09" { fileinto "A"; }',
    "regex": (
        'if header :regex "subject" "^\\\\[([a-z]+)\\\\] (.*)$" { fileinto "${1}"; } '
        'if header :regex "subject" "[0-9]{4}" { fileinto "N"; }'
    ),
    "edit": 'addheader "X-New" "yes"; deleteheader "X-Multi" "two"; if header "x-new" "yes" { fileinto "A"; } '
    'if header :count "eq" :comparator "i;ascii-numeric" "x-multi" "2" { fileinto "B"; }',
    "ihave": 'if ihave "nonsense" { frop; } else { fileinto "A"; }',
    "encoded-character": 'if header :contains "subject" "${unicode:24}${hex:24}" { fileinto "A"; }',
    "mime": (
        'if header :mime :anychild :contenttype "content-type" "application/pdf" { fileinto "A"; } '
        'foreverypart { if header :mime :param "filename" :matches "content-disposition" "*.pdf" { fileinto "B ${1}"; break; } }'
    ),
    "extracttext": 'foreverypart { extracttext :first 6 "t"; if string :matches "${t}" "P?ea*" { fileinto "${t}"; } }',
    "vacation": 'vacation :days 1 :subject "Away" "Not here.";',
    "vacation-addresses": 'vacation :addresses ["gardening@lists.example.net", "d+x+y@two.example"] "Not here.";',
    "notify": 'notify :message "new" "mailto:me@example.net"; fileinto "A";',
    "environment": 'if environment :matches "location" "M*" { fileinto "A"; } if environment "no-such" "" { fileinto "B"; }',
    "duplicate": 'if duplicate { discard; } else { fileinto "A"; }',
    "mailbox": 'fileinto :create "New"; if mailboxexists "INBOX" { fileinto "A"; }',
    "bad-mailbox": 'fileinto "";',
    "bad-redirect": 'redirect "not an address";',
    "bad-variable-redirect": 'set "a" "nobody"; redirect "${a}";',
    "nested-comment": "/* a /* b */ keep;",
    "numbers": 'if size :over 1K { fileinto "A"; } if size :under 18446744073709551615 { fileinto "B"; }',
    "text-block": 'set "t" text: # comment\n..dot\nend\n.\n; if string :matches "${t}" ".dot*end*" { fileinto "A"; }',
    # What Pigeonhole has wrong (SIEVE.md section 5)
    "glob-backtracking": 'if string :matches "abcce abcde" "*c?e" { fileinto "A"; }',
    "string-comparator": 'if string "ABC" "abc" { fileinto "A"; }',
    "zone-digits": 'if currentdate :zone "+5" :matches "year" "*" { fileinto "A"; }',
    "unknown-namespace": 'set "a" "${no.such}"; fileinto "A${a}";',
    "duplicate-twice": 'if duplicate :handle "h" { discard; } if duplicate :handle "h" { discard; } fileinto "A";',
    "extract-characters": 'foreverypart { extracttext :first 4 "t"; fileinto "T${t}"; break; }',
    "empty-group": 'if address :matches "to" "*" { fileinto "G${1}"; }',
    "ereject": 'require "ereject"; ereject "no";',
    "reject-keep": 'keep; reject "no";',
    "quoteregex": 'set :quoteregex "q" "a.b"; fileinto "${q}";',
}


def _matrix() -> dict[str, str]:
    """Header tests with every match type and comparator over many keys, a script for each pattern."""
    keys = (
        "",
        "*",
        "?",
        "*a*",
        "a*",
        "*n",
        "[*]*",
        "*o*o*",
        "lunch at noon",
        "*:*$*",
        "*\\\\$*",
        "*100%",
        "s*t",
        "R?:*",
    )
    scripts = {}
    for number, key in enumerate(keys):
        lines = [
            f'if header :{match} :comparator "{comparator}" "{field}" "{key}" '
            f'{{ fileinto :copy "{match[:2]}-{comparator[2:4]}-{field}"; }}'
            for match, comparator, field in product(
                ("is", "contains", "matches"), ("i;octet", "i;ascii-casemap"), ("subject", "x-multi", "from")
            )
        ]
        scripts[f"matrix-{number}"] = "\n".join(lines)
    return scripts


SCRIPTS = {**_TESTS, **_matrix()}
#: (script, mail or "*") -> why we answer otherwise
DIFFERENCES: dict[tuple[str, str], str] = {
    (
        "redirect-copy",
        "*",
    ): "RFC 3894 3: the second redirect, without :copy, cancels the implicit keep; Pigeonhole drops it "
    "as a duplicate with all its effects",
    (
        "address-empty",
        "odd",
    ): "a group without members has no address (RFC 5228 5.1); Pigeonhole matches the raw text",
    ("empty-group", "odd"): "the same, with the raw text in a match variable",
    (
        "relational",
        "list",
    ): "RFC 4790 9.2: i;ascii-casemap orders in upper case, so [ comes behind m; Pigeonhole uses lower",
    (
        "variables-case",
        "*",
    ): "RFC 5228 2.7.3: the default comparator is i;ascii-casemap; string in 0.5 uses i;octet",
    ("string-comparator", "*"): "the same",
    (
        "date-index",
        "multipart",
    ): "RFC 5260: :index counts wherever it stands; Pigeonhole forgets it in front of a zone",
    (
        "vacation",
        "list",
    ): "not answered: List-Id. sieve-test lists the answer, and looks for this when it would send",
    ("vacation", "odd"): "not answered: Auto-Submitted. The same",
    ("vacation", "many"): "not answered: the recipient is in no To or Cc. The same",
    ("vacation-addresses", "list"): "not answered: List-Id. The same",
    ("vacation-addresses", "odd"): "not answered: Auto-Submitted. The same",
    ("notify", "odd"): "RFC 5436 2.7.1: nothing is sent for Auto-Submitted. The same",
    ("bad-mailbox", "*"): "the empty name is an error at once; Pigeonhole finds out when it stores",
    ("glob-backtracking", "*"): '"*c?e" matches "abcce abcde"; Pigeonhole gives up behind a false start',
    (
        "matrix-13",
        "multipart",
    ): '"R?:*" does not match "robot@shop.example.com", which has no colon; Pigeonhole says it does',
    ("zone-digits", "*"): 'RFC 5260 4: a zone has four digits; Pigeonhole takes "+5"',
    (
        "unknown-namespace",
        "*",
    ): "RFC 5229 3: an unknown namespace MUST be an error; Pigeonhole goes on until it stores",
    ("duplicate-twice", "*"): "RFC 7352 3: equal tests of one run give one answer; Pigeonhole aborts",
    ("extract-characters", "encoded"): "RFC 5703 7: :first counts characters; Pigeonhole cuts one in two",
    ("ereject", "*"): "Pigeonhole has the extension and does not offer it",
    ("quoteregex", "*"): "Pigeonhole does not have :quoteregex",
}

Outcome = tuple[str, ...]


def ours(script: str, mail: bytes) -> Outcome:
    """What our engine decides."""
    try:
        compiled = compile_script(script)
    except ScriptErrors:
        return ("compile error",)
    host = SimpleHost(moment=datetime.now(UTC), addresses=(RECIPIENT,))
    envelope = ScriptEnvelope(SENDER, RECIPIENT, RECIPIENT)
    result = run([compiled], Message(mail), envelope, host)
    if result.error is not None:
        return ("run-time error",)
    found = set()
    for action in result.actions:
        match action:
            case Keep() | FileInto():
                mailbox = "INBOX" if isinstance(action, Keep) else action.mailbox
                found.add(_stored(mailbox, action.flags))
            case Redirect():
                found.add(f"redirect {action.address.lower()}")
            case Reject():
                found.add(f"reject {action.reason}")
            case Vacation():
                found.add(f"vacation {action.body.strip()}")
            case Notify():
                found.add(f"notify {' '.join(action.recipients)}")
            case _:
                pass
    return tuple(sorted(found))


def _stored(mailbox: str, flags: tuple[str, ...] | list[str]) -> str:
    return " ".join([f"store {mailbox}", *sorted({flag.lower() for flag in flags})])


_STORE = re.compile(r" \* store message in folder: (.*)")
_FLAGS = re.compile(r"\s+\+ add IMAP flags: (.*)")
_REDIRECT = re.compile(r" \* redirect message to: <(.*)>")
_REJECT = re.compile(r" \* reject message with reason: (.*)")
_NOTIFY = re.compile(r"\s+=> recipients\s*: <?([^>]*)>?|\s+\* to address : (.*)|.*<(\S+@\S+)>")


class Pigeonhole:
    """Runs sieve-test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = shutil.which("sieve-test")
        if self.program is None:
            pytest.skip("sieve-test is not installed (Debian: dovecot-sieve)")
        extensions = "+editheader +spamtest +spamtestplus +virustest +vacation-seconds +special-use"
        folder.chmod(0o777)
        user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        (folder / "dovecot.conf").write_text(
            f"mail_uid = {user.pw_uid}\nmail_gid = {user.pw_gid}\nfirst_valid_uid = 1\nssl = no\n"
            f"mail_home = {folder}/home\nmail_location = maildir:{folder}/home/Maildir\nlog_path = /dev/stderr\n"
            f"plugin {{\n sieve_extensions = {extensions}\n sieve_max_actions = 0\n}}\n"
        )

    def outcome(self, script: str, mail: bytes) -> Outcome:
        """What Pigeonhole decides."""
        source, message = self.folder / "script.sieve", self.folder / "mail.eml"
        source.write_text(script)
        message.write_bytes(mail)
        done = subprocess.run(
            [str(self.program), "-c", str(self.folder / "dovecot.conf"), "-r", RECIPIENT, "-a", RECIPIENT]
            + ["-f", SENDER, str(source), str(message)],
            capture_output=True,
            timeout=30,
            check=False,
        )
        output = done.stdout.decode("utf-8", "replace")
        errors = done.stderr.decode("utf-8", "replace")
        if "Permission denied" in errors or "Couldn't" in errors:
            pytest.skip(f"sieve-test does not run here: {errors[:200]}")
        if "failed to compile" in errors:
            return ("compile error",)
        if "final result: failed" in errors or "error:" in errors:
            return ("run-time error",)
        if "Performed actions" not in output:
            pytest.skip(f"sieve-test does not run here: {errors[:200]}")
        return _performed(output)


def _performed(output: str) -> Outcome:
    found: set[str] = set()
    lines = output.splitlines()
    for index, line in enumerate(lines):
        if store := _STORE.fullmatch(line):
            flags: list[str] = []
            for after in lines[index + 1 :]:
                if not after.lstrip().startswith("+"):
                    break
                if more := _FLAGS.fullmatch(after):
                    flags = more[1].split()
            found.add(_stored("INBOX" if store[1].upper() == "INBOX" else store[1], flags))
        elif redirect := _REDIRECT.fullmatch(line):
            found.add(f"redirect {redirect[1].lower()}")
        elif reject := _REJECT.fullmatch(line):
            found.add(f"reject {reject[1]}")
        elif line.startswith(" * send vacation message"):
            body = lines.index("START MESSAGE", index)
            found.add(f"vacation {lines[body + 1].strip()}")
        elif line.startswith(" * send notification"):
            text = "\n".join(lines[index : index + 8])
            found.add(f"notify {' '.join(re.findall(r'[a-z]+@example.net', text)[:1])}")
    return tuple(sorted(found))


@pytest.fixture(scope="module")
def pigeonhole() -> Iterator[Pigeonhole]:
    # Not pytest's folder: sieve-test drops its rights, and must still come to the files.
    with tempfile.TemporaryDirectory(prefix="pigeonhole-") as folder:
        yield Pigeonhole(Path(folder))


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_outcome(name: str, pigeonhole: Pigeonhole) -> None:
    script = REQUIRE + SCRIPTS[name] + "\n"
    wrong, differs = [], False
    for mail_name, text in MAILS.items():
        mail = text.replace("\n", "\r\n").encode()
        mine, theirs = ours(script, mail), pigeonhole.outcome(script, mail)
        differs = differs or mine != theirs
        why = DIFFERENCES.get((name, mail_name), DIFFERENCES.get((name, "*")))
        if mine != theirs and why is None:
            wrong.append(f"{mail_name}: ours {mine}, Pigeonhole's {theirs}")
        if mine == theirs and (name, mail_name) in DIFFERENCES:
            wrong.append(f"{mail_name}: no difference any more; take it out of DIFFERENCES")
    if not differs and (name, "*") in DIFFERENCES:
        wrong.append("no difference any more; take it out of DIFFERENCES")
    assert not wrong, "\n".join(wrong)
