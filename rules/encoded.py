"""``${hex: 40 41}`` and ``${unicode: 2014}`` in strings.

Specification: RFC 5228 section 2.4.2.4. Decoded before variables are looked for. A malformed construct is
plain text; a well-formed one with a number that is no Unicode character is an error. Octets of hex make UTF-8
together with their neighbours; what does not is kept as the replacement character.
"""

from __future__ import annotations

import re

_BLANK = r"[ \t\r\n]"
_CONSTRUCT = re.compile(
    rf"\$\{{(?:(hex):{_BLANK}*((?:[0-9a-f]{{1,2}}{_BLANK}+)*[0-9a-f]{{1,2}}){_BLANK}*"
    rf"|(unicode):{_BLANK}*((?:[0-9a-f]+{_BLANK}+)*[0-9a-f]+){_BLANK}*)\}}",
    re.IGNORECASE,
)


def decode(text: str) -> tuple[str, str]:
    """The text with all constructs replaced, and an error text or nothing."""
    out: list[bytes] = []
    fault = ""
    last = 0
    for found in _CONSTRUCT.finditer(text):
        out.append(text[last : found.start()].encode("utf-8", "surrogatepass"))
        last = found.end()
        if found[1]:
            out.append(bytes(int(octet, 16) for octet in found[2].split()))
            continue
        for number in found[4].split():
            digits = number.lstrip("0") or "0"
            code = int(digits, 16) if len(digits) <= 6 else 0x110000
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                fault = f"{number[:20]} is not a Unicode character"
                code = 0xFFFD  # something stands there: no further fault follows from this one
            out.append(chr(code).encode())
    if last == 0:
        return text, ""
    out.append(text[last:].encode("utf-8", "surrogatepass"))
    return b"".join(out).decode("utf-8", "replace"), fault
