"""Parameters: RFC 2045 and RFC 2231."""

import pytest

from rules.mail import limits
from rules.mail.findings import Finding
from rules.mail.params import parse, render


@pytest.mark.parametrize(
    ("value", "main", "params"),
    [
        (b"text/plain", "text/plain", {}),
        (b"  Text/PLAIN ; Charset=UTF-8", "text/plain", {"charset": "UTF-8"}),
        (b'text/plain; charset="utf-8"; format=flowed', "text/plain", {"charset": "utf-8", "format": "flowed"}),
        (b"text / html;charset = us-ascii (Plain text)", "text/html", {"charset": "us-ascii"}),
        (b"(c1) text/plain (c2); (c3) charset=x (c4); (a;b) y=z", "text/plain", {"charset": "x", "y": "z"}),
        (b'a/b; x="q\\"\\\\;"; y=1', "a/b", {"x": 'q"\\;', "y": "1"}),
        (b"attachment; filename=my file (1).txt; size=3", "attachment", {"filename": "my file (1).txt", "size": "3"}),
        (b"attachment; filename=a.txt (comment)", "attachment", {"filename": "a.txt"}),
        (b'attachment; filename="=?utf-8?q?=C3=A9.txt?="', "attachment", {"filename": "é.txt"}),
        (b'multipart/mixed; boundary="=?utf-8?q?x?="', "multipart/mixed", {"boundary": "=?utf-8?q?x?="}),
        (b'text/plain charset=utf-8 name="x y"', "text/plain", {"charset": "utf-8", "name": "x y"}),
        (b"text/plain;;; ;charset=a;", "text/plain", {"charset": "a"}),
        (b"text/plain; charset", "text/plain", {}),
        (b"text/plain; charset=", "text/plain", {"charset": ""}),
        (b'text/plain; name="open', "text/plain", {"name": "open"}),
        (b"text/plain; charset=a; charset=b", "text/plain", {"charset": "a"}),
        (b"text/plain;\r\n\tcharset=a;\n x=y", "text/plain", {"charset": "a", "x": "y"}),
        (b"", "", {}),
        (b";charset=x", "", {"charset": "x"}),
        # RFC 2231
        (b"a/b; URL*0=\"ftp://\"; URL*1=\"cs.utk.edu\"", "a/b", {"url": "ftp://cs.utk.edu"}),
        (b"a/b; title*=us-ascii'en-us'This%20is%20%2A%2A%2Afun%2A%2A%2A", "a/b", {"title": "This is ***fun***"}),
        (b"a/b; title*0*=us-ascii'en'This%20is%20even%20more%20; title*1*=%2A%2A%2Afun%2A%2A%2A%20; title*2=\"isn't it!\"",
         "a/b", {"title": "This is even more ***fun*** isn't it!"}),
        (b"a/b; t*1=b; t*0=a; t*3=d", "a/b", {"t": "ab"}),
        (b"a/b; name=plain; name*=utf-8''%C3%A9", "a/b", {"name": "é"}),
        (b"a/b; name*0*=utf-8''%C3; name*1*=%A9", "a/b", {"name": "é"}),
        (b"a/b; name*=''%C3%A9", "a/b", {"name": "é"}),
        (b"a/b; name*=broken%zz", "a/b", {"name": "broken%zz"}),
        (b"a/b; *=x; **=y; a*b=z", "a/b", {"*": "x", "**": "y", "a*b": "z"}),
    ],
)  # fmt: skip
def test_parse(value: bytes, main: str, params: dict[str, str]) -> None:
    parsed = parse(value)
    assert (parsed.value, parsed.params) == (main, params)


def test_raw_and_wire() -> None:
    parsed = parse(b'Text/X-Y; A="b"; n*0=x; n*1*=%41; m*0=1; m*1=2; A=c')
    assert parsed.main == b"Text/X-Y"
    assert parsed.raw == [
        (b"A", b"b"),
        (b"n*0", b"x"),
        (b"n*1*", b"%41"),
        (b"m*0", b"1"),
        (b"m*1", b"2"),
        (b"A", b"c"),
    ]
    assert parsed.wire == [(b"A", b"b"), (b"A", b"c"), (b"n*", b"x%41"), (b"m", b"12")]
    assert parsed.findings == {Finding.DUPLICATE_PARAMETER}


def test_limits() -> None:
    many = parse(b"a/b; " + b"; ".join(b"n*%d=x" % i for i in range(100_000)))
    assert many.params["n"] == "x" * limits.PARAMETERS
    assert Finding.PARAMETERS in many.findings
    assert Finding.UNTERMINATED in parse(b'a/b; x="').findings
    assert Finding.BAD_PARAMETER in parse(b"a/b; junk; x=y").findings


@pytest.mark.parametrize("text", ["a.txt", "a b.txt", 'q"\\', "grüße.txt", "", "日本" * 50, "a;b", "x'y%z"])
def test_render_round_trip(text: str) -> None:
    assert parse(b"attachment; " + render("filename", text)).params == {"filename": text}
