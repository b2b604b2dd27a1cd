"""Octets to text, by the charset names that mail uses.

Only names of the table below are believed: a name out of a message never reaches Python's codec registry,
which would import modules and knows codecs that are no charsets (zip, rot13, unicode_escape). Every decode is
linear and total: what does not decode becomes U+FFFD, an unknown charset is read as UTF-8 when it is that, else
as ISO 8859-1.
"""

import codecs
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

_CANONICAL: Final = (
    # codec, names (without "-", "_", "." and ":", lower case)
    ("utf-8", "utf8 unicode11utf8 utf8mb4 cp65001 xunknownutf8"),
    (
        "ascii",
        "usascii ascii us ansix341968 ansix341986 iso646us iso646irv1991 isoir6 ibm367 cp367 646 csascii",
    ),
    ("iso8859-1", "iso88591 latin1 l1 cp819 ibm819 isoir100 iso885911987 8859 88591 isolatin1"),
    ("iso8859-2", "iso88592 latin2 l2 isoir101 iso885921987 88592"),
    ("iso8859-3", "iso88593 latin3 l3 isoir109"),
    ("iso8859-4", "iso88594 latin4 l4 isoir110"),
    ("iso8859-5", "iso88595 cyrillic isoir144"),
    ("iso8859-6", "iso88596 arabic ecma114 asmo708 iso88596i iso88596e isoir127"),
    ("iso8859-7", "iso88597 greek greek8 ecma118 elot928 isoir126"),
    ("iso8859-8", "iso88598 hebrew iso88598i iso88598e isoir138 logical visual"),
    ("iso8859-9", "iso88599 latin5 l5 isoir148"),
    ("iso8859-10", "iso885910 latin6 l6 isoir157"),
    ("iso8859-11", "iso885911 iso8859112001 thai"),
    ("iso8859-13", "iso885913 latin7 l7"),
    ("iso8859-14", "iso885914 latin8 l8 isoceltic isoir199"),
    ("iso8859-15", "iso885915 latin9 l9"),
    ("iso8859-16", "iso885916 latin10 l10 isoir226"),
    ("cp874", "windows874 cp874 dos874 tis620"),
    ("cp1250", "windows1250 cp1250 xcp1250 1250"),
    ("cp1251", "windows1251 cp1251 xcp1251 1251 win1251"),
    ("cp1252", "windows1252 cp1252 xcp1252 1252 ansi xansi"),
    ("cp1253", "windows1253 cp1253 xcp1253 1253"),
    ("cp1254", "windows1254 cp1254 xcp1254 1254"),
    ("cp1255", "windows1255 cp1255 xcp1255 1255"),
    ("cp1256", "windows1256 cp1256 xcp1256 1256"),
    ("cp1257", "windows1257 cp1257 xcp1257 1257"),
    ("cp1258", "windows1258 cp1258 xcp1258 1258"),
    ("cp437", "ibm437 cp437 437 cspc8codepage437"),
    ("cp850", "ibm850 cp850 850 cspc850multilingual"),
    ("cp852", "ibm852 cp852 852"),
    ("cp855", "ibm855 cp855 855"),
    ("cp858", "ibm858 cp858 858 ibm00858 cp00858"),
    ("cp862", "ibm862 cp862 862"),
    ("cp866", "ibm866 cp866 866"),
    ("koi8-r", "koi8r koi8 cskoi8r"),
    ("koi8-u", "koi8u koi8ru"),
    ("mac-roman", "macintosh macroman mac xmacroman"),
    ("mac-cyrillic", "maccyrillic xmaccyrillic"),
    ("hp-roman8", "hproman8 roman8 r8"),
    (
        "gb18030",
        "gb2312 gbk gb18030 gb231280 cp936 ms936 windows936 xgbk chinese euccn xeuccn csgb2312 isoir58",
    ),
    ("hz", "hz hzgb2312 hzgb"),
    ("cp950", "big5 cnbig5 xxbig5 csbig5 cp950 ms950 windows950"),
    ("big5hkscs", "big5hkscs hkscs"),
    ("cp932", "shiftjis sjis xsjis mskanji csshiftjis cp932 ms932 windows31j cswindows31j"),
    ("euc-jp", "eucjp xeucjp ujis cseucpkdfmtjapanese"),
    ("iso2022-jp-2", "iso2022jp iso2022jp1 iso2022jp2 csiso2022jp jis cp50220 cp50221"),
    ("cp949", "euckr cp949 ms949 uhc ksc56011987 ksc5601 ksc56011989 windows949 korean cseuckr isoir149"),
    ("johab", "johab ms1361 cp1361"),
    ("iso2022-kr", "iso2022kr csiso2022kr"),
    ("utf-7", "utf7 unicode11utf7 xunicode20utf7"),
    ("utf-16", "utf16 unicode ucs2 iso10646ucs2"),
    ("utf-16-le", "utf16le"),
    ("utf-16-be", "utf16be"),
    ("utf-32", "utf32 ucs4 iso10646ucs4"),
    ("utf-32-le", "utf32le"),
    ("utf-32-be", "utf32be"),
)

_CODECS: Final[Mapping[str, str]] = MappingProxyType(
    {name: codec for codec, names in _CANONICAL for name in names.split()}
)
_STRIP: Final = str.maketrans("", "", "-_.: \"'\t")

# Codecs that have no single-octet table; decoded as a whole.
_MULTIBYTE: Final = frozenset(
    ("gb18030", "hz", "cp950", "big5hkscs", "cp932", "euc-jp", "iso2022-jp-2", "cp949", "johab", "iso2022-kr")
    + ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
)


@lru_cache(maxsize=512)
def _codec(charset: str) -> str | None:
    """The Python codec for a charset name out of a message, or None when it is not one of ours."""
    name = charset.lower()
    star = name.find("*")  # RFC 2231 5: a language suffix
    if star >= 0:
        name = name[:star]
    return _CODECS.get(name[:80].translate(_STRIP))


@lru_cache(maxsize=64)
def _table(codec: str) -> str:
    """256 characters, one per octet; undefined octets are U+FFFD, so that no error handler is ever called."""
    return bytes(range(256)).decode(codec, "replace")


def known(charset: str) -> bool:
    """Whether decode() will use this charset rather than guess."""
    return _codec(charset) is not None


def lenient(data: bytes) -> str:
    """Text of octets that have no charset: UTF-8 when valid, else ISO 8859-1 (which never fails)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode(data: bytes, charset: str) -> str:
    """Text of octets in a charset; never raises, linear."""
    codec = _codec(charset)
    if codec is None or codec == "ascii":
        return lenient(data)
    if codec == "utf-8":
        return data.decode("utf-8", "replace")  # replaced in C, without a handler call per octet
    if codec == "utf-7":
        return _decode_utf7(data)
    if codec in _MULTIBYTE:
        return data.decode(codec, "replace")
    return codecs.charmap_decode(data, "strict", _table(codec))[0]


def _decode_utf7(data: bytes) -> str:
    """UTF-7, whose error handler costs a microsecond per bad octet: a few errors, then a guess.

    Python's decoder lets lone surrogates through, which no UTF-8 can hold: they become U+FFFD like all that is bad.
    """
    pieces: list[str] = []
    for _ in range(16):
        try:
            pieces.append(data.decode("utf-7"))
            return _whole("".join(pieces))
        except UnicodeDecodeError as error:
            pieces.append(data[: error.start].decode("utf-7", "replace"))
            pieces.append("\ufffd")
            data = data[max(error.end, error.start + 1) :]
    pieces.append(lenient(data))
    return _whole("".join(pieces))


def _whole(text: str) -> str:
    """Without lone surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
