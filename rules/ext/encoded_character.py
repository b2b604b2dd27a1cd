"""encoded-character: ``${hex:..}`` and ``${unicode:..}``; the work is in ``rules/encoded.py``, before variables.

Specification: RFC 5228 section 2.4.2.4. Complete: yes.
"""

from rules.registry import Extension

EXTENSION = Extension("encoded_character", ("encoded-character",), dialect="RFC 5228")
