"""The shape of an extension: what it announces, when, and which commands it adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filterd.imap.call import Spec
from filterd.imap.state import State

if TYPE_CHECKING:
    from filterd.imap.session import Session


@dataclass(frozen=True, slots=True)
class Extension:
    """``rfc`` for the manual. ``early``: also announced before login. ``when``: a further condition."""

    rfc: int
    names: tuple[bytes, ...]
    commands: tuple[Spec, ...] = ()
    early: bool = False
    late: bool = True
    when: Callable[[Session], bool] | None = None
    dynamic: Callable[[Session], tuple[bytes, ...]] | None = None

    def capabilities(self, session: Session) -> tuple[bytes, ...]:
        if not (self.early if session.state is State.NOT_AUTHENTICATED else self.late):
            return ()
        if self.when is not None and not self.when(session):
            return ()
        return self.names + (self.dynamic(session) if self.dynamic else ())
