"""Transfer encodings, the tolerant ways."""

import base64
import quopri

import pytest

from rules.mail import encoding
from rules.mail.findings import Finding


@pytest.mark.parametrize(
    ("data", "expected", "bad"),
    [
        (b"", b"", False),
        (b"YWJj\r\nZGVm\r\n", b"abcdef", False),
        (b"YQ==", b"a", False),
        (b"YWI=\n", b"ab", False),
        (b"YQ", b"a", True),
        (b"YWJjZ", b"abc", True),
        (b"YW*J-j", b"abc", True),
        (b"YQ==YWI=YWJj", b"aababc", True),
        (b"====", b"", True),
        (b"\xff\0", b"", True),
        (b"YWJj\r\n--\r\nfooter", b"abc" + base64.b64decode("footer==")[:4], True),
    ],
)
def test_base64(data: bytes, expected: bytes, bad: bool) -> None:
    octets, findings = encoding.decode(data, "base64")
    assert octets == expected
    assert (Finding.BAD_BASE64 in findings) == bad


@pytest.mark.parametrize(
    ("data", "expected", "bad"),
    [
        (b"", b"", False),
        (b"a=3D=C3=A9\r\n", b"a=\xc3\xa9\r\n", False),
        (b"soft=\r\nbreak=\nx", b"softbreakx", False),
        (b"padded \t \r\nsoft= \t\r\nx", b"padded\r\nsoftx", False),
        (b"end=", b"end", False),
        (b"a=4", b"a=4", True),
        (b"a=zz==41=", b"a=zz=A", True),
        (b"a=\rb\nc", b"a=\rb\nc", True),
        (b"lower=c3=a9", b"lower\xc3\xa9", False),
        (b"x" + b" " * 30 + b"\n" + b"\t" * 30 + b"\r\ny", b"x\n\r\ny", False),
        (b"===", b"==", True),
    ],
)
def test_quoted_printable(data: bytes, expected: bytes, bad: bool) -> None:
    octets, findings = encoding.decode(data, "quoted-printable")
    assert octets == expected
    assert (Finding.BAD_QUOTED_PRINTABLE in findings) == bad


def test_identity_and_unknown() -> None:
    assert encoding.decode(b"a\0=", "8bit") == (b"a\0=", frozenset())
    assert encoding.decode(b"a", "x-uuencode") == (b"a", frozenset((Finding.UNKNOWN_ENCODING,)))


def test_against_the_standard_library() -> None:
    octets = bytes(range(256)) * 40
    assert encoding.decode(base64.encodebytes(octets), "base64") == (octets, frozenset())
    assert encoding.decode(quopri.encodestring(octets), "quoted-printable")[0] == octets
