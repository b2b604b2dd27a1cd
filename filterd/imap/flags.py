"""Flag masks as IMAP text, each mask rendered once."""

from __future__ import annotations

from filterd.store.base import FIRST_KEYWORD_BIT, SYSTEM_FLAGS


class FlagTable(dict[int, bytes]):
    """mask -> b"\\\\Seen $Forwarded" for one mailbox's keywords. Bits without a name are left out."""

    __slots__ = ("names",)

    def __init__(self, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.names = SYSTEM_FLAGS + keywords

    def __missing__(self, mask: int) -> bytes:
        text = " ".join(name for bit, name in enumerate(self.names) if mask >> bit & 1).encode(
            "ascii", "replace"
        )
        if len(self) < 4096:
            self[mask] = text
        return text

    def mask_of(self, flag: str) -> int:
        """The bit of a flag, any case; 0 when the mailbox does not know it."""
        wanted = flag.lower()
        for bit, name in enumerate(self.names):
            if name.lower() == wanted:
                return 1 << bit
        return 0

    def listed(self) -> bytes:
        """For the FLAGS response."""
        return " ".join(self.names).encode("ascii", "replace")


assert len(SYSTEM_FLAGS) == FIRST_KEYWORD_BIT
