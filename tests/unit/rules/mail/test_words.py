"""Encoded words and charsets."""

import pytest

from rules.mail import charset, limits, words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"plain", "plain"),
        (b"=?ISO-8859-1?Q?a?=", "a"),
        (b"=?ISO-8859-1?Q?a?= b", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a?=  \r\n  =?ISO-8859-2?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a_b?=", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
        (b"=?US-ASCII*EN?Q?Keith_Moore?= <x>", "Keith Moore <x>"),
        (b"=?utf-8?q?caf=C3?= =?UTF-8?b?qQ==?=", "café"),  # a character across two words
        (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
        (b"=?gb2312?B?1tDOxA==?=", "中文"),
        (b"=?utf-8?b?YWJj*ZA?=", "abcd"),  # junk and no padding
        (b"=?utf-8?b?YWJjZ?=", "abc"),
        (b"=?utf-8?q?=4?= =?utf-8?q?a=?=", "=4a="),
        (b"=?utf-8?q?a==41?=", "a=A"),
        (b"=?utf-8?q?a b\tc?=", "a b\tc"),
        (b"=?nonsense?q?=C3=A9?=", "é"),
        (b"=?rot13?q?abc?=", "abc"),
        (b"=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        (b"=?utf-8?q?never ends", "=?utf-8?q?never ends"),
        (b"=??q?a?=", "=??q?a?="),
        (b"x=?utf-8?q?a?=y", "xay"),
        ("grüße".encode(), "grüße"),
        ("grüße".encode("latin-1"), "grüße"),
        ("grüße ".encode() + b"=?utf-8?q?a?=", "grüße a"),
        (b"=?utf-8?q??=", ""),
    ],
)
def test_decode(value: bytes, expected: str) -> None:
    assert words.decode(value) == expected


def test_limit_leaves_the_rest_as_it_is() -> None:
    text = words.decode(b"=?a?q?b?=" * (limits.ENCODED_WORDS + 2))
    assert text == "b" * limits.ENCODED_WORDS + "=?a?q?b?=" * 2


@pytest.mark.parametrize(
    "text", ["", "plain", "grüße", "日本語" * 40, "a" * 2000, "=?x?q?y?=", 'q"\\x', "tab\there", "é " * 90]
)
def test_encode(text: str) -> None:
    encoded = words.encode_text(text)
    assert words.decode(encoded) == text
    assert all(len(word) <= 75 for word in encoded.split(b" ") if word.startswith(b"=?"))
    assert encoded.isascii()


def test_encode_phrase_and_injection() -> None:
    assert words.encode_phrase("John Doe") == b"John Doe"
    assert words.encode_phrase('J. "X" Doe') == b'"J. \\"X\\" Doe"'
    assert words.encode_phrase("Jörg, M.") == b"=?utf-8?q?J=C3=B6rg=2C_M=2E?="
    for text in ("a\r\nBcc: x", "ö\r\nBcc: x", "a\0b", "\ud800"):
        for made in (words.encode_text(text), words.encode_phrase(text)):
            assert not set(made) & set(b"\r\n\0")


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"\xe9", "iso-8859-1", "é"),
        (b"\xc3\xa9", "utf-8", "é"),
        (b"\xff", "utf-8", "\ufffd"),
        (b"\x93a\x94\x81", "windows-1252", "“a”\ufffd"),
        (b"\xc3\xa9", "us-ascii", "é"),
        (b"\xe9", "us-ascii", "é"),
        (b"\xe9", "x-whatever", "é"),
        (b"\xd0\xcf", "KOI8-R", "по"),
        (b"\xd6\xd0\xff", "GB2312", "中\ufffd"),
        (b"\x82\xa0", "x-sjis", "あ"),
        (b"+AOk-", "utf-7", "é"),
        (b"abc", "zip", "abc"),
        (b"abc", "", "abc"),
        (b"abc", "\0" * 500, "abc"),
        (b"a\0", "utf-16le", "a"),
    ],
)
def test_charsets(data: bytes, name: str, expected: str) -> None:
    assert charset.decode(data, name) == expected


def test_known_charsets_all_work() -> None:
    assert charset.known("UTF-8") and charset.known("ks_c_5601-1987") and charset.known("iso-8859-1*en")
    assert not charset.known("rot13") and not charset.known("unicode_escape") and not charset.known("")
    for codec, names in charset._CANONICAL:
        for name in names.split():
            assert isinstance(charset.decode(bytes(range(256)), name), str), codec
