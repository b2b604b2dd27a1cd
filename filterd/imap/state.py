"""The states of a session and what may happen in each. Everything that moves the state is in this file.

Specification: RFC 9051 section 3.

    NOT_AUTHENTICATED --LOGIN/AUTHENTICATE--> AUTHENTICATED --SELECT/EXAMINE--> SELECTED
    SELECTED --CLOSE/UNSELECT/failed SELECT--> AUTHENTICATED --UNAUTHENTICATE--> NOT_AUTHENTICATED
    any --LOGOUT or a fatal error--> LOGOUT

A connection begins in NOT_AUTHENTICATED; nothing leads out of LOGOUT.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"
    LOGOUT = "logout"


ANY = frozenset((State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED))
BEFORE = frozenset((State.NOT_AUTHENTICATED,))
AFTER = frozenset((State.AUTHENTICATED, State.SELECTED))
SELECTED = frozenset((State.SELECTED,))

MOVES: frozenset[tuple[State, State]] = frozenset(
    (
        (State.NOT_AUTHENTICATED, State.AUTHENTICATED),
        (State.AUTHENTICATED, State.SELECTED),
        (State.SELECTED, State.SELECTED),
        (State.SELECTED, State.AUTHENTICATED),
        (State.AUTHENTICATED, State.AUTHENTICATED),
        (State.AUTHENTICATED, State.NOT_AUTHENTICATED),
        (State.SELECTED, State.NOT_AUTHENTICATED),
        (State.NOT_AUTHENTICATED, State.LOGOUT),
        (State.AUTHENTICATED, State.LOGOUT),
        (State.SELECTED, State.LOGOUT),
        (State.LOGOUT, State.LOGOUT),
    )
)


def move(old: State, new: State) -> State:
    """The new state; a move that is not in the table is a bug."""
    if (old, new) not in MOVES:
        raise AssertionError(f"no way from {old.value} to {new.value}")
    return new
