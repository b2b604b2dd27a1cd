"""Alias files of sendmail and Postfix as they are found in the wild."""

import random
from collections import defaultdict
from functools import partial

import pytest

from filterd.accounts.aliasfile import Table, filled, items, logical_lines, read

ALIASES = """\
# See man 5 aliases for format
postmaster:    root
root: ann, bob@else.example
"list owner": ann
Team: ann,
   bob,
# a comment in between

   carl@else.example
nobody: /dev/null
majordomo: "|/usr/lib/majordomo/wrapper majordomo, x"
mixed: ann, |cat
escaped: \\escaped, copy@else.example
inc: :include:/lists/one
"""


def targets(table: Table, name: str) -> tuple[str, ...]:
    entry = table.find(name, "us.example")
    assert entry is not None, name
    return entry.targets


def test_sendmail_aliases() -> None:
    table = read("aliases", ALIASES, "/etc/aliases", "us.example")
    assert targets(table, "postmaster") == ("root@us.example",)
    assert targets(table, "root") == ("ann@us.example", "bob@else.example")
    assert targets(table, "list owner") == ("ann@us.example",)
    assert targets(table, "team") == ("ann@us.example", "bob@us.example", "carl@else.example")
    assert targets(table, "escaped") == ("escaped@us.example", "copy@else.example")
    found = table.find("team", "us.example")
    assert found is not None and found.source == "/etc/aliases:5"
    assert table.whole


@pytest.mark.parametrize(
    ("name", "why"),
    [("nobody", "file"), ("majordomo", "program"), ("mixed", "program"), ("inc", "alias_includes")],
)
def test_programs_and_files_refuse_the_whole_alias(name: str, why: str) -> None:
    table = read("aliases", ALIASES, "/etc/aliases", "us.example")
    entry = table.find(name, "us.example")
    assert entry is not None and entry.targets == () and why in entry.refused
    assert any(f'"{name}"' in fault.text for fault in table.faults)


def test_includes_are_followed_when_they_may() -> None:
    texts = {"/lists/one": "# people\nann\nbob@else.example, :include:/lists/two\n", "/lists/two": "carl\n"}
    table = read("aliases", ALIASES, "p", "us.example", texts.__getitem__)
    assert targets(table, "inc") == ("ann@us.example", "bob@else.example", "carl@us.example")
    texts["/lists/two"] = ":include:/lists/one"
    entry = read("aliases", ALIASES, "p", "us.example", texts.__getitem__).find("inc", "us.example")
    assert entry is not None and "too deeply" in entry.refused
    texts["/lists/two"] = "|sh"
    entry = read("aliases", ALIASES, "p", "us.example", texts.__getitem__).find("inc", "us.example")
    assert entry is not None and entry.targets == ()


def test_what_nobody_understands_is_a_fault_with_its_line() -> None:
    table = read(
        "aliases", "good: ann\nno colon here\nempty:\nann: a b@c.example\ngood: bob\n", "p", "us.example"
    )
    assert [(fault.line, fault.lost) for fault in table.faults] == [
        (2, True),
        (3, True),
        (4, True),
        (5, False),
    ]
    assert targets(table, "good") == ("ann@us.example",) and not table.whole


VIRTUAL = """\
us.example        anything
ann@us.example    ann, ann@else.example
Info@US.example   ann@us.example bob
sales@us.example\tbob@us.example,
\tcarl@else.example
@us.example       @else.example
@other.example    eve@us.example
"a b"@us.example  bob
plain             bob
"""


def test_postfix_virtual() -> None:
    table = read("hash", VIRTUAL, "v", "us.example")
    assert not table.faults
    assert targets(table, "ann") == ("ann@us.example", "ann@else.example")
    assert targets(table, "info") == ("ann@us.example", "bob@us.example")
    assert targets(table, "sales") == ("bob@us.example", "carl@else.example")
    assert targets(table, "a b") == ("bob@us.example",)
    assert targets(table, "plain") == ("bob@us.example",)
    assert table.names["@us.example"].targets == ("@else.example",)
    assert table.find("zoe", "us.example") is None


PATTERNS = r"""
# comments
/^(.*)-sales@us\.example$/   $1@us.example, log-${1}@else.example
/^list-([0-9]+)@/   lists+$(1)
if /^vip\./
/@us\.example$/    ann
endif
!/@us\.example$/   eve@else.example
/^cost-\$\/x@/     $$@us.example
"""


