"""comparator-i;ascii-numeric and comparator-i;unicode-casemap.

Specification: RFC 4790 section 9.1, RFC 5051. Complete: yes.
"""

from rules import comparator
from rules.registry import ComparatorSpec, Extension

_NUMERIC, _UNICODE = "comparator-i;ascii-numeric", "comparator-i;unicode-casemap"

EXTENSION = Extension(
    "comparators",
    (_NUMERIC, _UNICODE),
    dialect="RFC 4790, RFC 5051",
    comparators=(
        ComparatorSpec(
            "i;ascii-numeric",
            (_NUMERIC,),
            normal=comparator.numeric_normal,
            order=comparator.numeric_order,
            substring=False,
            same_length=False,
        ),
        ComparatorSpec(
            "i;unicode-casemap",  # usable without require too, as with Pigeonhole: it can harm nobody
            normal=comparator.unicode_casemap,
            order=comparator.unicode_casemap,
            same_length=False,
        ),
    ),
)
