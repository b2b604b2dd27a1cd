"""What a parser noticed: broken syntax, ambiguity, or a limit that was reached.

Findings are for callers that judge (a stage, explain, the index); no parser ever raises instead. RELIABILITY 12:
ambiguous MIME is a verdict.
"""

from enum import Enum, unique
from typing import Final


@unique
class Finding(Enum):
    """One kind of oddity; the value is the word shown to people."""

    # limits (limits.py)
    HEADER_COUNT = "too many header fields"
    HEADER_SIZE = "header too large"
    DEPTH = "parts nested too deeply"
    PARTS = "too many parts"
    ADDRESSES = "too many addresses"
    COMMENT_DEPTH = "comments nested too deeply"
    PARAMETERS = "too many parameters"
    ENCODED_WORDS = "too many encoded words"

    # octets
    BARE_CR = "CR without LF"
    BARE_LF = "LF without CR"
    NUL = "NUL octet"

    # header
    GARBAGE_LINE = "line that is no header field"
    NO_BODY = "no blank line after the header"

    # structure
    UNTERMINATED = "unterminated string, comment, group or multipart"
    BAD_ADDRESS = "malformed address"
    BAD_PARAMETER = "malformed parameter"
    BAD_CONTENT_TYPE = "malformed Content-Type"
    DUPLICATE_CONTENT_TYPE = "more than one Content-Type"
    DUPLICATE_ENCODING = "more than one Content-Transfer-Encoding"
    DUPLICATE_PARAMETER = "parameter given twice"
    MISSING_BOUNDARY = "multipart without boundary"
    LONG_BOUNDARY = "boundary longer than allowed"
    NO_PARTS = "multipart without parts"
    ENCODED_COMPOSITE = "multipart or message with a transfer encoding"
    UNKNOWN_ENCODING = "unknown transfer encoding"
    BAD_BASE64 = "malformed base64"
    BAD_QUOTED_PRINTABLE = "malformed quoted-printable"
    UNKNOWN_CHARSET = "unknown charset"


NONE: Final[frozenset[Finding]] = frozenset()