def test_postfix_patterns() -> None:
    table = read("regexp", PATTERNS, "r", "us.example")
    assert not table.faults
    assert targets(table, "eu-sales") == ("eu@us.example", "log-eu@else.example")
    assert targets(table, "LIST-17") == ("lists+17@us.example",)
    assert targets(table, "vip.x") == ("ann@us.example",)
    assert targets(table, "cost-$/x") == ("$@us.example",)
    assert table.find("x", "us.example") is None
    elsewhere = table.find("x", "z.example")
    assert elsewhere is not None and elsewhere.targets == ("eve@else.example",)


def test_a_part_of_an_address_makes_no_further_target() -> None:
    table = read("pcre", r"/^(.*)-x@/ $1@us.example", "r", "us.example")
    assert targets(table, "a,b@evil.example -x") == (
        "a,b@evil.example @us.example",
    )  # one, and no address of anybody


@pytest.mark.parametrize(
    "line",
    [
        r"/^(?=x)/ ann",
        r"/(a)\1/ ann",
        "/never ends ann",
        "/x/",
        "x ann",
        "endif",
        "/x/Q ann",
        "!/(x)/ $1@us.example",
        "/x/ a b:c",
        "if /x/\n/y/ ann",
        "if /(?=x)/\n/y/ ann\nendif",
    ],
)
def test_what_cannot_be_translated_is_said(line: str) -> None:
    table = read("pcre", line, "r", "us.example")
    assert not table.whole


def test_lines_and_items() -> None:
    assert list(logical_lines("a\n b\n\n#c\n d\ne\n")) == [(1, "a b d"), (6, "e")]
    assert items('a, "b, c" d,,', blanks=False) == ["a", '"b, c" d']
    assert items("a b,c", blanks=True) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="quote"):
        items('"a', blanks=False)
    assert filled("$1-${2}-$(1)-$$1-$9", ("", "x", "y")) == "x-y-x-$1-"


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["aliases", "hash", "regexp", "pcre"])
def test_any_text_gives_a_table(kind: str) -> None:
    chance = random.Random(7)
    pieces = [
        "ann", "a@b.example", "@", ":", ",", "|", "/", "$1", "${2", "\\", '"', "#", " ", "\t", "\n", "\n ", "if ", "endif", "!",
        "(", ")", "[", "*", ":include:/x", "\udcff", "\0", "é", "/x/ ann", "ann: bob", "us.example x",
    ]  # fmt: skip
    for _ in range(1_000):
        text = "".join(chance.choices(pieces, k=chance.randrange(1, 14)))
        included: defaultdict[str, str] = defaultdict(partial(str, text))
        table = read(kind, text, "p", "us.example", included.__getitem__)
        for address in ("ann", "é", "a/b"):
            found = table.find(address, "us.example")
            for target in found.targets if found is not None else ():
                target.encode()
                assert "@" in target and not any(ch.isspace() for ch in target.replace('"', "")), (
                    text,
                    target,
                )


def test_only_lf_ends_a_line() -> None:
    text = "\ufeffx: ann\r\n# page\x0c far@else.example\n# next\x85 e@else.example\n# more\u2028 f@else.example\ny: bob\x0c\n"
    table = read("aliases", text, "f", "us.example")
    assert table.names["x"].targets == ("ann@us.example",) and table.names["y"].targets == ("bob@us.example",)
    assert not table.faults and table.names["y"].source == "f:5"


def test_addresses_with_names() -> None:
    text = (
        'a: Ann Lee <ann@else.example>, "Bob, B." <bob>\nb: ann@else.example (Ann (her) Lee)\nc: "<odd>"@else.example\n'
        "d: <ann@else.example>\ne: Ann <>\n"
    )
    table = read("aliases", text, "f", "us.example")
    found = {name: entry.targets for name, entry in table.names.items()}
    assert found == {
        "a": ("ann@else.example", "bob@us.example"),
        "b": ("ann@else.example",),
        "c": ('"<odd>"@else.example',),
        "d": ("ann@else.example",),
    }
    assert [fault.line for fault in table.faults] == [5]


def test_what_is_indented_behind_an_if_does_not_count() -> None:
    """As with Postfix, which says so and goes on."""
    text = "if /^n/\n  /^n1@/ n1@us.example\n/^n2@/ n2@us.example\nendif\n/^o@/ o2@us.example\n"
    table = read("regexp", text, "f", "us.example")
    assert table.find("n1", "us.example") is None and table.find("n2", "us.example") is not None
    assert table.find("o", "us.example") is not None
    assert [(fault.line, fault.lost) for fault in table.faults] == [(1, False)]
