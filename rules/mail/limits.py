"""Every bound of the message syntax, in one place.

A bound that is passed gives a Finding and the rest is left unread; it is never an error. The figures keep the worst
input near 50 ms per MB (RELIABILITY 6) and lie far above real mail: Dovecot's own MIME limits are 100 levels and
10,000 parts; no client makes more than ten levels and a few hundred parts.
"""

from typing import Final

# header.py
HEADER_FIELDS: Final = 10_000
"""Fields listed per header; those that follow are found by nobody."""
HEADER_OCTETS: Final = 1 << 20
"""A field that starts farther than this from the header's start is not listed."""

# mime.py
MIME_DEPTH: Final = 40
"""Parts inside parts, the message itself being the first. Each open multipart reads the octets once (about a ms per
MB), so this bounds the cost of boundaries that never come."""
MIME_PARTS: Final = 2_000
"""Each costs 10 to 25 microseconds, whatever it holds, and again for each reader."""
BOUNDARY_OCTETS: Final = 1_000
"""RFC 2046 5.1.1 says 70. A multipart with a longer one is not opened."""
DELIMITER_WORK: Final = 20_000
"""Comparisons of a delimiter line with an open boundary, per message (same or similar boundaries on all levels)."""

# address.py
ADDRESSES: Final = 10_000
ADDRESS_TOKENS: Final = 10_000
"""Words and specials of addresses that are not of the two usual forms; a list past it is cut off (ADDRESSES)."""
COMMENT_DEPTH: Final = 100
"""Deeper comments are still skipped rightly, with a finding."""

# params.py
PARAMETERS: Final = 1_000
MESSAGE_PARAMETERS: Final = 10_000
"""Of all parts of a message together; where they are used up, FEW_PARAMETERS of each further field are read."""
FEW_PARAMETERS: Final = 4
PARAMETER_VALUE_OCTETS: Final = 1 << 16
PARAMETER_COMMENTS: Final = 1_000

# words.py
ENCODED_WORDS: Final = 5_000
"""Encoded words decoded per value; later ones stay as they are."""

# encoding.py
BASE64_SEGMENTS: Final = 1_000
"""Padded base64 runs decoded in one body; RFC 2045 6.8 knows one."""

# date.py
DATE_OCTETS: Final = 1_000

# message.py
SEARCH_TEXT_OCTETS: Final = 64 << 20
"""Decoded octets that go into the search text of one message."""
