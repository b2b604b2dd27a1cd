"""subaddress: the address parts :user and :detail.

Specification: RFC 5233. Complete: yes. The delimiter is the setting ``recipient_delimiter`` ("+"); of several
characters any one divides, the first in the address counts. Without a delimiter there is no detail (not even
an empty one), and :user is the whole local part.
"""

from __future__ import annotations

from rules.registry import Extension, PartSpec


def split_detail(local: str, separators: str) -> tuple[str, str | None]:
    """The user and the detail of a local part."""
    places = [place for char in separators if (place := local.find(char)) >= 0]
    if not places:
        return local, None
    place = min(places)
    return local[:place], local[place + 1 :]


EXTENSION = Extension(
    "subaddress",
    ("subaddress",),
    dialect="RFC 5233",
    parts=(
        PartSpec("user", lambda local, domain, separator: split_detail(local, separator)[0], ("subaddress",)),
        PartSpec(
            "detail", lambda local, domain, separator: split_detail(local, separator)[1], ("subaddress",)
        ),
    ),
)
