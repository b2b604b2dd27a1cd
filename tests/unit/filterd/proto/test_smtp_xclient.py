from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filterd.proto import smtp_parse, smtp_xclient
from filterd.proto.smtp_parse import SyntaxFault


def test_xclient() -> None:
    assert smtp_xclient.xclient(b"addr=ipv6:2001:DB8::1 name=[unavailable] login=A+2b+3Db port=25") == {
        "ADDR": "2001:db8::1",
        "NAME": "",
        "LOGIN": "A+=b",
        "PORT": "25",
    }
    assert smtp_xclient.xclient(b"ADDR=IPV6:::ffff:192.0.2.1") == {"ADDR": "192.0.2.1"}
    for bad in (
        b"",
        b"ADDR",
        b"FOO=1",
        b"ADDR=x",
        b"PORT=-1",
        b"PROTO=X",
        b"NAME=a+0D+0Ab",
        b"HELO=" + b"a" * 256,
    ):
        with pytest.raises(SyntaxFault):
            smtp_xclient.xclient(bad)
    # nginx hands on what its client said: a bad name is an unknown one, not the end of the mail
    for odd in (b"*", b"a+20b", b"x!y"):
        assert smtp_xclient.xclient(b"HELO=" + odd + b" NAME=" + odd) == {"HELO": "", "NAME": ""}


def test_xforward() -> None:
    line = b"name=spike.porcupine.org ADDR=IPV6:2001:db8::7 PORT=42 PROTO=esmtp HELO=spike IDENT=4VwX+2B1 SOURCE=remote"
    assert smtp_xclient.xforward(line) == {
        "NAME": "spike.porcupine.org",
        "ADDR": "2001:db8::7",
        "PORT": "42",
        "PROTO": "ESMTP",
        "HELO": "spike",
        "IDENT": "4VwX+1",
        "SOURCE": "REMOTE",
    }
    # XFORWARD_README: the address may be no IP address, the names no DNS names; we know nothing then
    unknown = smtp_xclient.xforward(
        b"ADDR=[TEMPUNAVAIL] NAME=[unavailable] HELO=not+20a+20name PORT=[UNAVAILABLE]"
    )
    assert unknown == {"ADDR": "", "NAME": "", "HELO": "", "PORT": ""}
    assert smtp_xclient.xforward(b"ADDR=DECnet::node") == {"ADDR": ""}


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"ADDR",
        b"LOGIN=a",
        b"PORT=70000",
        b"SOURCE=MOON",
        b"NAME=a+0D+0Ab",
        b"IDENT=a+",
        b"HELO=" + b"a" * 256,
    ],
)
def test_bad_xforward(bad: bytes) -> None:
    with pytest.raises(SyntaxFault):
        smtp_xclient.xforward(bad)


@given(st.text(min_size=1, max_size=60))
def test_what_we_write_is_read_back(text: str) -> None:
    assert smtp_parse.xtext(smtp_xclient.encoded(text)) == text.encode("utf-8", "replace").decode()


@given(st.binary(max_size=120))
def test_any_octets(argument: bytes) -> None:
    for read in (smtp_xclient.xclient, smtp_xclient.xforward):
        try:
            read(argument)
        except SyntaxFault:
            continue
