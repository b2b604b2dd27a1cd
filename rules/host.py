"""The questions a running script asks, stated as a Protocol; the layer above answers them.

Invariant: every answer is immediate (no I/O wait): facts are gathered before the run. Answers never raise;
a host that does not know says so with the neutral value documented at each method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ScriptEnvelope:
    """The SMTP envelope a script may see (RFC 5228 5.4); addresses without angle brackets, ``""`` = null path.

    ``rcpt_params``/``mail_params`` hold ESMTP parameters by upper-case name (RFC 6009: NOTIFY, ORCPT, RET, ENVID,
    BY). ``orig_to`` is the address first asked for (ORCPT or before alias expansion); ``auth`` the login name.
    """

    mail_from: str = ""
    rcpt_to: str = ""
    orig_to: str = ""
    auth: str = ""
    mail_params: Mapping[str, str] = field(default_factory=dict)
    rcpt_params: Mapping[str, str] = field(default_factory=dict)


class Host(Protocol):
    """What a script may ask of its surroundings."""

    def now(self) -> datetime:
        """The current time, aware, in the zone the account's dates are meant in."""
        ...

    def mailbox_exists(self, name: str) -> bool:
        """RFC 5490 mailboxexists: the mailbox exists and the owner may deliver into it."""
        ...

    def special_use_exists(self, mailbox: str | None, uses: Sequence[str]) -> bool:
        """RFC 8579: a mailbox (or the named one) has all of these special uses (``\\Junk``)."""
        ...

    def special_use_mailbox(self, use: str) -> str | None:
        """The mailbox that has this special use, or None."""
        ...

    def mailbox_id_exists(self, mailbox_id: str) -> bool:
        """RFC 9042 mailboxidexists."""
        ...

    def metadata(self, mailbox: str | None, name: str) -> str | None:
        """RFC 5490: an annotation of a mailbox, or of the server when mailbox is None; None when absent."""
        ...

    def seen(self, key: bytes) -> bool:
        """RFC 7352 and RFC 5230: was this key remembered, and is it not yet expired? Answers stay the same in one run."""
        ...

    def list_contains(self, list_name: str, value: str) -> bool | None:
        """RFC 6134 :list; None when there is no such list."""
        ...

    def environment(self, name: str) -> str | None:
        """RFC 5183 items (``host``, ``remote-ip``, ``vnd.filterd.spf``...); None when unknown."""
        ...

    def spam_status(self) -> tuple[float, float] | None:
        """(score, threshold) of the spam stage, None when the message was not tested (RFC 5235)."""
        ...

    def virus_status(self) -> int | None:
        """RFC 5235 virustest value 0-5, None when not tested."""
        ...

    def own_addresses(self) -> Sequence[str]:
        """Every address that reaches this account (aliases included, catch-all and groups not)."""
        ...

    def include(self, location: str, name: str) -> str | None:
        """RFC 6609: the text of an included script; location is ``personal`` or ``global``; None when absent."""
        ...

    def execute(self, program: str, arguments: Sequence[str], data: bytes) -> tuple[int, bytes] | None:
        """Run an allow-listed program: (exit status, output), a status below 0 when it was ended or could not be waited for;
        None when there is no such program or service. The one question whose answer may take time."""
        ...

    def new_message_id(self) -> str:
        """A fresh Message-ID, without angle brackets."""
        ...


Log = Callable[[str], None]
