"""imapsieve: scripts on events of the message store.

Specification: RFC 6785. The language's part: the capability, the environment items (imap.user, imap.email,
imap.cause, imap.mailbox, imap.changedflags; empty at delivery), the message's flags as the script's flags
(``interpreter.run(flags=...)``). reject, ereject and vacation are refused by who runs the script
(``filterd/imapsieve.py``).
"""

from __future__ import annotations

from rules.registry import Extension

EXTENSION = Extension("imapsieve", ("imapsieve",), dialect="RFC 6785")
